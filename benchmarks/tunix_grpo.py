"""A GRPO step of tunix's GRPOLearner over its own Llama 3, random weights, our sizes.

`grpo/SIZE` is one global step of `learner.train()`: sampling, decoding and rewarding
text, log-probs of the reference, gradient, clipping, AdamW. The learner runs in a
thread of its own; its data waits until a step is asked for. `grpo-rollout/SIZE` is the
cluster's own sampling, text in, text and tokens out.
"""

import worker  # isort: skip  (pins the process first)

import os
import threading
from collections.abc import Iterator

import sizes
import tunix_decode  # makes tunix importable without its command line

import jax  # isort: skip
import numpy as np
import optax
from flax import nnx
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig

PIECES = {"1m": 8}  # of the batch in the update: gradient accumulation
MANY = 10_000


def reward(completions: list[str], **_: object) -> list[float]:
    """Of the text: how often it says 7. No row may be short."""
    if {len(text.split()) for text in completions} != {sizes.SIZES["1m"].new_tokens}:
        raise RuntimeError("tunix stopped a row early")
    return [sizes.grpo_reward(text) for text in completions]


def new_cluster(size: sizes.Size, pieces: int) -> RLCluster:
    """Actor, reference and sampler on the one device."""
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=auto)
    prompts = sizes.GRPO_PROMPTS
    training = RLTrainingConfig(
        actor_optimizer=optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(3e-4, weight_decay=0.01)
        ),
        eval_every_n_steps=MANY,
        max_steps=MANY,
        mini_batch_size=prompts,
        train_micro_batch_size=prompts // pieces,
        rollout_micro_batch_size=prompts,
        compute_logps_micro_batch_size=prompts,
    )
    rollout = RolloutConfig(
        max_tokens_to_generate=size.new_tokens,
        max_prompt_length=size.prompt,
        kv_cache_size=size.length,
        temperature=1.0,
        top_p=1.0,
        eos_tokens=[tunix_decode.NEVER],
    )
    config = ClusterConfig(
        role_to_mesh={r: mesh for r in (Role.ACTOR, Role.REFERENCE, Role.ROLLOUT)},
        training_config=training,
        rollout_config=rollout,
    )
    return RLCluster(
        actor=tunix_decode.load(size),
        reference=tunix_decode.load(size),
        tokenizer=tunix_decode.Numbers(),
        cluster_config=config,
    )


class Turns:
    """The learner's data, which come when a step is asked for."""

    def __init__(self, prompts: list[str]) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.prompts, self.asked = np.array(prompts), False
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        while True:
            if self.asked:  # the step before has ended
                self.done.release()
            self.go.acquire()
            self.asked = True
            yield {"prompts": self.prompts}

    def one(self) -> None:
        """Returns when the step is done."""
        self.go.release()
        self.done.acquire()
        if self.error is not None:
            raise RuntimeError("the learner stopped") from self.error


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`grpo/SIZE`, `grpo/SIZE/PIECES` or `grpo-rollout/SIZE`."""
    kind, name, *pieces = sizes.parse(case)
    size = sizes.SIZES[name]
    cluster = new_cluster(size, int(pieces[0]) if pieces else PIECES[name])
    # The sampler puts a token in front of each prompt.
    prompts = [text.split(" ", 1)[1] for text in sizes.grpo_prompts(size)]
    if kind == "grpo-rollout":
        each = [text for text in prompts for _ in range(sizes.GRPO_SAMPLES)]

        def sample() -> None:
            out = cluster.generate(each, micro_batch_size=len(each))
            if [len(row) for row in out.tokens] != [size.new_tokens] * len(each):
                raise RuntimeError("tunix stopped a row early")

        return sample, sample
    turns = Turns(prompts)
    config = GRPOConfig(
        num_generations=sizes.GRPO_SAMPLES,
        num_iterations=1,
        beta=sizes.GRPO_BETA,
        kl_loss_mode="low_var_kl",
        epsilon=0.2,
    )
    learner = GRPOLearner(cluster, config, reward_fns=reward)
    actor = cluster.actor_trainer

    def train() -> None:
        try:
            learner.train(turns)
        except BaseException as error:
            turns.error = error
            turns.done.release()

    threading.Thread(target=train, daemon=True).start()

    def step() -> None:
        before = actor.train_steps
        turns.one()
        jax.block_until_ready(nnx.state(actor.model))
        if actor.train_steps != before + 1:
            raise RuntimeError(f"tunix made {actor.train_steps - before} updates")

    return step, step


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    worker.serve(build, worker.versions("google-tunix", "jax", "flax", "optax"))
    os._exit(0)  # the learner's threads would wait for ever
