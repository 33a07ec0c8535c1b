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
from o1jax.tasks.task import STEP_END, Example, Task
from o1jax.types import Guidance, Guide, NodeState, Params

# XLA's CPU client copies arguments of up to 100 KiB at once and larger ones in its
# thread pool, where on one core the calling program waits for its own callback.
CALL_BYTES = 64 * 1024


@configurable
@dataclass(frozen=True)
class Verifier:
    """The task's exact state value as a guide."""

    noise: float = 0.0  # standard deviation of what is added to the value of a state
    seed: int = 0  # of the noise
    # Of whole answers alone; what is not finished is worth 1/2, for nothing is known.
    outcome_only: bool = False

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

    def judge(*rows: jax.Array) -> np.ndarray:
        prompt_id, tokens, length, finished = map(np.asarray, rows)
        written = np.arange(tokens.shape[-1]) < length[..., None]
        out = np.zeros(finished.shape, np.float32)
        for r in np.flatnonzero(prompt_id >= 0):
            text = tokens[r][written[r]]
            out[r] = value(int(prompt_id[r]), text, bool(finished[r]))
        return out

    def guide(params: Params, state: NodeState) -> Guidance:
        B, M = state.finished.shape
        rows = (state.tokens, state.length, state.finished)
        rows = [jnp.reshape(x, (B * M, *x.shape[2:])) for x in rows]
        rows = (jnp.repeat(state.prompt_id, M), *rows)
        size = max(1, CALL_BYTES // (4 * rows[1][0].size))
        judged = []
        for start in range(0, B * M, size):
            piece = tuple(x[start : start + size] for x in rows)
            shape = jax.ShapeDtypeStruct(piece[0].shape, jnp.float32)
            judged.append(jax.pure_callback(judge, shape, *piece))
        return Guidance(jnp.concatenate(judged).reshape(B, M))

    return guide


def state_value(
    task: Task, example: Example, text: str, finished: bool, config: Verifier
) -> float:
    """What the verifier says of a response so far: its worth and the state's noise."""
    *steps, rest = text.split(STEP_END)
    if finished:
        worth = task.grade(example, text)
    elif config.outcome_only:
        return 0.5
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
