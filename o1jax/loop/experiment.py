"""The whole experiment: what an experiment file binds.

Only loop/ sees it; every builder takes its own part. Importing this module registers
every config class with o1jax.config.
"""

from dataclasses import dataclass, field

from o1jax.config import configurable
from o1jax.data.flawed import Flawed  # noqa: F401  registers itself
from o1jax.data.questions import Questions  # noqa: F401  so does this task
from o1jax.data.template import Template
from o1jax.data.tokenizer import TokenizerConfig
from o1jax.loop.compare import Compare
from o1jax.loop.evaluate import Evaluate
from o1jax.loop.grow import Grow
from o1jax.loop.imitate import Imitate
from o1jax.loop.improve import Improve
from o1jax.loop.pretrained import Pretrained
from o1jax.loop.reward_model import TrainReward
from o1jax.parallel.mesh import MeshConfig
from o1jax.policy.policy import PolicyConfig
from o1jax.rollout.decode import SamplerConfig
from o1jax.search.pages import GUIDES
from o1jax.tasks import Chain
from o1jax.tasks.task import Task

Stage = Pretrained | Imitate | TrainReward | Grow | Improve | Evaluate | Compare


@configurable
@dataclass(frozen=True)
class Experiment:
    """Stages, run in order on one policy; each hands its parameters to the next."""

    title: str = "An experiment"
    seed: int = 0
    task: Task = field(default_factory=Chain)
    template: Template = field(default_factory=Template)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    # The same devices to sample and search with; None: the mesh. It changes no result.
    decode: MeshConfig | None = field(default=None, metadata={"identity": False})
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError("seed must not be negative")
        if not self.stages:
            raise ValueError("stages is empty: nothing to run")
        for stage in self.stages:
            has_dataset = getattr(stage, "dataset", None) is not None
            if has_dataset and self.tokenizer.kind == "symbols":
                raise ValueError(
                    f"stages: {stage.name!r} has a dataset, but TokenizerConfig.kind "
                    "is 'symbols', which knows only the words of tasks: choose 'text'"
                )
        names = [stage.name for stage in self.stages]
        for name in names:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"stages: name {name!r} is not letters and digits")
            if names.count(name) > 1:
                raise ValueError(f"stages: two stages are named {name!r}")
        for stage in self.stages:
            if isinstance(stage, TrainReward) and stage.name in (*GUIDES, "verifier"):
                raise ValueError(
                    f"stages: a reward model is named {stage.name!r}, which is the "
                    "name of another guide"
                )
        trained: set[str] = set()
        for stage in self.stages:
            if missing := sorted(_rewards(stage) - trained):
                raise ValueError(
                    f"stages: {stage.name!r} needs the reward model {missing[0]!r}, "
                    "which no TrainReward stage before it trains"
                )
            if isinstance(stage, TrainReward):
                trained.add(stage.name)


def _rewards(stage: Stage) -> set[str]:
    """Names of the reward models that a stage reads."""
    names = set()
    if isinstance(stage, Compare):
        names = {method.reward for method in stage.methods}
    elif isinstance(stage, Improve):
        names = {stage.payment.reward, getattr(stage.search, "reward", "")}
    elif isinstance(stage, Grow):
        names = {stage.search.reward}
    elif isinstance(stage, TrainReward) and stage.labels.source == "tree":
        names = {stage.labels.search.reward}
    return names - {""}
