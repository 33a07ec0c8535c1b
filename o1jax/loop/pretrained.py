"""The stage that begins a run with a published model, or where another run ended.

In: a workdir, of `o1jax import` or of a finished run. Out: its last parameters, for the
stages that follow. The run's own checkpoint of the stage is a link to that one.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax

from o1jax.config import configurable
from o1jax.data.tokenizer import load
from o1jax.loop.bucket import is_bucket, open_workdir
from o1jax.loop.places import home_of, steps_of
from o1jax.loop.workdir import TRAINS_POLICY, StageRecord, Workdir
from o1jax.policy.policy import build_policy
from o1jax.types import Params

STAGE = "pretrained"
SOURCE = "source"  # folder of an imported workdir: what was beside the tensors


@configurable
@dataclass(frozen=True)
class Pretrained:
    """Parameters of an imported model, or those that another run ended with."""

    name: str = STAGE
    path: str = ""  # of the workdir; "": this one, which is an imported model's
    asks: ClassVar[bool] = False  # no questions of a task


def pretrained(run: Workdir, index: int, stage: Pretrained) -> StageRecord:
    """Takes the parameters over."""
    began = time.monotonic()
    folder = run.checkpoints(index)
    if stage.path and not folder.exists():
        there = _last(open_workdir(stage.path), stage)
        _check_words(run, stage)
        run.link(index, there)
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
            folder = (open_workdir(stage.path) if stage.path else run.path) / SOURCE
            return folder if folder.is_dir() else None
    return None


def _last(workdir: Path, stage: Pretrained) -> os.PathLike:
    """The folder of the last parameters of a workdir whose run has come to its end."""
    imported = home_of(workdir) / "checkpoints" / f"00-{STAGE}"
    if imported.is_dir() and not (workdir / "results.json").exists():
        return imported
    records = sorted(workdir.glob("stages/*.json"))
    kinds = {file.stem: json.loads(file.read_text())["kind"] for file in records}
    trained = [name for name, kind in kinds.items() if kind in TRAINS_POLICY]
    if not trained:
        raise ValueError(
            f"stage {stage.name!r}: {stage.path} is neither an imported model nor a "
            "run that trained a policy"
        )
    if not (workdir / "results.json").exists():
        raise ValueError(
            f"stage {stage.name!r}: {stage.path} has not come to its end: run it first"
        )
    last = steps_of(workdir, trained[-1])
    return last if is_bucket(last) else Path(last).resolve()


def _check_words(run: Workdir, stage: Pretrained) -> None:
    """Refuses parameters that mean other words by their numbers."""
    file = open_workdir(stage.path) / "tokenizer.model"
    if file.exists() and load(file).fingerprint != run.tokenizer.fingerprint:
        raise ValueError(
            f"stage {stage.name!r}: {stage.path} has another tokenizer: bind "
            f"TokenizerConfig.kind = 'file' and TokenizerConfig.path = '{file}'"
        )


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
