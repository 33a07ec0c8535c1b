"""What the steps of sampled traces leave within reach, for all of a task's goals.

In: labelled traces of a task that has `goals` and `reach`. Out: GoalLabels, which teach
a reward model of read-out goal what each step means for every question that could have
been asked of it.
"""

from typing import Any

import jax
import numpy as np

from o1jax.loop.traces import Traces
from o1jax.loop.workdir import Workdir
from o1jax.reward.goals import GoalLabels, pack_goals
from o1jax.tasks.task import Task
from o1jax.types import StepLabels


def goal_labels(
    run: Workdir, traces: Traces, labels: StepLabels, task: Task
) -> GoalLabels:
    """Numpy; a row a trace with any weight."""
    parse = run.experiment.template.parse
    shape = (len(traces.texts), int(traces.steps.max()), len(task.goals))
    reach = np.zeros(shape, bool)
    for r, (example, text) in enumerate(zip(traces.examples, traces.texts)):
        steps = parse(text)[0]
        for j in range(len(steps)):
            reach[r, j] = task.reach(example, steps[: j + 1])
            if not reach[r, j].any():
                break  # nothing comes within reach again
    kept = np.asarray(labels.weight).any(axis=1)
    rows = GoalLabels(labels=labels, reach=pack_goals(reach))
    return jax.tree.map(lambda x: np.asarray(x)[kept], rows)


def goal_ids(run: Workdir, config: Any) -> tuple[int, ...]:
    """The token of each goal of a stage's task. ValueError if it has none."""
    task = run.task(config)
    if not hasattr(task, "reach"):
        raise ValueError(
            f"stage {config.name!r}: learns 'goals' needs a task that knows what a "
            f"step leaves within reach, which {task.name} does not"
        )
    return tuple(map(run.tokenizer.id_of, task.goals))
