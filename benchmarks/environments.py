"""The peers' own virtual environments, so that they never touch the project's.

`ensure` makes an environment once and stamps it with what was asked for; a changed
request makes it anew. Nothing but the standard library is used.
"""

import json
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path


class SetupError(RuntimeError):
    """An environment could not be made; one line says which and where the log is."""


def requests() -> dict[str, list[list[str]]]:
    """The pip calls of each environment, in order.

    torch goes first and is named again, so that nothing newer is pulled in. tunix comes
    without its dependencies, of which its sampler and its GRPO need a few; jax and flax
    are those that o1jax is measured with.
    """
    same = [f"{name}=={metadata.version(name)}" for name in ("jax", "flax")]
    torch = "torch==2.13.0"
    transformers = "transformers==5.23.0"
    trl = ["trl==1.16.0", "accelerate==1.15.0", "datasets==5.2.0"]
    sampler_needs = ["jaxtyping", "pillow", "sentencepiece", "huggingface_hub"]
    grpo_needs = ["google-metrax==0.2.4"]
    return {
        "transformers": [[torch], [transformers, torch, *trl]],
        "tunix": [
            ["--no-deps", "google-tunix==0.1.7"],
            [*same, *sampler_needs, *grpo_needs, "safetensors<0.8"],
        ],
        # Of the series that jax 0.10.2 asks for.
        "tpu": [["--no-deps", "libtpu==0.0.42.1"]],
    }


def ensure(name: str, root: Path) -> Path:
    """The Python of environment `name` under `root`, made if it is not there."""
    folder, calls = root / name, requests()[name]
    python, stamp = folder / "bin" / "python", folder / "ready.json"
    wanted = json.dumps([sys.version_info[:2], calls])
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"setting up {folder} (once) ...", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    log = root / f"{name}.log"
    with log.open("w") as out:
        for arguments in calls:
            command = [str(python), "-m", "pip", "install", *arguments]
            if subprocess.run(command, stdout=out, stderr=out).returncode:
                raise SetupError(
                    f"could not install {' '.join(arguments)} into {folder}: see {log}"
                )
    stamp.write_text(wanted)
    return python
