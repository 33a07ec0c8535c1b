"""The verifier as a guide: exact, blurred by noise of the state, never the answer."""

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from o1jax.loop.guides import Verifier, state_value, verifier_guide
from o1jax.tasks import Chain, Countdown

TASK = Countdown()
EXAMPLE = TASK.parse("2 3 4 -> 20")
GOOD, DEAD, WRONG = "2 + 3 = 5 , 4 5 ;", "3 - 2 = 1 , 1 4 ;", "2 + 3 = 6 , 4 6 ;"
DONE = GOOD + " 5 * 4 = 20 , 20 ;"
EXACT = Verifier()


def value(text, finished=False, config=EXACT):
    return state_value(TASK, EXAMPLE, text, finished, config)


def test_exact_values_are_what_can_still_be_reached():
    assert [value(text) for text in ("", GOOD, DEAD, WRONG)] == [1, 1, 0, 0]
    assert value(GOOD + " 5 *") == 1  # an open step says nothing yet
    # An answer is worth its grade: a good state that stops short is worth nothing.
    assert (value(DONE, True), value(GOOD, True), value("", True)) == (1, 0, 0)


def test_noise_belongs_to_the_state_whatever_way_led_there():
    noisy = Verifier(noise=0.5)
    other_way = "3 + 2 = 5 , 4 5 ;"  # leaves the same numbers
    assert value(GOOD, config=noisy) == value(other_way, config=noisy) != 1
    assert value(GOOD, config=noisy) != value(GOOD, config=Verifier(0.5, seed=1))
    # A finished state is one of its own, and so is each wrong text.
    texts = [GOOD, DEAD, WRONG, "2 + 3 = 7 , 4 7 ;", DONE]
    drawn = [value(t, config=noisy) - value(t) for t in texts]
    drawn.append(value(DONE, True, noisy) - 1)
    assert len(set(drawn)) == 6


def test_noise_is_normal_with_the_deviation_asked_for():
    drawn = []
    for seed in range(4000):
        drawn.append(value(GOOD, config=Verifier(noise=0.5, seed=seed)) - 1)
    # Standard errors: 0.5 / sqrt(4000) = 0.008 and 0.5 / sqrt(8000) = 0.006.
    assert abs(np.mean(drawn)) < 0.03 and abs(np.std(drawn) - 0.5) < 0.02
    assert abs(np.mean(np.abs(drawn) < 0.5) - 0.683) < 0.03


WORDS = ["", *["0", "2", "3", "4", "5", "6", "20", "+", "*", "=", ",", ";"]]
ID = {word: i for i, word in enumerate(WORDS)}


def decode(ids):
    return " ".join(WORDS[i] for i in ids)


def state(rows, finished):
    """rows: [B][M] texts, a step a text of its own."""
    B, M, D, S = len(rows), len(rows[0]), 2, 9
    tokens, length = np.zeros((B, M, D, S), np.int32), np.zeros((B, M, D), np.int32)
    for b, texts in enumerate(rows):
        for m, steps in enumerate(texts):
            for d, step in enumerate(steps):
                ids = [ID[word] for word in step.split()]
                length[b, m, d] = len(ids)
                tokens[b, m, d, : len(ids)] = ids
    return types.SimpleNamespace(
        prompt_id=np.array([1, -1], np.int32),
        tokens=tokens,
        length=length,
        finished=np.array(finished),
    )


def test_the_guide_reads_each_problem_s_own_question_from_inside_a_program():
    first, second = "2 + 3 = 5 , 4 5 ;", "5 * 4 = 20 , 20 ;"
    rows = [[(first,), (first, second), (first, second)], [(first,), (), ()]]
    given = state(rows, [[False, False, True], [False, False, False]])
    examples = [TASK.parse("2 3 4 -> 10"), EXAMPLE]
    guide = verifier_guide(TASK, examples, decode, EXACT)
    # Question 1 is EXAMPLE; the second row is padding.
    judged = jax.jit(lambda: guide(None, given).value)()
    np.testing.assert_array_equal(judged, [[1, 1, 1], [0, 0, 0]])
    given.prompt_id[:] = 0, -1  # 2 3 4 -> 10: 5 and 4 make 20, 9, 1, but not 10
    judged = jax.jit(lambda: guide(None, given).value)()
    np.testing.assert_array_equal(judged, [[0, 0, 0], [0, 0, 0]])


def test_a_verifier_that_needs_the_answer_may_not_guide_a_graded_search():
    chain = Chain(min_steps=2, max_steps=2)
    with pytest.raises(ValueError, match="verifier of chain needs the answer"):
        verifier_guide(chain, [chain.parse("1 + 2 * 3")], decode, EXACT)
    verifier_guide(chain, [chain.parse("1 + 2 * 3")], decode, EXACT, graded=False)
    with pytest.raises(ValueError, match="noise must be at least 0"):
        Verifier(noise=float("nan"))


# The program is dispatched to the client's pool of threads, for its input is not ready;
# on one core that pool is one thread.
ON_ONE_CORE = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import types
import jax, jax.numpy as jnp
from o1jax.loop.guides import Verifier, verifier_guide
from o1jax.tasks import Countdown

task = Countdown()
examples = 64 * [task.parse("2 3 4 -> 20")]
guide = verifier_guide(task, examples, lambda ids: "", Verifier())

@jax.jit
def search(x, tokens):
    def judge(i, total):
        state = types.SimpleNamespace(
            prompt_id=jnp.arange(64),
            tokens=tokens + i,
            length=jnp.zeros((64, 16, 5), jnp.int32),
            finished=jnp.zeros((64, 16), bool),
        )
        return total + guide(None, state).value.sum()
    return jax.lax.fori_loop(0, 4, judge, x[0, 0])

tokens = jnp.zeros((64, 16, 5, 15), jnp.int32)  # 300 KiB, not aligned as XLA would
product = lambda i, x: jnp.tanh(x @ x)
busy = jax.jit(lambda x: jax.lax.fori_loop(0, 50, product, x))
x = jnp.zeros((700, 700))
search, busy = search.lower(x, tokens).compile(), busy.lower(x).compile()
print(search(busy(x), tokens))
"""


def test_a_guide_does_not_wait_for_itself_on_one_core():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", ON_ONE_CORE]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120
    )
    assert float(done.stdout) == 4 * 64 * 16, done.stderr  # the start is worth 1
