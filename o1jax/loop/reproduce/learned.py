"""The arm that claims on learning share: a policy is improved, then it is tested.

In: what is done to the first policy, as configs of stages of imitation or improvement.
Out: graded samples of the policy that came out, pass@k and majority@k of them, and as
facts what every round measured and what the learning cost. Imitation is the control of
plain extra steps: it reads worked solutions to the very questions that the others
answer themselves.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.data.batches import sft_batches
from o1jax.learn.objectives import imitation
from o1jax.learn.optimizer import build_optimizer
from o1jax.learn.state import new_state
from o1jax.learn.update import build_update, jit_update
from o1jax.loop.booked import Booked
from o1jax.loop.experience import Questions
from o1jax.loop.guard import Stopped
from o1jax.loop.imitate import Imitate
from o1jax.loop.improve import Improve
from o1jax.loop.improvement import Improvement
from o1jax.loop.ledger import Ledger
from o1jax.loop.reproduce.claim import Evidence, Predictions
from o1jax.loop.reproduce.pool import draw_pool, powers
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES
from o1jax.rollout.sampling import SamplingConfig
from o1jax.selection import majority_at_k, pass_at_k
from o1jax.tasks.task import Example
from o1jax.types import Params, Spent

# Of every round, where the learner has it. "pass@1": of what it learns from.
WATCHED = (
    "pass@1",
    "reward",
    "length",
    "kl",
    "kl_sampler",
    "entropy",
    "clip_fraction",
    "value_error",
    "grad_norm",
    "rows",
    "updates",
    "zero_variance",
    "answers",
    "found",
)


@dataclass(frozen=True)
class Learned:
    """Stages that a policy goes through, and how it is tested then."""

    stages: tuple[Improve | Imitate, ...] = ()  # none: the policy as it is
    samples: int = 64  # of each test problem
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    room: int = 0  # tokens that a response may have, in place of the experiment's
    draws: int = 200  # subsets of each size that vote


class Account(Ledger):
    """A ledger that knows the tokens that were generated, to compare methods at."""

    def __init__(self) -> None:
        super().__init__()
        self.generated = 0.0

    def add_spent(self, kind: str, spent: Spent, *, seconds: float = 0.0) -> None:
        self.generated += float(spent.generated_tokens)
        super().add_spent(kind, spent, seconds=seconds)


def learned(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Learned,
) -> Predictions:
    """Facts: those of `improved`.

    The FLOPs of a problem are those of its samples and its share of the learning.
    """
    run = accounted(run, room=method.room)
    params, facts = improved(run, params, method.stages)
    learning = run.ledger.total()["flops"]
    pool = draw_pool(run, params, key, examples, method.samples, method.sampling)
    ks = powers(method.samples)
    voted = majority_at_k(pool.votes, pool.right, ks, draws=method.draws)
    return Predictions(
        right=pool.right.sum(1).astype(int),
        samples=np.full(len(examples), method.samples),
        tokens=pool.tokens,
        flops=pool.flops + learning / len(examples),
        extra={"majority": voted.per_problem.T.tolist()},
        facts=facts,
    )


def accounted(run: Workdir, *, room: int = 0) -> Workdir:
    """A copy of the run with an Account of its own, and room for longer responses."""
    run = copy.copy(run)
    run.ledger = Account()
    if room:
        sampler = replace(run.experiment.sampler, max_new_tokens=room)
        run.experiment = replace(run.experiment, sampler=sampler)
    return run


def improved(
    run: Workdir, params: Params, stages: Sequence[Improve | Imitate]
) -> tuple[Params, dict[str, Any]]:
    """The policy behind the stages, of an `accounted` run, and what they did.

    Facts: `rounds`, a list of numbers by metric and stage; `generated` tokens,
    `updates`, `rows` read by them, `flops` by kind; `stopped`, why a stage was.
    """
    facts: dict[str, Any] = {
        "rounds": [],
        "generated": 0.0,
        "updates": 0,
        "rows": 0,
        "stopped": "",
    }
    for number, stage in enumerate(stages):
        index = len(run.experiment.stages) + number
        if isinstance(stage, Imitate):
            params = _imitate(run, params, index, stage, facts)
        else:
            params = _improve(run, params, index, stage, facts)
    spent = run.ledger.state()["accounts"]
    facts["flops"] = {kind: account["flops"] for kind, account in spent.items()}
    return params, facts


def _improve(
    run: Workdir, params: Params, index: int, config: Improve, facts: dict[str, Any]
) -> Params:
    """What the stage does, without its checkpoints: an arm is done or is not."""
    run.params = params
    at = Improvement(run, index, config)
    seen: dict[str, list[float | None]] = {name: [] for name in WATCHED}
    searched = run.ledger.generated
    while not at.over:
        try:
            values = at.round()
            at.watch.look(at.rounds, values, 0)
        except Stopped as stopped:
            facts["stopped"] = str(stopped)
            break
        values.setdefault("found", values.get(f"pass@{config.samples}", math.nan))
        for name, column in seen.items():
            value = values.get(name)
            known = value is not None and math.isfinite(value)
            column.append(float(value) if known else None)
        if config.search is None:
            facts["generated"] += values["length"] * config.questions * config.samples
    facts["generated"] += run.ledger.generated - searched
    made = int(sum(x or 0 for x in seen["updates"]))
    facts["updates"] += made
    facts["rows"] += made * (config.rows_a_round // config.minibatches)
    known = {n: x for n, x in seen.items() if any(v is not None for v in x)}
    facts["rounds"].append(known)
    return at.policy


def _imitate(
    run: Workdir, params: Params, index: int, config: Imitate, facts: dict[str, Any]
) -> Params:
    """Worked solutions to the questions that a stage of improvement would ask."""
    stream = sft_batches(
        _Worked(Questions(run, index, run.task(config))),
        run.tokenizer,
        run.experiment.template,
        config.batch,
        seed=run.experiment.seed,
    )
    optimizer = build_optimizer(config.optimizer, config.steps)
    state = new_state(
        jax.tree.map(jnp.copy, params),  # donated
        optimizer,
        run.key,
        mesh=run.mesh,
        rules=TRANSFORMER_RULES,
    )
    update = build_update(
        imitation(run.policy), optimizer, microbatches=config.microbatches
    )
    update = Booked(run, "train", update, jit_update(update, state))
    losses = []
    for _ in range(config.steps):
        batch = put_batch(run.mesh, next(stream))
        state, values = update(state, batch, tokens=batch.tokens.size)
        losses.append(float(values["loss"]))
    facts["updates"] += config.steps
    facts["rows"] += config.steps * config.batch.rows
    facts["rounds"].append({"loss": losses})
    return state.params


class _Worked:
    """The stage's questions as a source of examples to imitate."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def __len__(self) -> int:
        return 1 << 24

    def __getitem__(self, index: int) -> Example:
        return self._questions.at(int(index))


