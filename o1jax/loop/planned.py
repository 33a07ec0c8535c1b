"""A run that is only looked at: devices that are not there, parameters that are shapes.

In: an experiment, the devices of a slice and an empty folder. Out: a `Workdir` whose
stages' builders make the very programs that a run would, without computing anything.
Nothing is read of a dataset: where one is used the policy's vocabulary must be given.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
from o1jax.loop.batch_shapes import array, keys
from o1jax.loop.ledger import Ledger
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import ROWS, build_mesh
from o1jax.parallel.sharding import TRANSFORMER_RULES, Rules, shardings
from o1jax.policy.lora import LORA_RULES
from o1jax.policy.policy import PolicyConfig
from o1jax.reward.model import RewardModel
from o1jax.reward.versions import Weights
from o1jax.types import Params, TrainState

Shapes = Any  # pytree of ShapeDtypeStructs with their shardings


class Plan(Workdir):
    """What a run would be on these devices."""

    def __init__(self, experiment: Any, devices: Sequence[Any], folder: Path) -> None:
        self.experiment, self.path = experiment, folder
        self.mesh: Mesh = build_mesh(experiment.mesh, devices)
        self.key = jax.random.key(experiment.seed)
        self.params = None
        self.ledger, self.steps, self.records = Ledger(), 0, []

    @property
    def policy_config(self) -> PolicyConfig:
        """As in a run, but a tokenizer is made only where the vocabulary is open."""
        config = self.experiment.policy
        return config if config.vocab else super().policy_config

    def current_params(self) -> Params:
        """Shapes of the policy's."""
        shapes = jax.eval_shape(self.policy.init, jax.random.key(0))
        return placed(shapes, TRANSFORMER_RULES, self.mesh)

    def first_params(self, index: int) -> Params:
        return self.current_params()

    def reward_model(self, name: str) -> tuple[RewardModel, Weights]:
        """Shapes of a reward model's, as if it were trained."""
        stages = self.experiment.stages
        (stage,) = (s for s in stages if s.name == name and hasattr(s, "learns"))
        model = self.build_reward_model(stage)
        return model, Weights(self.reward_params(model), 0)

    def reward_params(self, model: RewardModel) -> Params:
        policy = jax.eval_shape(self.policy.init, jax.random.key(0))
        shapes = jax.eval_shape(model.init, jax.random.key(0), policy)
        return placed(shapes, TRANSFORMER_RULES, self.mesh)


def placed(shapes: Any, rules: Rules, mesh: Mesh) -> Shapes:
    """Shapes with the shardings that the rules say."""
    put = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    return jax.tree.map(put, shapes, shardings(shapes, rules, mesh))


def rows_on(mesh: Mesh, shapes: Any) -> Shapes:
    """Shapes of a batch, its rows cut over data and fsdp as put_batch does.

    ValueError where they do not divide.
    """
    parts = mesh.size // mesh.shape["tensor"]
    on = NamedSharding(mesh, PartitionSpec(ROWS))

    def put(x: Any) -> jax.ShapeDtypeStruct:
        if x.shape[0] % parts:
            raise ValueError(
                f"{x.shape[0]} rows of a batch do not divide by {parts}, the row "
                "shards of the mesh"
            )
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on)

    return jax.tree.map(put, shapes)


def state_of(
    params: Shapes,
    mesh: Mesh,
    config: OptimizerConfig,
    steps: int,
    trainable: Any = None,
    **options: Any,
) -> tuple[TrainState, Any]:
    """(shapes of a stage's train state, its optimizer)."""
    optimizer = build_optimizer(config, steps, trainable, **options)
    bare = jax.tree.map(lambda x: array(*x.shape, dtype=x.dtype), params)
    state = TrainState(
        array(),
        bare,
        jax.eval_shape(optimizer.init, bare),
        keys(1).update(shape=()),
    )
    return placed(state, LORA_RULES, mesh), optimizer
