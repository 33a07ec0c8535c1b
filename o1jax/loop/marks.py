"""The tokens that close a step and those that end an answer, of a run's template."""

from o1jax.loop.workdir import Workdir


def step_end_ids(run: Workdir) -> tuple[int, ...]:
    """The token that ends a step. ValueError if the tokenizer writes it in several."""
    mark = run.experiment.template.step_end.strip(" ")
    ids = run.tokenizer.encode(mark)
    if len(ids) != 1:
        raise ValueError(
            f"the step mark {mark!r} is {len(ids)} tokens long: a search over steps "
            "needs a tokenizer that keeps it as one"
        )
    return tuple(ids)


def stop_ids(run: Workdir) -> tuple[int, ...]:
    """The tokens that end an answer: those of the sampler."""
    return run.experiment.sampler.stop_ids or (run.tokenizer.eos_id,)
