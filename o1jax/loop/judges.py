"""What judges the states of a search, as its config says.

In: a run, a Search config, and the questions. Out: a Guide, or how to make a Reader of
a reward model's parameters. A reward model is read as its stage has trained it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from o1jax.loop.guides import verifier_guide
from o1jax.loop.marks import step_end_ids
from o1jax.loop.methods import Search
from o1jax.loop.reward_guides import reward_reader
from o1jax.loop.self_evaluation import self_evaluation_guide
from o1jax.loop.workdir import Workdir
from o1jax.reward.aggregate import Aggregate
from o1jax.reward.interface import RewardModel
from o1jax.search.pages import Reader
from o1jax.tasks.task import Example, Task
from o1jax.types import Guide, Params, Prompts


def guide_of(
    run: Workdir,
    config: Search,
    task: Task,
    examples: Sequence[Example],
    asked: Prompts,
    *,
    graded: bool,
) -> Guide | None:
    """What takes the place of the config's Steps.guide; `asked` are all examples."""
    if config.verifier is not None:
        decode = run.tokenizer.decode
        return verifier_guide(task, examples, decode, config.verifier, graded=graded)
    if config.self_evaluation is not None:
        return self_evaluation_guide(
            run.policy,
            asked.tokens,
            asked.length,
            config.self_evaluation,
            run.tokenizer,
        )
    return None


def reader_of(
    run: Workdir, config: Search, model: RewardModel
) -> Callable[[Params], Reader]:
    """Makes a reader of the parameters of the config's reward model."""
    return functools.partial(
        reward_reader,
        model,
        step_end_ids=step_end_ids(run),
        ends=reward_stage(run, config.reward).judges_ends,
        how=config.aggregate or trained_aggregate(run, config.reward),
        heads=config.combine,
        lam=config.lam,
    )


def reward_stage(run: Workdir, reward: str) -> Any:
    """The TrainReward stage of that name."""
    (stage,) = (s for s in run.experiment.stages if s.name == reward)
    return stage


def trained_aggregate(run: Workdir, reward: str) -> Aggregate:
    """How the reward model of a stage made one worth of its scores in training.

    Log-odds multiply whatever they learned from. A head or a label that learned from
    whole answers was only ever asked at the last step, and an implicit reward is that
    of all the text so far.
    """
    stage = reward_stage(run, reward)
    readout = stage.model.readout
    of_steps = stage.learns in ("steps", "goals") or readout == "logodds"
    return "product" if of_steps and readout != "implicit" else "last"
