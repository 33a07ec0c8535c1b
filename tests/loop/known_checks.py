"""A policy that draws right steps, and errs in its checks, at known rates.

A step is two digits and the mark that closes it: 4 or 0 for right and wrong, then 1 or
2 for whether its check will say yes or no. Behind a wrong step all are wrong; an answer
ends behind three steps. What the policy says follows from the tokens that it can see at
each position, so a token that is hidden, or seen where it is not, shows.
"""

import jax
import jax.numpy as jnp

from o1jax.loop.self_verification import Rates
from o1jax.policy.policy import Policy
from o1jax.types import KVCache, PolicyOutput

RATES = Rates(0.7, 0.3, 0.2, accept_behind=0.45)
STEPS = 3
RIGHT, WRONG, YES, NO, SAID, MARK, ASK = WORDS = "4", "0", "1", "2", "3", ";", "="


def known_policy(tokenizer, prompt_length):
    """Of answers to a prompt of that length."""
    ids = {name: tokenizer.id_of(name) for name in WORDS}
    vocab = tokenizer.vocab_size

    def told(text, end):
        """Output about the token behind text[: end + 1]; text[p] is -1 if unseen."""
        place = jnp.arange(len(text))
        token = lambda back: text[end - back]
        inside = (place >= prompt_length) & (place <= end)
        count = lambda name: jnp.sum(inside & (text == ids[name]))
        wrong, steps = count(WRONG), count(MARK)
        chance = jnp.where(
            token(0) == ids[RIGHT],
            1 - RATES.false_reject,
            jnp.where(wrong == 1, RATES.false_accept, RATES.accept_behind),
        )
        right = jnp.where(wrong > 0, 0.0, RATES.right)
        one_of = lambda a, b, p: (
            jnp.zeros(vocab).at[ids[a]].set(p).at[ids[b]].add(1 - p)
        )
        is_in = lambda *names: jnp.isin(token(0), jnp.array([ids[n] for n in names]))
        asked = (token(0) == ids[ASK]) & (token(1) == ids[ASK])
        ended = jnp.zeros(vocab).at[tokenizer.eos_id].set(1.0)
        begin = jnp.where(steps >= STEPS, ended, one_of(RIGHT, WRONG, right))
        probs = jnp.where(is_in(YES, NO), one_of(MARK, MARK, 1.0), begin)
        probs = jnp.where(is_in(RIGHT, WRONG), one_of(YES, NO, chance), probs)
        says_yes = (token(3) == ids[YES]).astype(jnp.float32)
        probs = jnp.where(asked, one_of(YES, NO, says_yes), probs)
        # A hole in the text is no text: nothing is drawn then that ends a step.
        whole = jnp.all((place > end) | (text >= 0))
        return jnp.log(jnp.where(whole, probs, one_of(SAID, SAID, 1.0)))

    def output(logits):
        nothing = jnp.zeros(logits.shape[:-1])
        return PolicyOutput(logits=logits, value=nothing, process=nothing)

    def start(params, tokens, length, *, capacity):
        logits = jax.vmap(told)(tokens, length - 1)
        place = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        page = lambda x: ((x[:, None, :, None].astype(jnp.float32),),)
        cache = KVCache(k=page(tokens), v=page(place), length=length)
        return output(logits), cache

    def extend(params, tokens, position, contexts, *, at):
        """Keys are tokens, values their positions."""
        B, T = tokens.shape
        size = sum(context.k[0].shape[2] for context in contexts) + T
        text = jnp.full((B, size), -1)
        row = jnp.arange(B)[:, None]
        for context in contexts:
            seen = jnp.broadcast_to(context.mask[:, 0], (B, context.k[0].shape[2]))
            token, place = (x[0][:, 0, :, 0].astype(int) for x in context[:2])
            text = text.at[row, jnp.where(seen, place, size)].set(token, mode="drop")
        text = text.at[row, position].set(tokens)
        end = jnp.take_along_axis(position, at, axis=1)[:, 0]
        page = lambda x: (x[:, None, :, None].astype(jnp.float32),)
        logits = jax.vmap(told)(text, end)[:, None]
        return output(logits), page(tokens), page(position)

    return Policy(
        init=lambda key: {},
        unstack=lambda params: params,
        forward=None,
        start=start,
        step=None,
        extend=extend,
    )


class KnownTask:
    """Says of an answer's steps what their digits say."""

    def state_value(self, example, steps):
        return float(all(step.startswith(RIGHT) for step in steps))

    def grade(self, example, response):
        steps = [step.strip() for step in response.split(MARK)[:-1]]
        return float(len(steps) == STEPS and self.state_value(example, steps))
