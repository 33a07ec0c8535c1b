"""Runs a claim: trains what it needs, runs every arm on every seed, concludes.

In: a claim, a tier, a number of seeds, and two folders. Out: results.json and every
prediction in results/CLAIM. The cache holds a workdir for each trained config, by its
fingerprint, with the predictions of the arms that were run on it; what is there is not
done again, so a run that was killed goes on, and claims share policies, at the same
time too: a process waits while another one makes what it needs.
"""

import contextlib
import fcntl
import functools
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

import o1jax
import o1jax.loop.experiment  # registers every config class
from o1jax.config import ConfigError, Loaded, check_workdir, load
from o1jax.loop.metrics import progress
from o1jax.loop.reproduce.claim import Arm, Claim, Evidence, Predictions, Tier
from o1jax.loop.reproduce.identity import digest, identity
from o1jax.loop.reproduce.predictions import read_predictions, write_predictions
from o1jax.loop.reproduce.record import conclude
from o1jax.loop.run import device, run
from o1jax.loop.workdir import Workdir, write_json
from o1jax.tasks.task import Example
from o1jax.types import Params

EXPERIMENTS = Path(o1jax.__file__).parents[1] / "experiments"
VERSION = 1  # of the way arms are run: another one makes every kept prediction stale


class Trained(NamedTuple):
    """A policy in the cache."""

    loaded: Loaded
    path: Path  # its workdir

    @property
    def seed(self) -> int:
        return self.loaded.experiment.seed

    def results(self) -> dict[str, Any]:
        """What its training measured."""
        return json.loads((self.path / "results.json").read_text())


def reproduce(
    claim: Claim, tier_name: str, *, seeds: int, results: Path, cache: Path
) -> tuple[dict[str, Any], Path]:
    """Seeds 0 ... `seeds` - 1 of a claim: (results.json, the folder that holds it).

    ConfigError for a tier that the claim has not.
    """
    if tier_name not in claim.tiers:
        known = ", ".join(claim.tiers)
        raise ConfigError(
            f"claim {claim.name} has no tier '{tier_name}'; choose from {known}"
        )
    tier = claim.tiers[tier_name]
    policies = [_policy(tier, seed, cache) for seed in range(seeds)]
    for policy in policies:
        _train(policy)
    examples = [_examples(tier, policy) for policy in policies]
    found, records = _run_arms(claim, tier, policies, examples)
    evidence = Evidence(tier, tuple(p.seed for p in policies), examples, found)
    folder = results / claim.name
    _copy_predictions(folder / "predictions", tier, policies)
    content = conclude(claim, tier_name, evidence, _trainings(policies), records)
    write_json(folder / "results.json", content)
    return content, folder


def _policy(tier: Tier, seed: int, cache: Path) -> Trained:
    """Where a seed's policy is, or will be."""
    file = EXPERIMENTS / tier.experiment
    if not file.exists():
        raise ConfigError(
            f"{file} is missing: claims need the experiments/ folder of a checkout"
        )
    loaded = load(file, [*tier.overrides, f"Experiment.seed={seed}"])
    return Trained(loaded, cache / loaded.fingerprint())


def _train(policy: Trained) -> None:
    with alone(policy.path.with_suffix(".lock")):
        check_workdir(policy.loaded, policy.path)
        if not (policy.path / "results.json").exists():
            run(policy.loaded, policy.path)


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Waits until no other process is in here with that file.

    The file stays: who removes it lets two in. A process that dies leaves at once.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _examples(tier: Tier, policy: Trained) -> list[Example]:
    """A seed's problems: its own, since the seeds of a claim are repetitions."""
    task = policy.loaded.experiment.task
    return [task.example(policy.seed, tier.split, i) for i in range(tier.problems)]


def _run_arms(
    claim: Claim, tier: Tier, policies: list[Trained], examples: list[list[Example]]
) -> tuple[dict[str, list[Predictions]], list[dict[str, Any]]]:
    """Predictions by arm, one a seed, and the record of each run of an arm."""
    found: dict[str, list[Predictions]] = {arm.name: [] for arm in tier.arms}
    records = []
    total = len(policies) * len(tier.arms)
    with progress(total, f"{claim.name}: arms x seeds") as bar:
        for policy, problems in zip(policies, examples):
            start = functools.cache(functools.partial(_start, policy))
            for arm in tier.arms:
                file = _file(policy, tier, arm)
                with alone(file.with_suffix(".lock")):
                    if not file.with_suffix(".json").exists():
                        _run_arm(start, arm, problems, file)
                record = json.loads(file.with_suffix(".json").read_text())
                predicted = read_predictions(file, problems, record["facts"])
                found[arm.name].append(predicted)
                records.append({**record, "arm": arm.name, "seed": policy.seed})
                right = float((predicted.right / predicted.samples).mean())
                bar.advance(metrics={"seed": policy.seed, arm.name: right})
    return found, records


def _start(policy: Trained) -> tuple[Workdir, Params]:
    workdir = Workdir(policy.loaded.experiment, policy.path)
    return workdir, workdir.newest_params()


def _run_arm(start: Any, arm: Arm, problems: list[Example], file: Path) -> None:
    """The record is written last: with it, the predictions beside it are complete."""
    workdir, params = start()
    key = jax.random.fold_in(workdir.key, 2)  # training and evaluation used 0 and 1
    began = time.monotonic()
    predicted = arm.run(workdir, params, key, problems, arm.method)
    seconds = time.monotonic() - began
    write_predictions(file, problems, predicted)
    record = {
        "method": identity(arm.method),
        "seconds": seconds,
        "device": device(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "facts": dict(predicted.facts),
    }
    write_json(file.with_suffix(".json"), record)


def _file(policy: Trained, tier: Tier, arm: Arm) -> Path:
    """The predictions of an arm on a policy, by all that they depend on."""
    name = digest((VERSION, arm.place, arm.method, tier.split, tier.problems))
    return policy.path / "arms" / f"{name}.jsonl"


def _trainings(policies: list[Trained]) -> list[Mapping[str, Any]]:
    return [{**policy.results(), "seed": policy.seed} for policy in policies]


def _copy_predictions(folder: Path, tier: Tier, policies: list[Trained]) -> None:
    """Of this run and no other: an earlier one may have had other arms and seeds."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for policy in policies:
        for arm in tier.arms:
            target = folder / f"{policy.seed}-{arm.name}.jsonl"
            shutil.copyfile(_file(policy, tier, arm), target)
