"""A GRPO step of o1jax: 8 prompts x 8 samples of full length, random weights.

`grpo/SIZE`: sampling with log-probs kept, decoding and rewarding text, log-probs of the
reference, advantages, gradient, clipping, AdamW. `grpo-rollout/SIZE` is the sampling
alone, tokens in, tokens and log-probs out. `ppo-update/SIZE` is an update of PPO with a
critic of its own: the reference and the critic read the responses, then both networks
learn; its note holds the FLOPs that the ledger counts for it.
"""

import worker  # isort: skip  (pins the process first)

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import ours_decode
import sizes

from o1jax.learn.kl import KLControl
from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
from o1jax.learn.policy_objective import (
    RECIPES,
    build_experience,
    policy_gradient_objective,
)
from o1jax.learn.reading import read_responses
from o1jax.learn.update import build_update
from o1jax.loop.ledger import count_flops
from o1jax.policy.policy import Policy
from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.types import Params, Prompts, TrainState, Trajectory

# On a CPU the keys and values of so many rows stay in its cache, and so do the
# activations of a microbatch.
DECODED, MICROBATCHES, READ = 16, 16, 8
ROWS = sizes.GRPO_PROMPTS * sizes.GRPO_SAMPLES


def prompts_of(size: sizes.Size) -> Prompts:
    """Each prompt as often as it is answered, from text."""
    rows = [[int(word) for word in text.split()] for text in sizes.grpo_prompts(size)]
    tokens = np.repeat(np.array(rows, np.int32), sizes.GRPO_SAMPLES, axis=0)
    return Prompts(
        tokens=tokens,
        length=np.full(ROWS, size.prompt, np.int32),
        prompt_id=np.arange(ROWS, dtype=np.int32),
    )


def new_sampler(
    policy: Policy, size: sizes.Size
) -> Callable[[Params, jax.Array], Trajectory]:
    """(params, key) -> responses on the host."""
    config = SamplerConfig(rows=DECODED, max_new_tokens=size.new_tokens)
    sampler = jax.jit(build_sampler(policy, config))

    def sample(params: Params, key: jax.Array) -> Trajectory:
        rows, _ = jax.device_get(sampler(params, key, prompts_of(size)))
        if (rows.length != size.length).any():
            raise RuntimeError("a row stopped early")
        return rows

    return sample


def rewards(rows: Trajectory, size: sizes.Size) -> np.ndarray:
    """f32[B, T] of the text of each response, paid for its last token."""
    texts = [" ".join(map(str, row[size.prompt :])) for row in rows.tokens.tolist()]
    paid = np.zeros(rows.tokens.shape, np.float32)
    paid[:, -1] = [sizes.grpo_reward(text) for text in texts]
    return paid


