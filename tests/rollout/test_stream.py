"""One text, continued token by token, and read no further than it is new."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.rollout import stream
from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.rollout.sampling import SamplingConfig
from o1jax.rollout.stream import Stream
from o1jax.types import Prompts

GREEDY = SamplingConfig(temperature=0.0)
TEXT = [3, 8, 5, 2, 7]
KEY = jax.random.key(0)


@pytest.fixture
def made(make, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 4)
    _, policy, params = make(layers=1, cache_chunk=64)
    params = policy.unstack(params)

    def counted(*args, **kwargs):
        read.append(args[1].shape[1])
        return policy.extend(*args, **kwargs)

    read = []
    text = Stream(policy._replace(extend=counted), params, GREEDY, capacity=24)
    return policy, params, text, read


def sampled(policy, params, ids, count):
    config = SamplerConfig(max_new_tokens=count, sampling=GREEDY)
    prompts = Prompts(
        tokens=jnp.array([ids]), length=jnp.array([len(ids)]), prompt_id=jnp.array([0])
    )
    found, _ = jax.jit(build_sampler(policy, config))(params, KEY, prompts)
    return np.asarray(found.tokens[0, len(ids) :]), found.logprob[0, len(ids) :]


def test_it_goes_on_as_the_sampler_does_and_reads_new_words_only(made):
    policy, params, text, read = made
    drawn = list(text.tokens(TEXT, KEY, 6))
    tokens, logprob = sampled(policy, params, TEXT, 6)
    np.testing.assert_array_equal([token.id for token in drawn], tokens)
    np.testing.assert_allclose([token.logprob for token in drawn], logprob, atol=2e-5)
    assert read == [8]  # 5 tokens in two blocks of 4

    # What was said, but for its last token, is held; that and two words are new.
    longer = [*TEXT, *tokens.tolist(), 9, 4]
    more = [token.id for token in text.tokens(longer, KEY, 6)]
    assert read == [8, 4]
    # Another beginning: all is read anew, over what was there.
    other = [4, *longer[1:]]
    changed = [token.id for token in text.tokens(other, KEY, 6)]
    assert read == [8, 4, 16]
    for ids, found in ((longer, more), (other, changed)):
        assert found == sampled(policy, params, ids, 6)[0].tolist()


def test_a_reply_that_was_broken_off_leaves_nothing_wrong(made):
    _, _, text, _ = made
    whole = [token.id for token in text.tokens(TEXT, KEY, 6)]
    for reached, _ in zip(text.tokens(TEXT, KEY, 6), range(3)):
        assert reached.id in whole
    text._cache = None  # as a call leaves it that was interrupted
    assert [token.id for token in text.tokens(TEXT, KEY, 6)] == whole


def test_no_room_is_said(made):
    with pytest.raises(ValueError, match="20 tokens leaves no room for 5 more: 24"):
        next(made[2].tokens([3] * 20, KEY, 5))
