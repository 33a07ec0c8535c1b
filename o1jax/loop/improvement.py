"""A stage of improvement under way: all that changes from round to round.

In: the run and an Improve config. Out: an object whose `round` does one round and
returns its metrics, and whose state a checkpoint holds: policy, optimizer, critic,
reward model, replay, the place in the questions, coefficients and the watch.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.data.replay import Replay, size
from o1jax.learn.policy_objective import PolicyGradient
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.episodes import build_measure, build_sampling
from o1jax.loop.experience import Collected, Questions, concatenate
from o1jax.loop.guard import Watch
from o1jax.loop.learners import Clone, Known, build_learner
from o1jax.loop.ledger import Ledger
from o1jax.loop.networks import build_networks, count, in_parts, learn, norm
from o1jax.loop.payment import Paymaster
from o1jax.loop.text_meter import text_shares
from o1jax.loop.tree_data import Trees
from o1jax.loop.workdir import StageRecord, Workdir
from o1jax.types import Params, TrainState


class Saved(NamedTuple):
    """The arrays of a checkpoint; the first four are a TrainState's."""

    step: jax.Array
    params: Params
    opt_state: Any
    key: jax.Array
    reward: TrainState | None
    replay: dict[str, Any] | None


class Improvement:
    """The stage's state, and what a round does with it."""

    def __init__(self, run: Workdir, index: int, config: Any) -> None:
        self._run, self._config, self._index = run, config, index
        task = run.task(config)
        self._first = run.first_params(index)
        run.params = None  # they are updated: nobody else may hold them
        self._key = jax.random.fold_in(jax.random.fold_in(run.key, 10), index)
        self._questions = Questions(run, index, task)
        self._task = task
        self._sampling = build_sampling(run, self._questions, task, config)
        self._turns = None if config.turns is None else self._sampling
        self._pay = Paymaster(run, config.payment, task, config.rounds)
        self._trees = None
        if config.search is not None:
            self._trees = Trees(
                run,
                self._questions,
                task,
                config.search,
                filters=config.filters,
                count=config.questions,
                rounds=config.rounds,
            )
        self._gradient = isinstance(config.learner, PolicyGradient)
        self._own_critic = config.critic == "own"
        width = self._trees.width if self._trees else self._sampling.width
        self._learner = build_learner(run, config, self._first, width)
        self._replay = None
        if config.replay:
            self._replay = Replay(self._learner.blank, config.replay)
        self._held_out = build_measure(run, config.held_out, task, self._sampling)
        rounds = 1 if self._starts_anew else config.rounds
        nets = build_networks(
            run,
            config,
            self._learner.objective,
            self._first,
            jax.random.fold_in(self._key, 0),
            rounds=rounds,
        )
        self.state, self._nets = nets.state, nets._replace(state=None)
        anew = self._starts_anew
        self._beginning = jax.tree.map(jnp.copy, self.state) if anew else None
        self.watch = Watch(
            config.guard, config.name, plateau=config.plateau, gain=config.gain
        )
        self.rounds, self.seconds = 0, 0.0
        self._updates, self._place = 0, 0
        self._found: list[dict[str, Any]] = []  # on held-out questions, by round
        control = getattr(config.learner, "kl", None)
        self._kl_coef = control.coef if control else 0.0
        self._paid_coef = self._pay.kl_coef

    @property
    def _starts_anew(self) -> bool:
        learner = self._config.learner
        return isinstance(learner, Clone) and learner.start == "first"

    @property
    def policy(self) -> Params:
        """The policy's parameters as they are, its adapters merged."""
        params = self.state.params
        return self._nets.plain(params["policy"] if self._own_critic else params)

    @property
    def over(self) -> bool:
        """Whether the stage has ended."""
        reached = self._found and self._config.held_out.reached(self._found[-1])
        return self.rounds >= self._config.rounds or self.watch.settled or bool(reached)

    def round(self) -> dict[str, float]:
        """One round; its metrics."""
        config, run = self._config, self._run
        key = jax.random.fold_in(self._key, 1 + self.rounds)
        found = self._collect(key)
        known = self._know(found) if self._trees is None else None
        metrics = found.metrics(0 if self._trees else config.samples)
        metrics |= text_shares(self._task, found.examples, [[x] for x in found.texts])
        if known is not None:
            mask = found.rows.response_mask
            d = np.where(mask, found.rows.logprob - known.ref_logprob, 0.0)
            kl = d.sum(axis=1)
            if self._turns:
                metrics |= self._turns.divergence(kl)
            else:
                metrics["kl"] = float(kl.mean())
            metrics |= self._control(metrics.get("kl", 0.0), len(d))
        else:
            metrics |= self._strayed(found)
        if self._starts_anew:
            self.state = jax.tree.map(jnp.copy, self._beginning)
        rows = self._learner.rows(self._helped(found, key), known)
        metrics["rows"] = float(size(rows))
        if self._replay is not None:
            self._replay.add(rows, self._updates)
            rows = self._replay.rows
            age = self._updates - self._replay.version
            metrics["staleness"] = float(age.mean()) if len(age) else 0.0
        metrics |= self._learn(rows)
        self.rounds += 1
        self._place = found.position
        if self._pay.due(self.rounds):
            metrics |= self._pay.refresh(found, self.policy, jax.random.fold_in(key, 5))
            self._guide()
        run.params = None
        return metrics | {"params_norm": float(norm(self.state.params))}

    def _collect(self, key: jax.Array) -> Collected:
        if self._trees is not None:
            return self._trees.collect(self.policy, key, self.rounds)
        return self._sampling(self.policy, key, self._place, self._pay.worth)

    def _helped(self, found: Collected, key: jax.Array) -> Collected:
        """With the responses to questions that needed a hint."""
        if not (hint := getattr(self._config.learner, "hint", "")):
            return found
        own = jax.random.fold_in(key, 2**20)
        more = self._sampling.hints(self.policy, own, found, hint, self._pay.worth)
        return found if more is None else concatenate([found, more])

    def _know(self, found: Collected) -> Known:
        """What the networks say of the responses, and what is paid for them."""
        rows = found.rows
        text = (rows.tokens, rows.prompt_length, rows.length)
        parts = self._config.minibatches * self._config.microbatches
        of = partial(in_parts, self._run, text=text, parts=parts)
        ref_logprob = of(self._nets.reference, self._first)
        value = np.asarray(rows.value)
        if self._own_critic:
            value = of(self._nets.critic, self._nets.whole(self.state.params))
        found = found._replace(rows=rows.replace(value=value))
        paid = ref_logprob
        if self._gradient:
            paid = self._pay.tokens(found, ref_logprob, self._paid_coef)
        coef: float | np.ndarray = self._kl_coef
        if self._turns:
            coef = self._turns.kl_coef(coef, len(rows.length))
        return Known(paid, ref_logprob, value, coef)

    def _strayed(self, found: Collected) -> dict[str, float]:
        """The divergence from the first policy along the answers of the trees."""
        text = self._trees.some(found)
        answered = text[2] > 0
        if not answered.any():
            return {}
        parts = self._config.minibatches * self._config.microbatches
        both = self.policy, self._first
        kl = in_parts(self._run, self._nets.divergence, both, text, parts)
        return {"kl": float(kl[answered].mean())}

    def _control(self, kl: float, responses: int) -> dict[str, float]:
        """Adapts the coefficients of the divergence to what was measured."""
        said = {}
        if self._kl_coef:
            said["kl_coef"] = self._kl_coef
            control = self._config.learner.kl
            self._kl_coef = control.after(self._kl_coef, kl, responses)
        if self._paid_coef:
            said["paid_kl_coef"] = self._paid_coef
            if (control := self._config.payment.kl) is not None:
                self._paid_coef = control.after(self._paid_coef, kl, responses)
        return said

    def _learn(self, rows: Any) -> dict[str, float]:
        seed = self._run.experiment.seed
        self.state, metrics = learn(
            self._run,
            self._config,
            self._nets,
            self._learner.complete,
            self.state,
            rows,
            np.random.default_rng([seed, self._index, self.rounds]),
        )
        self._updates += int(metrics.get("updates", 0))
        return metrics

    def _guide(self) -> None:
        """Lets the reward model as it is now guide the search."""
        search = self._config.search
        if search is not None and search.reward == self._config.payment.reward:
            self._trees.use(self._pay.weights)

    def measure_start(self) -> dict[str, float]:
        """Looks at the held-out questions before the first round; else nothing."""
        return {} if self._found else self.measure()

    def measure(self) -> dict[str, float]:
        """Looks at the held-out questions."""
        began = time.monotonic()
        found = self._held_out(self.policy)
        seconds = time.monotonic() - began
        self._found.append({"round": self.rounds, "seconds": seconds, **found})
        values = {k: v[0] for k, v in found.items() if isinstance(v, list)}
        return {f"held_out_{name}": value for name, value in values.items()}

    def arrays(self) -> Saved:
        """What a checkpoint holds beside JSON."""
        replay = None if self._replay is None else self._replay.state()
        return Saved(*self.state, self._pay.state, replay)

    def position(self) -> dict[str, int]:
        """Of the questions."""
        return {"question": self._place}

    def extra(self) -> dict[str, Any]:
        """The rest, as JSON."""
        return {
            "ledger": self._run.ledger.state(),
            "seconds": self.seconds,
            "updates": self._updates,
            "kl_coef": self._kl_coef,
            "paid_coef": self._paid_coef,
            "watch": self.watch.state(),
            "held_out": self._found,
        }

    def resume(self, saved: Checkpoints) -> None:
        """Goes on from the newest checkpoint, if there is one."""
        if (restored := saved.restore(self.arrays())) is None:
            return
        arrays, extra = restored.state, restored.extra
        self.state = TrainState(*arrays[:4])
        self._pay.state = arrays.reward
        if self._replay is not None:
            self._replay.set_state(arrays.replay)
        self.rounds, self._place = restored.step, restored.position["question"]
        self._run.ledger = Ledger.from_state(extra["ledger"])
        self.seconds, self._updates = extra["seconds"], extra["updates"]
        self._kl_coef, self._paid_coef = extra["kl_coef"], extra["paid_coef"]
        self.watch.set_state(extra["watch"])
        self._found = extra["held_out"]
        self._guide()

    def record(self) -> StageRecord:
        """The stage, done."""
        config = self._config
        results = {
            "rounds": self.rounds,
            "updates": self._updates,
            "questions": self._place,
            "before": self._found[0],
            "after": self._found[-1],
            "held_out": self._found[1:-1],
        }
        if config.lora is not None:
            results["learning"] = count(self.state.params)
            results["parameters"] = count(self._first)
        return StageRecord(
            name=config.name,
            kind="improve",
            steps=self.rounds,
            seconds=self.seconds,
            ledger=self._run.ledger.state(),
            results=results,
            sections=[],
        )
