"""Experiments checked against a slice: every program, whether it fits, what bounds it.

In: experiment files and the name of a slice. Out: a Report for each program, as it is
compiled, and notes on what was left out.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from o1jax.aot.chips import Topology
from o1jax.aot.compile import Report, as_on_tpu, check, mesh_text
from o1jax.config import ConfigError, load
from o1jax.loop.decoding_programs import Program
from o1jax.loop.planned import Plan
from o1jax.loop.programs import NotCovered, programs


class Checked(NamedTuple):
    """An experiment on a slice."""

    file: str
    title: str
    topology: str
    layout: str  # of training, and of decoding where it has its own
    parameters: int  # of the policy
    layers: int
    reports: list[Report]
    notes: list[str]  # programs that were not looked at

    @property
    def fits(self) -> bool:
        """Whether all that was compiled fits."""
        return all(report.fits is not False for report in self.reports)

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {
            "reports": [report.to_json() for report in self.reports]
        }


def check_file(
    file: str,
    where: Topology,
    *,
    overrides: Sequence[str] = (),
    everything: bool = False,
    layers: int = 0,
    done: Callable[[Report], None] = lambda report: None,
) -> Checked:
    """Checks all programs of an experiment file; `done` is told of each.

    everything: smaller variants of a program too. layers: of the policy, 0: its own.
    ConfigError in one line for a mesh or a batch that the slice cannot share out.
    """
    import o1jax.loop.experiment  # noqa: F401  registers every config class

    experiment = load(file, overrides).experiment
    if layers:
        experiment = replace(
            experiment, policy=replace(experiment.policy, layers=layers)
        )
    devices = slice_devices(where)
    with tempfile.TemporaryDirectory() as folder, as_on_tpu(), _one_line(file):
        run = Plan(experiment, devices, Path(folder))
        shapes = jax.tree.leaves(run.current_params())
        notes, wanted = [], []
        for program in programs(run):
            if isinstance(program, NotCovered):
                notes.append(str(program))
            elif program.main or everything:
                wanted.append(program)
            else:
                notes.append(f"{program.label}: a smaller variant, --all checks it too")
    reports = []
    for program in wanted:
        reports.append(check(file, program, where))
        done(reports[-1])
    return Checked(
        file=file,
        title=experiment.title,
        topology=where.name,
        layout=_layout(run, wanted),
        parameters=sum(x.size for x in shapes),
        layers=experiment.policy.layers,
        reports=reports,
        notes=notes,
    )


def slice_devices(where: Topology) -> Sequence[Any]:
    """The devices of a slice that is not there; ConfigError if libtpu knows none."""
    try:
        found = topologies.get_topology_desc(where.name, platform="tpu")
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"topology {where.name}: {reason}") from error
    return found.devices


def _layout(run: Plan, wanted: Sequence[Program]) -> str:
    train = mesh_text(run.mesh.shape)
    others = [p.mesh for p in wanted if p.mesh != run.mesh]
    return f"{train}, decode {mesh_text(others[0].shape)}" if others else train


@contextlib.contextmanager
def _one_line(file: str) -> Iterator[None]:
    """What does not divide, told with the file."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
