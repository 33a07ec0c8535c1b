"""Published models in and out: a folder of safetensors or GGUF, and a workdir.

In: a model's folder, or the workdir of any run. Out: a workdir with one checkpoint and
a config.gin to ask, inspect and train from; or a folder that transformers loads, with
the bytes of each tensor as they were. Both take a tensor at a time.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from o1jax.config import check_workdir, load
from o1jax.loop import manifest
from o1jax.loop.bucket import is_bucket
from o1jax.loop.checkpoint_read import STEP_NAMES, steps_in
from o1jax.loop.model_text import text_bindings, tokenizer
from o1jax.loop.pretrained import SOURCE, STAGE, source_of
from o1jax.loop.streamed import Leaf, Pieces, reader, write_params
from o1jax.loop.workdir import Workdir
from o1jax.models.configs import plain_config
from o1jax.models.mapping import HEADS, Piece, pieces
from o1jax.models.safetensors import DTYPES, NAMES, Planned, Tensor, write_folder
from o1jax.models.source import KEPT, Source, open_source
from o1jax.policy.policy import PolicyConfig

# (what, bytes in all) -> a context that gives what to call with the bytes done
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

OWN = {"float32": DTYPES["F32"], "bfloat16": DTYPES["BF16"]}  # besides "source"
PART = 5 << 30  # bytes of an exported file, at most


def import_model(
    place: Path, workdir: Path, *, dtype: str = "source", progress: Progress
) -> Source:
    """Makes `workdir` of the model at `place`. ValueError says why it can't.

    dtype: of the parameters; "source" keeps each as it is. The workdir appears when it
    is complete.
    """
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise ValueError(f"{workdir} is not empty: choose a fresh folder")
    source = open_source(place)
    _check_tied(source)
    made = workdir.absolute().with_name(f".{workdir.name}.partial")
    shutil.rmtree(made, ignore_errors=True)  # of an import that was stopped
    made.mkdir(parents=True)
    wanted = [piece for piece in pieces(source.policy)]
    leaves = _leaves(wanted, source, dtype)
    total = sum(tensor.nbytes for tensor in source.tensors.values())
    with progress(f"importing {place.name}", total) as advance:
        write_params(
            made / "checkpoints" / f"00-{STAGE}",
            leaves,
            lambda: _read(wanted, leaves, source.tensors, advance),
        )
    _keep(source, made)
    policy = list(_bindings("PolicyConfig", source.policy, PolicyConfig(vocab=1)))
    text = list(text_bindings(source, made))
    (made / "policy.gin").write_text("".join([*policy, *tokenizer(source, workdir)]))
    experiment = [
        f"Experiment.title = {place.name!r}\n",
        f"Experiment.stages = (@{STAGE}/Pretrained(),)\n",
        f"{STAGE}/Pretrained.name = {STAGE!r}\n",
        *policy,
        *text,
    ]
    file = made / "import.gin"
    file.write_text("".join(experiment))
    import o1jax.loop.experiment  # noqa: F401  registers every config class

    check_workdir(load(file), made)
    file.unlink()
    if workdir.exists():
        workdir.rmdir()
    made.rename(workdir)
    return source


def export_model(
    workdir: Path,
    folder: Path,
    *,
    dtype: str = "source",
    part: int = PART,
    progress: Progress,
) -> None:
    """Writes the newest policy of a run as safetensors with a config.json.

    dtype: "source" gives each tensor the type that it was imported with, or has here.
    Heads of ours are left out.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty: choose a fresh folder")
    import o1jax.loop.experiment  # noqa: F401  registers every config class

    run = Workdir(load(workdir / "config.gin").experiment, workdir)
    step, source = _newest(run), source_of(run)
    config = run.experiment.policy if run.experiment.policy.vocab else run.policy_config
    of_leaf: dict[str, list[Piece]] = {}
    for piece in pieces(config):
        of_leaf.setdefault(piece.leaf, []).append(piece)
    # By parameter: a checkpoint of a run has all its layers in one chunk.
    wanted = [piece for same in of_leaf.values() for piece in same]
    made = folder.absolute().with_name(f".{folder.name}.partial")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    with reader(step) as read:
        stored = lambda p: np.dtype(read(p.leaf, p.layer).dtype)
        own = {leaf: stored(same[0]) for leaf, same in of_leaf.items()}
        before = json.loads((source / "dtypes.json").read_text()) if source else {}
        planned = []
        for piece in wanted:
            for name, shape in piece.tensors:
                kept = DTYPES[before[name]] if name in before else own[piece.leaf]
                planned.append(Planned(name, shape, OWN.get(dtype, kept)))
        types = iter(planned)
        with progress(
            f"exporting {workdir.name}", sum(t.nbytes for t in planned)
        ) as done:

            def tensors() -> Iterator[np.ndarray]:
                for piece in wanted:
                    for array in piece.split(read(piece.leaf, piece.layer)):
                        tensor = next(types)
                        done(tensor.nbytes)
                        yield array.astype(tensor.dtype, copy=False)

            write_folder(made, planned, tensors(), most=part)
    described = json.loads((source / "config.json").read_text()) if source else None
    described = described or plain_config(config)
    if dtype in OWN or source is None:
        described["torch_dtype"] = str(planned[0].dtype)
    (made / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    for file in sorted(source.iterdir()) if source else ():
        if file.name in KEPT:
            shutil.copyfile(file, made / file.name)
    if source is None and (workdir / "tokenizer.model").exists():
        shutil.copyfile(workdir / "tokenizer.model", made / "tokenizer.model")
    if folder.exists():
        folder.rmdir()
    made.rename(folder)


def _check_tied(source: Source) -> None:
    """A tied model may carry its output weights again, if they are the same."""
    output = source.tensors.get("lm_head.weight")
    if source.policy.tied and output is not None:
        embedding = source.tensors["model.embed_tokens.weight"].read()
        if not np.array_equal(output.read(), embedding):
            raise ValueError(
                f"{source.place}: lm_head.weight differs from the embedding, but "
                "config.json says that they are tied (tie_word_embeddings)"
            )


def _leaves(wanted: Sequence[Piece], source: Source, dtype: str) -> dict[str, Leaf]:
    """What the checkpoint holds, our own heads included."""
    leaves: dict[str, Leaf] = {}
    layers = source.policy.layers
    for piece in wanted:
        types = [source.tensors[name].dtype for name, _ in piece.tensors]
        if piece.leaf in leaves:
            types.append(leaves[piece.leaf].dtype)
        # Tensors of several types become the one that holds them all.
        kept = functools.reduce(jnp.promote_types, types)
        layered = piece.layer is not None
        shape = (layers, *piece.shape) if layered else piece.shape
        leaves[piece.leaf] = Leaf(shape, np.dtype(OWN.get(dtype, kept)), layered)
    for head in HEADS:
        leaves[f"{head}/kernel"] = Leaf((source.policy.width, 1), OWN["float32"])
        leaves[f"{head}/bias"] = Leaf((1,), OWN["float32"])
    return leaves


def _read(
    wanted: Sequence[Piece],
    leaves: Mapping[str, Leaf],
    tensors: Mapping[str, Tensor],
    advance: Callable[[int], None],
) -> Pieces:
    """Pieces of the parameters, a few tensors in memory at a time."""
    for piece in wanted:
        of = [tensors[name] for name, _ in piece.tensors]
        dtype = leaves[piece.leaf].dtype
        parts = [tensor.read().astype(dtype, copy=False) for tensor in of]
        yield piece.leaf, piece.layer, piece.join(parts)
        advance(sum(tensor.nbytes for tensor in of))
    for path, leaf in leaves.items():
        if path.split("/")[0] in HEADS:
            yield path, None, np.zeros(leaf.shape, leaf.dtype)


def _keep(source: Source, workdir: Path) -> None:
    """Writes what an export gives back as it was."""
    kept = workdir / SOURCE
    kept.mkdir()
    (kept / "config.json").write_text(json.dumps(source.config, indent=2) + "\n")
    types = {name: NAMES[tensor.dtype] for name, tensor in source.tensors.items()}
    (kept / "dtypes.json").write_text(json.dumps(types))
    for name, content in source.files.items():
        (kept / name).write_bytes(content)


def _bindings(name: str, config: Any, default: Any) -> Iterator[str]:
    """gin lines of the fields that are not as by default."""
    for field in fields(config):
        value = getattr(config, field.name)
        if value == getattr(default, field.name):
            continue
        if is_dataclass(value):
            inner = type(value)
            yield f"{name}.{field.name} = @{inner.__name__}()\n"
            yield from _bindings(inner.__name__, value, inner())
        else:
            yield f"{name}.{field.name} = {value!r}\n"


def _newest(run: Workdir) -> os.PathLike:
    """The newest step of a run's policy. ValueError if it is missing or broken."""
    for index in reversed(range(len(run.experiment.stages))):
        folder = run.checkpoints(index)
        if steps := steps_in(folder):
            step = folder / STEP_NAMES.build_name(steps[0])
            if not is_bucket(step) and (damaged := manifest.damage(step)):
                raise ValueError(f"{step} is broken: {damaged}")
            return step
    raise ValueError(f"{run.home} holds no checkpoint yet: run it first")
