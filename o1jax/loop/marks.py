"""The tokens that close a step and those that end an answer, of a run's template."""

from o1jax.loop.workdir import Workdir
from o1jax.models.pieces import token_bytes
from o1jax.models.steps import step_ends
from o1jax.rollout.ends import Kind, StepEnds


def step_end_ids(run: Workdir) -> tuple[int, ...]:
    """The token that ends a step. ValueError if the tokenizer writes it in several.

    A newline ends one in any token that it is a part of.
    """
    mark = run.experiment.template.step_end.strip(" ")
    if mark == "\n":
        pieces = token_bytes(run.tokenizer)
        return tuple(i for i, piece in enumerate(pieces) if b"\n" in piece)
    ids = run.tokenizer.encode(mark)
    if len(ids) != 1:
        raise ValueError(
            f"the step mark {mark!r} is {len(ids)} tokens long: a search over steps "
            "needs a tokenizer that keeps it as one"
        )
    return tuple(ids)


def plain_ends(run: Workdir, kind: Kind | None) -> StepEnds | None:
    """Where steps of plain text end, of a kind; None for none."""
    if kind is None:
        return None
    return step_ends(run.tokenizer, kind, vocab=run.policy_config.vocab)


def stop_ids(run: Workdir) -> tuple[int, ...]:
    """The tokens that end an answer: those of the sampler."""
    return run.experiment.sampler.stop_ids or (run.tokenizer.eos_id,)