class Learner:
    """Parameters under training and a reference; the programs are the library's.

    Of PPO the critic is a network of its own, and the reference is paid for.
    """

    def __init__(self, size: sizes.Size, recipe: str, microbatches: int) -> None:
        policy = ours_decode.load(size, unroll=size.layers)
        config = replace(RECIPES[recipe], kl=KLControl(sizes.GRPO_BETA))
        critic = policy if config.has_critic else None
        objective = policy_gradient_objective(policy, config, critic=critic)
        optimizer = build_optimizer(OptimizerConfig(learning_rate=3e-4), steps=10_000)
        self.policy, self.has_critic = policy, config.has_critic
        self.reference = policy.init(jax.random.key(0))
        params = jax.tree.map(jnp.copy, self.reference)
        if critic is not None:
            params = {"policy": params, "critic": policy.init(jax.random.key(3))}
        opt_state = optimizer.init(params)
        self.state = TrainState(jnp.int32(0), params, opt_state, jax.random.key(2))
        read = partial(read_responses, policy)
        build = partial(
            build_experience,
            config,
            samples=sizes.GRPO_SAMPLES,
            max_tokens=size.new_tokens,
        )
        update = build_update(objective, optimizer, microbatches=microbatches)
        self._programs = {
            "reference": Program(lambda *x: read(*x).logprob),
            "critic": Program(lambda *x: read(*x, critic=critic).value),
            "experience": Program(build),
            "update": Program(update, donate_argnums=0),
        }

    def learn(self, rows: Trajectory, paid: np.ndarray) -> dict[str, float]:
        """Reference, critic, advantages, update; metrics on the host."""
        known = {"ref_logprob": self._read("reference", self.reference, rows)}
        if self.has_critic:
            known["value"] = self._read("critic", self.state.params, rows)
        batch = self._programs["experience"](rows, paid, **known)
        self.state, said = self._programs["update"](self.state, batch)
        return {name: float(x) for name, x in jax.device_get(said).items()}

    def _read(self, name: str, params: Params, rows: Trajectory) -> np.ndarray:
        """What a network says of the responses, READ of them at a time."""
        text = (rows.tokens, rows.prompt_length, rows.length)
        cut = lambda at: (x[at : at + READ] for x in text)
        parts = range(0, len(rows.length), READ)
        read = self._programs[name]
        return np.concatenate([np.asarray(read(params, *cut(at))) for at in parts])

    @property
    def flops(self) -> float:
        """Of all programs that were called."""
        return sum(program.flops for program in self._programs.values())


class Program:
    """A jitted function that counts, as the ledger does, what its calls cost."""

    def __init__(self, fn: Callable, **options: int) -> None:
        self._fn, self._jitted = fn, jax.jit(fn, **options)
        self._each: float | None = None
        self.flops = 0.0

    def __call__(self, *arguments: object, **named: object) -> object:
        if self._each is None:
            self._each = count_flops(partial(self._fn, **named), *arguments).flops
        self.flops += self._each
        return self._jitted(*arguments, **named)


def grpo(size: sizes.Size, microbatches: int) -> worker.Run:
    """A whole step."""
    learner = Learner(size, "grpo", microbatches)
    sample, keys = new_sampler(learner.policy, size), some_keys()

    def run() -> None:
        rows = sample(learner.state.params, next(keys))
        said = learner.learn(rows, rewards(rows, size))
        if not said["logprob_gap"] < 1e-4:
            raise RuntimeError(f"sampler and trainer differ: {said['logprob_gap']}")

    return run


def ppo_update(size: sizes.Size, microbatches: int) -> worker.Run:
    """An update from responses that are there already."""
    learner = Learner(size, "ppo", microbatches)
    rows = new_sampler(learner.policy, size)(learner.reference, jax.random.key(5))
    paid, used = rewards(rows, size), {}

    def run() -> None:
        before = learner.flops
        learner.learn(rows, paid)
        used["flops"] = learner.flops - before

    run.note = lambda: used
    return run


def rollout(size: sizes.Size) -> worker.Run:
    """The sampling alone."""
    policy = ours_decode.load(size)
    sample, keys = new_sampler(policy, size), some_keys()
    params = policy.init(jax.random.key(0))
    return lambda: sample(params, next(keys))


def some_keys() -> Iterator[jax.Array]:
    """One for each step."""
    key = jax.random.key(7)
    for step in itertools.count():
        yield jax.random.fold_in(key, step)


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`grpo/SIZE`, `ppo-update/SIZE`, both also .../PIECES, or `grpo-rollout/SIZE`."""
    kind, name, *pieces = sizes.parse(case)
    size, microbatches = sizes.SIZES[name], int(pieces[0]) if pieces else MICROBATCHES
    if kind == "grpo-rollout":
        run = rollout(size)
    else:
        run = {"grpo": grpo, "ppo-update": ppo_update}[kind](size, microbatches)
    return run, run


if __name__ == "__main__":
    worker.serve(build, worker.versions("o1jax", "jax", "flax", "optax"))
