"""The draft of a sampler or a search: who proposes tokens for the policy to check.

In: the run, and a Draft that names the first layers of the policy itself or
the workdir of a smaller one. Out: its functions, and the sampler with it. A policy of
first layers follows the parameters it is sampled with: Elhoushi et al. 2024
(LayerSkip), arXiv 2404.16710, without their training for it.
"""

from dataclasses import replace
from typing import NamedTuple

import jax

from o1jax.config import load
from o1jax.loop.bucket import open_workdir
from o1jax.loop.workdir import Workdir
from o1jax.policy.policy import Policy, PolicyConfig, build_policy
from o1jax.rollout.decode import (
    Draft,
    Sampler,
    SamplerConfig,
    SampleStats,
    build_sampler,
)
from o1jax.rollout.drafted import StepDraft, take_layers
from o1jax.rollout.speculative import build_speculative_sampler
from o1jax.types import Params, Prompts, Trajectory


class Drafted(NamedTuple):
    """A draft; without parameters of its own it takes the policy's."""

    policy: Policy
    layers: int
    params: Params | None
    tokens: int  # proposed in a round

    def beside(self, params: Params) -> Params:
        """What a program with this draft takes: the pair, if it has its own."""
        return params if self.params is None else (params, self.params)

    @property
    def of_steps(self) -> StepDraft:
        """For a search."""
        return StepDraft(self.policy, self.tokens, self.layers)


def draft_of(run: Workdir, draft: Draft | None) -> Drafted | None:
    """Who that is, or None. ValueError where it does not fit the policy."""
    if draft is None:
        return None
    if draft.layers:
        policy = first_layers(run.policy_config, draft.layers)
        return Drafted(policy, draft.layers, None, draft.tokens)
    path = open_workdir(draft.workdir)
    if not (path / "config.gin").is_file():
        raise ValueError(f"Draft.workdir: {path} is no workdir: it has no config.gin")
    other = Workdir(load(path / "config.gin").experiment, path)
    if other.tokenizer.fingerprint != run.tokenizer.fingerprint:
        raise ValueError(f"Draft.workdir: {path} has another tokenizer")
    if other.policy_config.vocab != run.policy_config.vocab:
        raise ValueError(
            f"Draft.workdir: {path} has {other.policy_config.vocab} logits, the policy "
            f"{run.policy_config.vocab}"
        )
    return Drafted(other.policy, 0, other.newest_params(), draft.tokens)


def first_layers(config: PolicyConfig, layers: int) -> Policy:
    """The policy of the first layers of another one. ValueError if it has fewer."""
    if layers >= config.layers:
        raise ValueError(f"Draft.layers is {layers}: the policy has {config.layers}")
    family = config.family
    if family is not None and family.windows:
        family = replace(family, windows=family.windows[:layers])
    return build_policy(replace(config, layers=layers, family=family))


def sampler_with(
    run: Workdir, config: SamplerConfig, draft: Drafted | None, *, samples: int = 1
) -> Sampler:
    """The run's sampler. Of a draft with parameters of its own it takes the pair."""
    if draft is None:
        return build_sampler(run.policy, config, samples=samples)
    spoken = build_speculative_sampler(
        run.policy, draft.policy, config, tokens=draft.tokens, samples=samples
    )
    if draft.params is not None:
        return spoken

    def sample(
        params: Params, key: jax.Array, prompts: Prompts
    ) -> tuple[Trajectory, SampleStats]:
        params = run.policy.unstack(params)
        return spoken((params, take_layers(params, draft.layers)), key, prompts)

    return sample
