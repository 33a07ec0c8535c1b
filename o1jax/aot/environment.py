"""libtpu in a process without a TPU: where it is, and what it wants to be told.

It is an extra, for it is large. `prepare` must come before jax is imported, which reads
these variables then.
"""

import importlib.util
import os
import sys
from importlib import metadata
from pathlib import Path

from o1jax.config import ConfigError

QUIET = {  # nothing is asked of a TPU that is not there
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
MISSING = (
    "libtpu is not installed, and programs are compiled by it: "
    "pip install 'o1jax[tpu]', or set TPU_LIBRARY_PATH to a libtpu.so"
)


def library() -> Path:
    """The file libtpu.so; ConfigError says how to get it."""
    if given := os.environ.get("TPU_LIBRARY_PATH"):
        if not Path(given).is_file():
            raise ConfigError(f"TPU_LIBRARY_PATH is {given}: no such file")
        return Path(given)
    spec = importlib.util.find_spec("libtpu")
    file = Path(spec.origin).with_name("libtpu.so") if spec and spec.origin else None
    if file is None or not file.is_file():
        raise ConfigError(MISSING)
    return file


def prepare() -> None:
    """Makes this process one that compiles for TPUs and computes on its CPU."""
    path = library()
    if "jax" in sys.modules and any(os.environ.get(k) != v for k, v in QUIET.items()):
        raise RuntimeError("o1jax.aot.environment.prepare comes before jax is imported")
    os.environ.update(QUIET | {"TPU_LIBRARY_PATH": str(path)})


def libtpu_version() -> str:
    """Its version, or what tells one file from another."""
    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        path = library()
        infos = sorted(path.parent.parent.glob("libtpu-*.dist-info"))
        if infos:
            return infos[-1].name.removeprefix("libtpu-").removesuffix(".dist-info")
        return f"{path.stat().st_size} bytes"
