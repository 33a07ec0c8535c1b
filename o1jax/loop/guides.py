"""Guides that ask a task's own verifier about the states of a search.

In: a task and the questions at hand. Out: a Guide, which calls back to the host for
every new node: the best outcome still reachable from it, exact or blurred by noise. The
noise belongs to the state, so asking twice gives the same answer and no amount of
search averages it away, as with a learned guide.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.config import configurable
from o1jax.search.pages import Guidance, Guide, NodeState
from o1jax.tasks.task import STEP_END, Example, Task
from o1jax.types import Params


@configurable
@dataclass(frozen=True)
class Verifier:
    """The task's exact state value as a guide."""

    noise: float = 0.0  # standard deviation of what is added to the value of a state
    seed: int = 0  # of the noise

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ValueError("noise must be at least 0")


def verifier_guide(
    task: Task,
    examples: Sequence[Example],
    decode: Callable[[list[int]], str],
    config: Verifier,
    *,
    graded: bool = True,
) -> Guide:
    """A guide for problems whose prompt_id is the place in `examples`.

    graded: the search's answers will count. ValueError then if the task's values need
    the answer: search never sees it. A finished node is worth what the task grades it.
    """
    if graded and task.value_needs_answer:
        raise ValueError(
            f"the verifier of {task.name} needs the answer: it may not guide a search "
            "that is graded; choose another guide"
        )
    known: dict[tuple[int, bytes], float] = {}

    def value(prompt: int, tokens: np.ndarray, finished: bool) -> float:
        key = (prompt, tokens.tobytes() + bytes([finished]))
        if key not in known:
            known[key] = state_value(
                task, examples[prompt], decode(tokens.tolist()), finished, config
            )
        return known[key]

    def judge(
        prompt_id: np.ndarray,
        tokens: np.ndarray,
        length: np.ndarray,
        finished: np.ndarray,
    ) -> np.ndarray:
        prompt_id, tokens, length, finished = map(
            np.asarray, (prompt_id, tokens, length, finished)
        )
        out = np.zeros(finished.shape, np.float32)
        written = np.arange(tokens.shape[-1]) < length[..., None]
        # Rows that nobody wants have no steps at all (a root has none either).
        for b, m in zip(*np.nonzero((prompt_id >= 0)[:, None] & (out == 0))):
            text = tokens[b, m][written[b, m]]
            out[b, m] = value(int(prompt_id[b]), text, bool(finished[b, m]))
        return out

    def guide(params: Params, state: NodeState) -> Guidance:
        shape = jax.ShapeDtypeStruct(state.finished.shape, jnp.float32)
        arguments = (state.prompt_id, state.tokens, state.length, state.finished)
        return Guidance(jax.pure_callback(judge, shape, *arguments))

    return guide


def state_value(
    task: Task, example: Example, text: str, finished: bool, config: Verifier
) -> float:
    """What the verifier says of a response so far: its worth and the state's noise."""
    *steps, rest = text.split(STEP_END)
    if finished:
        worth = task.grade(example, text)
    elif (known := task.state_value(example, steps)) is None:
        raise ValueError(f"task {task.name} has no state values to guide a search")
    else:
        worth = known
    if not config.noise:
        return worth
    # Different ways to one state share its noise, where the task can tell.
    after = getattr(task, "state_after", lambda *_: None)(example, steps)
    state = text if after is None or rest.strip() else after
    where = f"{config.seed} {example.question} {finished} {state!r}"
    digest = hashlib.blake2b(where.encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return worth + config.noise * NormalDist().inv_cdf(min(uniform, 1 - 2**-53))
