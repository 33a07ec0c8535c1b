"""`o1jax profile`: where the time of an experiment's steps goes.

In: an experiment, whose stages with steps are cut down to a few. Out: a folder with a
trace of each, for xprof (TensorBoard's profile tab), and a report: seconds of a step by
the ledger's kinds of work; what they leave is the host's.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from o1jax.config import Loaded, load
from o1jax.loop.ledger import KINDS
from o1jax.loop.run import STAGES, device
from o1jax.loop.timing import Timed, Watch, watching
from o1jax.loop.workdir import Workdir, write_json
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.types import Params

NAMES = {"train": "update"}  # of accounts, where the account's own is not the term
PROBLEMS = 16  # the most questions of a measurement


def profile(
    loaded: Loaded, folder: Path, *, steps: int, warmup: int, policy: Path | None
) -> None:
    """Runs the shortened experiment; writes results.json and traces into `folder`.

    policy: a workdir whose newest policy it begins with. An untrained one writes
    answers of another length.
    """
    experiment = loaded.experiment
    # One more than is looked at: the last step also measures and saves.
    stages = [
        shortened(stage, warmup + steps + 1)
        for stage in experiment.stages
        if hasattr(stage, "steps") or hasattr(stage, "rounds")
    ]
    if not stages:
        raise ValueError("no stage of this experiment has steps: nothing to profile")
    experiment = replace(experiment, stages=tuple(stages))
    found: dict[str, Timed] = {}
    with tempfile.TemporaryDirectory() as scratch:
        run = Workdir(experiment, Path(scratch))
        if policy is not None:
            run.params = _trained(policy, run)
        for index, stage in enumerate(stages):
            watch = Watch(warmup, steps, folder / "traces" / stage.name, run.ledger)
            with watching(watch):
                run.finish(index, STAGES[type(stage)](run, index, stage))
            if watch.timed is None:
                raise ValueError(
                    f"stage {stage.name!r} ended before {warmup} + {steps} steps: its "
                    "data are too few; lower --warmup or --steps"
                )
            found[stage.name] = watch.timed
    content = {
        "title": f"{experiment.title}: where the time goes",
        "device": device(),
        "config_fingerprint": loaded.fingerprint(),
        "seconds": sum(record.seconds for record in run.records),
        "sections": sections(found),
        "ledger": run.ledger.table(),
    }
    write_json(folder / "results.json", content)


def shortened(stage: Any, steps: int) -> Any:
    """The stage with so many steps or rounds, and little to measure besides."""
    changed: dict[str, Any] = {
        name: steps
        for name in ("steps", "rounds", "checkpoint_every")
        if hasattr(stage, name)
    }
    for name in ("probe", "held_out"):
        if (part := getattr(stage, name, None)) is not None:
            rare = {k: 0 for k in ("every", "stop_at") if hasattr(part, k)}
            few = min(part.problems, PROBLEMS)
            changed[name] = replace(part, problems=few, **rare)
    return replace(stage, **changed)


def sections(found: dict[str, Timed]) -> list[dict[str, Any]]:
    """Of the report: seconds a step by stage and kind of work, and FLOP/s."""
    kinds = [kind for kind in KINDS if any(kind in one.kinds for one in found.values())]
    names = [NAMES.get(kind, kind) for kind in kinds]
    seconds, speed = [], []
    for name, one in found.items():
        spent = [one.seconds, *map(one.kinds.get, kinds), one.host]
        spent = [None if x is None else x / one.steps for x in spent]
        seconds.append([name, one.steps, *spent])
        speed.append([name, *(_speed(one, kind) for kind in kinds)])
    return [
        {
            "name": "Seconds a step",
            "text": "Means over the steps behind the warm-up. Host: what no kind of "
            "work accounts for.",
            "table": {
                "columns": ["stage", "steps", "seconds", *names, "host"],
                "rows": seconds,
            },
            "figure": {
                "kind": "bars",
                "title": "Seconds a step",
                "categories": list(found),
                "x_label": "stage",
                "y_label": "seconds",
                "series": _series([*names, "host"], seconds),
            },
        },
        {
            "name": "FLOP/s",
            "text": "Counted FLOPs over the seconds of the same account.",
            "table": {"columns": ["stage", *names], "rows": speed},
        },
    ]


def _series(names: Sequence[str], rows: Sequence[list]) -> list[dict[str, Any]]:
    each = zip(*(row[3:] for row in rows))
    whole = lambda y: [x or 0.0 for x in y]
    return [{"label": name, "y": whole(y)} for name, y in zip(names, each)]


def _speed(one: Timed, kind: str) -> float | None:
    spent, flops = one.kinds.get(kind), one.flops.get(kind)
    return flops / spent if spent and flops else None


def _trained(path: Path, run: Workdir) -> Params:
    """The newest policy of a workdir, if it is one of this experiment's size."""
    other = Workdir(load(path / "config.gin").experiment, path)
    if other.policy_config != run.policy_config:
        raise ValueError(f"the policy of {path} is not the one of this experiment")
    return shard(other.newest_params(), TRANSFORMER_RULES, run.mesh)
