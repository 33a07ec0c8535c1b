"""A policy that is a table, so small that every response it can give is listed.

Tokens a = 0, b = 1 and END = 2; a response is at most three tokens long, so there are
15 of them and 7 states to choose a token in, numbered like a heap: 1 is the empty text,
2 s + token the text behind. All that theory needs is here in f64, and none of it uses
the code under test.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.policy.policy import Policy
from o1jax.types import PolicyOutput, Trajectory

END, MOST, STATES, T = 2, 3, 8, 4  # one token of prompt, in front of the response


def _list():
    for size in range(1, MOST + 1):
        for *head, last in itertools.product(range(3), repeat=size):
            if END not in head and (last == END or size == MOST):
                yield (*head, last)


RESPONSES = list(_list())
LENGTH = np.array([len(y) for y in RESPONSES])
TOKENS = np.array([[1, *y, *[0] * (MOST - len(y))] for y in RESPONSES], np.int32)
MASK = (np.arange(T) >= 1) & (np.arange(T) <= LENGTH[:, None])


def _states():
    for y in RESPONSES:
        row, s = [0], 1
        for token in y:
            row.append(s)
            s = 2 * s + token
        yield row + [0] * (T - len(row))


STATE = np.array(list(_states()))  # i[15, T]  in which token t is chosen
FINISHED = np.array([y[-1] == END for y in RESPONSES])


def forward(params, tokens, **_):
    """Policy.forward; what is read off the response means nothing."""
    step = lambda s, token: (jnp.minimum(2 * s + token, STATES - 1), s)
    first = jnp.ones(len(tokens), jnp.int32)
    _, behind = jax.lax.scan(step, first, tokens[:, 1:].T)
    s = jnp.pad(behind.T, ((0, 0), (1, 0)))
    value = params["value"][s]
    return PolicyOutput(logits=params["logits"][s], value=value, process=value)


POLICY = Policy(None, None, forward, None, None)


def table(seed):
    """Parameters: logits f32[8, 3] and the critic's values f32[8]."""
    rng = np.random.default_rng(seed)
    logits, value = rng.normal(0, 0.7, (STATES, 3)), rng.normal(0, 1, STATES)
    return {"logits": jnp.float32(logits), "value": jnp.float32(value)}


class Theory:
    """Of the policy with these parameters, in f64."""

    def __init__(self, params):
        logits = np.asarray(params["logits"], np.float64)
        self.logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))  # [8, 3]
        self.p = np.exp(self.logp)
        chosen = self.logp[STATE, TOKENS]
        self.logprob = np.where(MASK, chosen, 0.0)  # [15, T]
        self.P = np.exp(self.logprob.sum(1))  # [15]
        self.value = np.where(MASK, np.asarray(params["value"], np.float64)[STATE], 0)
        onehot = np.eye(3)[TOKENS] - self.p[STATE]
        self.score = self.scatter(onehot)  # [15, T, 8, 3]  gradient of log p_t
        self.visits = np.bincount(  # [8]  how often a state is met in a response
            STATE[MASK], np.broadcast_to(self.P[:, None], MASK.shape)[MASK], STATES
        )

    def scatter(self, of_logits):
        """[15, T, 3] gradients in the logits of token t's state -> [15, T, 8, 3]."""
        place = np.eye(STATES)[STATE] * MASK[..., None]
        return place[..., None] * of_logits[:, :, None]

    def slope(self, f):
        """The gradient of E[f(response)], f[15] held fixed."""
        return np.einsum("y,y,ytsa->sa", self.P, f, self.score)

    def by_state(self, gradient):
        """[8, 3] gradients at each state, by how often it is met."""
        return self.visits[:, None] * gradient


def groups(size):
    """i[15^size, size]: all groups of responses to one question."""
    return np.array(list(itertools.product(range(len(RESPONSES)), repeat=size)))


def trajectories(theory, at):
    """The responses `at` [...] as the rows of a Trajectory of `theory`; numpy."""
    at = at.ravel()
    ones = np.ones(len(at), np.int32)
    return Trajectory(
        tokens=TOKENS[at],
        prompt_length=ones,
        length=(1 + LENGTH[at]).astype(np.int32),
        logprob=theory.logprob[at].astype(np.float32),
        value=theory.value[at].astype(np.float32),
        finished=FINISHED[at],
        prompt_id=ones,
    )