def covered(evidence: Evidence, arm: str, k: int) -> np.ndarray:
    """f64[S, P]: pass@k."""
    right, samples = (evidence.column(arm, name) for name in ("right", "samples"))
    found = [pass_at_k(r, n, (k,)).per_problem[0] for r, n in zip(right, samples)]
    return np.array(found)


def voted(evidence: Evidence, arm: str, k: int) -> np.ndarray:
    """f64[S, P]: the chance that the majority of k samples is right."""
    return evidence.column(arm, "majority")[..., int(np.log2(k))]


def curve(evidence: Evidence, arm: str, name: str) -> np.ndarray:
    """f64[S, rounds] of a metric, the stages one behind the other; gaps are nan.

    A stage that was stopped keeps its last value.
    """
    rows = []
    for one in evidence.arms[arm]:
        stages = one.facts["rounds"]
        sizes = [max(map(len, stage.values()), default=0) for stage in stages]
        parts = [stage.get(name, [None] * n) for stage, n in zip(stages, sizes)]
        rows.append([math.nan if v is None else v for part in parts for v in part])
    longest = max(map(len, rows))
    full = [row + row[-1:] * (longest - len(row)) for row in rows]
    return np.array(full, float)


def fact(evidence: Evidence, arm: str, name: str) -> np.ndarray:
    """f64[S] of a fact that is a number."""
    return np.array([one.facts[name] for one in evidence.arms[arm]], float)
