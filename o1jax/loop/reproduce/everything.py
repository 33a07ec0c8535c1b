"""Every claim in one go, each in a process of its own.

In: a tier, seeds, folders, and how many claims at a time. Out: what each one came to, a
log of each in cache/logs/, and all.json beside the results, which the page of all
claims shows. What is in the cache is not done again, so a run that was killed goes on;
two claims that need the same policy or arm wait for each other (runner.alone).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from o1jax.config import ConfigError
from o1jax.loop.metrics import progress
from o1jax.loop.reproduce.claim import Claim
from o1jax.loop.workdir import write_json

COMMAND = (sys.executable, "-m", "o1jax", "reproduce")  # of one claim
RUN = "all.json"
LOOK = 0.2  # seconds between two looks at the processes


class Outcome(NamedTuple):
    """A claim that came to its end."""

    claim: str
    said: str  # the verdict's last line, or what went wrong
    seconds: float  # by the clock
    ended_well: bool


class _Job(NamedTuple):
    claim: str
    process: subprocess.Popen
    log: Path
    began: float


def reproduce_all(
    claims: Mapping[str, Claim],
    tier: str,
    *,
    seeds: int,
    jobs: int,
    results: Path,
    cache: Path,
    command: Sequence[str] = COMMAND,
) -> Iterator[Outcome]:
    """Runs all claims that have the tier, `jobs` at a time, longest first.

    A claim that fails ends none of the others. ConfigError if none has the tier.
    """
    names = [name for name, claim in claims.items() if tier in claim.tiers]
    if not names:
        known = sorted({name for claim in claims.values() for name in claim.tiers})
        raise ConfigError(f"no claim has tier '{tier}'; choose from {', '.join(known)}")
    names.sort(key=lambda name: -_recorded(results / name / "results.json"))
    record = _Record(results / RUN, tier, seeds, len(names))
    options = ["--tier", tier, "--seeds", seeds, "--results", results, "--cache", cache]
    waiting, running = list(names), dict[int, _Job]()
    with progress(len(names), "claims") as bar:
        try:
            while waiting or running:
                while waiting and (free := set(range(jobs)) - running.keys()):
                    place, name = min(free), waiting.pop(0)
                    line = [*command, name, *options]
                    log = cache / "logs" / f"{name}.txt"
                    running[place] = _start(line, name, log, _cores(place, jobs))
                time.sleep(LOOK)
                record.tick()
                for place, job in list(running.items()):
                    if job.process.poll() is not None:
                        del running[place]
                        outcome = _outcome(job)
                        record.add(outcome)
                        bar.advance()
                        yield outcome
        finally:  # whoever stopped this one stops what it started
            for job in running.values():
                job.process.terminate()
            for job in running.values():
                job.process.wait()


def _start(line: Sequence[Any], name: str, log: Path, cores: set[int]) -> _Job:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in line], stdout=out, stderr=subprocess.STDOUT
        )
    if cores:  # before it has loaded XLA, which has a thread for each
        os.sched_setaffinity(process.pid, cores)
    return _Job(name, process, log, time.monotonic())


def _cores(place: int, jobs: int) -> set[int]:
    """The share of the cores that a job has; none where it has all of them."""
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):
        return set()
    own = sorted(os.sched_getaffinity(0))
    return set(own[place::jobs]) or set(own)


def _outcome(job: _Job) -> Outcome:
    """Its last word: an error is one line, the verdict's last line says the claim."""
    lines = [x for x in job.log.read_text(errors="replace").splitlines() if x.strip()]
    well = job.process.returncode == 0
    wanted = f"{job.claim}: " if well else ""
    said = next((x for x in reversed(lines) if x.startswith(wanted)), "no word")
    if not well:
        said = f"{job.claim}: {said.removeprefix('o1jax: error: ')} (see {job.log})"
    return Outcome(job.claim, said, time.monotonic() - job.began, well)


def _recorded(file: Path) -> float:
    """Seconds that a claim took when it was last run; 0 if it never was."""
    return json.loads(file.read_text())["seconds"] if file.exists() else 0.0


class _Record:
    """all.json: when it is killed and started again, the clock goes on."""

    def __init__(self, file: Path, tier: str, seeds: int, count: int) -> None:
        self._file, self._last = file, time.monotonic()
        command = f"o1jax reproduce --all --tier {tier} --seeds {seeds}"
        self._content: dict[str, Any] = {
            "command": command,
            "of": count,
            "cores": _available(),
            "seconds": 0.0,
            "longest": 0.0,  # of such runs: a later one finds most of it in the cache
            "claims": {},
        }
        if file.exists():
            before = json.loads(file.read_text())
            whole = len(before["claims"]) == before["of"]
            if before["command"] == command:
                kept = ("longest",) if whole else ("longest", "seconds", "claims")
                self._content |= {x: before[x] for x in kept}
        write_json(file, self._content)

    def tick(self, every: float = 30.0) -> None:
        """Counts the time that went by, and writes it now and then."""
        if time.monotonic() - self._last >= every:
            self._write()

    def add(self, outcome: Outcome) -> None:
        """A claim that came to its end counts as done if it ended well."""
        if outcome.ended_well:
            self._content["claims"][outcome.claim] = outcome.seconds
        self._write()

    def _write(self) -> None:
        now, content = time.monotonic(), self._content
        content["seconds"] += now - self._last
        content["longest"] = max(content["longest"], content["seconds"])
        self._last = now
        write_json(self._file, self._content)


def _available() -> int:
    count = getattr(os, "sched_getaffinity", None)
    return len(count(0)) if count else os.cpu_count() or 1
