"""`o1jax inspect` on a checkpoint of 7B parameters: seconds and peak memory.

    python benchmarks/inspect_7b.py [--keep DIR] [--only REGEX]

Writes what training 7B parameters with Adam on 256 devices (fsdp=64 tensor=4) would
write, 81 GB in f32, in orbax's format: zarr2 in OCDBT, a chunk a shard. All chunks of
an array hold the same numbers, which repeat every 256 kB, so that it takes little time
and disk; each is decoded to its full size all the same. Then it runs the command in
processes of its own. `--only` restricts what --stats and --diff read.
"""

import argparse
import base64
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorstore as ts

LAYERS, WIDTH, HEADS, FF, VOCAB = 32, 4096, 32, 11008, 32000
HEAD = WIDTH // HEADS
MESH = {"data": 1, "fsdp": 64, "tensor": 4}
PARAMS = {  # as parallel/sharding.py lays them out
    "embed.embedding": ((VOCAB, WIDTH), ("tensor", "fsdp")),
    "final_norm.scale": ((WIDTH,), ()),
    "layers.attention.o": (
        (LAYERS, HEADS, 1, HEAD, WIDTH),
        (None, "tensor", None, None, "fsdp"),
    ),
    "layers.attention.qkv": (
        (LAYERS, WIDTH, HEADS, 3, HEAD),
        (None, "fsdp", "tensor", None, None),
    ),
    "layers.attention_norm.scale": ((LAYERS, WIDTH), ()),
    "layers.mlp.down": ((LAYERS, FF, WIDTH), (None, "tensor", "fsdp")),
    "layers.mlp.gate_up": ((LAYERS, WIDTH, 2, FF), (None, "fsdp", None, "tensor")),
    "layers.mlp_norm.scale": ((LAYERS, WIDTH), ()),
    "unembed.kernel": ((WIDTH, VOCAB), ("fsdp", "tensor")),
}
CONTEXT = ts.Context({"file_io_sync": False})  # nobody will miss the file
ROOTS = {"params": 0.02, "opt_state.1.0.mu": 1e-4, "opt_state.1.0.nu": 1e-8}


def write(step: Path) -> int:
    """Write the checkpoint; returns its bytes in memory."""
    state = step / "state"
    state.mkdir(parents=True)
    tile = np.random.default_rng(0).standard_normal(1 << 16, np.float32)
    tree, shardings, total = {}, {}, 0
    for root, scale in ROOTS.items():
        for name, (shape, spec) in PARAMS.items():
            full = f"{root}.{name}"
            chunk = [
                n // MESH[axis] if axis else n
                for n, axis in zip(shape, [*spec, *[None] * len(shape)])
            ]
            _write_array(state, full, shape, chunk, tile * np.float32(scale))
            keys = [{"key": key, "key_type": 2} for key in full.split(".")]
            tree[str(tuple(full.split(".")))] = {
                "key_metadata": keys,
                "value_metadata": {"value_type": "jax.Array"},
            }
            shardings[base64.b64encode(full.encode()).decode()] = json.dumps(
                {
                    "sharding_type": "NamedSharding",
                    "shape": list(MESH.values()),
                    "axis_names": list(MESH),
                    "partition_spec": spec,
                }
            )
            total += 4 * math.prod(shape)
    options = {"use_ocdbt": True, "use_zarr3": False}
    (state / "_METADATA").write_text(json.dumps({"tree_metadata": tree, **options}))
    (state / "_sharding").write_text(json.dumps(shardings))
    stamp = {"item_handlers": {"state": "PyTree"}, "commit_timestamp_nsecs": 10**18}
    (step / "_CHECKPOINT_METADATA").write_text(json.dumps(stamp))
    return total


def _write_array(state, name, shape, chunk, tile):
    """Write an array: metadata, and one encoded chunk under the keys of all."""
    metadata = {
        "shape": shape,
        "chunks": chunk,
        "dtype": "<f4",
        "compressor": {"id": "zstd", "level": 1},
        "dimension_separator": ".",
    }
    small = {**metadata, "shape": chunk}
    spec = {"driver": "zarr", "kvstore": "memory://", "metadata": small}
    one = ts.open(spec, create=True, context=ts.Context()).result()
    one.write(np.resize(tile, chunk)).result()
    values = dict(zip(one.kvstore.list().result(), [None] * 2))
    del values[b".zarray"]
    encoded = one.kvstore[next(iter(values))]
    store = ts.KvStore.open(
        {"driver": "ocdbt", "base": f"file://{state}/"}, context=CONTEXT
    ).result()
    document = {"zarr_format": 2, "order": "C", "filters": None, "fill_value": None}
    keys = [
        ".".join(map(str, index)) or "0"
        for index in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunk)))
    ]
    with ts.Transaction() as transaction:
        into = store.with_transaction(transaction)
        into[f"{name}/.zarray"] = json.dumps(metadata | document)
        for key in keys:
            into[f"{name}/{key}"] = encoded


def measure(*options):
    """(seconds, seconds of CPU, peak GiB) of the command, Python's start included."""
    command = [sys.executable, "-m", "o1jax", "inspect", *map(str, options)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - begun, cpu, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="where to leave the checkpoint")
    parser.add_argument("--only", default="", help="arrays that --stats reads")
    args = parser.parse_args()
    folder = Path(args.keep or tempfile.mkdtemp(prefix="inspect-7b-"))
    try:
        step = folder / "000100"
        if not step.exists():
            begun = time.perf_counter()
            total = write(step)
            print(f"wrote {total / 1e9:.1f} GB in {time.perf_counter() - begun:.0f} s")
        for label, repeats, options in (
            ("metadata", 5, []),
            ("--json", 5, ["--json"]),
            ("--stats", 1, ["--stats", "--only", args.only]),
            (
                "--diff, parameters",
                1,
                ["--diff", step, "--only", args.only or "params"],
            ),
        ):
            runs = [measure(step, *options) for _ in range(repeats)]
            seconds, cpu, peak = sorted(runs)[repeats // 2]
            print(
                f"{label:20} {seconds:8.2f} s, {cpu:8.2f} s of CPU, {peak:5.2f} GiB",
                flush=True,
            )
    finally:
        if args.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
