"""The stage that begins a run with a published model.

In: a workdir that `o1jax import` made. Out: its parameters, for the stages that follow.
The run's own checkpoint of the stage is a link to the imported one.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax

from o1jax.config import configurable
from o1jax.loop.workdir import StageRecord, Workdir
from o1jax.policy.policy import build_policy
from o1jax.types import Params

STAGE = "pretrained"
SOURCE = "source"  # folder of an imported workdir: what was beside the tensors


@configurable
@dataclass(frozen=True)
class Pretrained:
    """Parameters of an imported model."""

    name: str = STAGE
    path: str = ""  # of the workdir; "": this one
    asks: ClassVar[bool] = False  # no questions of a task


def pretrained(run: Workdir, index: int, stage: Pretrained) -> StageRecord:
    """Takes the parameters over."""
    began = time.monotonic()
    folder = run.checkpoints(index)
    if stage.path and not folder.exists():
        there = Path(stage.path) / "checkpoints" / f"00-{STAGE}"
        if not there.is_dir():
            raise ValueError(f"stage {stage.name!r}: {stage.path} is no imported model")
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(there.absolute(), target_is_directory=True)
    params = run.stage_params(index)
    _check(run, stage, params)
    run.params = params
    return StageRecord(
        name=stage.name,
        kind=STAGE,
        steps=0,
        seconds=time.monotonic() - began,
        ledger=run.ledger.state(),
        results={"parameters": sum(x.size for x in jax.tree.leaves(params))},
        sections=[],
    )


def source_of(run: Workdir) -> Path | None:
    """The folder of the published model that a run began with, or None."""
    for stage in run.experiment.stages:
        if isinstance(stage, Pretrained):
            folder = (Path(stage.path) if stage.path else run.path) / SOURCE
            return folder if folder.is_dir() else None
    return None


def _check(run: Workdir, stage: Pretrained, params: Params) -> None:
    """ValueError names the first parameter that the run's policy has otherwise."""
    wanted = jax.eval_shape(build_policy(run.policy_config).init, run.key)
    shapes = lambda tree: {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    here, there = shapes(wanted), shapes(params)
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            raise ValueError(
                f"stage {stage.name!r}: {name} is {there.get(name, 'absent')} in the "
                f"model and {here.get(name, 'absent')} in PolicyConfig: include the "
                "policy.gin of the imported workdir"
            )
