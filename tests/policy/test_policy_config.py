"""A policy that cannot be built says which field is at fault."""

import pytest

from o1jax.policy.policy import PolicyConfig, build_policy


@pytest.mark.parametrize(
    "fields, culprit",
    [
        (dict(width=0), "width"),
        (dict(layers=0), "layers"),
        (dict(heads=-1), "heads"),
        (dict(ff=0), "ff"),
        (dict(unroll=0), "unroll"),
        (dict(cache_chunk=0), "cache_chunk"),
        (dict(vocab=-1), "vocab"),
        (dict(kv_heads=-2), "kv_heads"),
        (dict(head_width=-2), "head_width"),
        (dict(heads=4, kv_heads=3), r"kv_heads \(3\)"),
        (dict(width=16, heads=3), r"heads \(3\)"),
        (dict(width=12, heads=4), "head_width"),  # 3: an odd width has no halves
        (dict(head_width=5), "head_width"),
        (dict(rope_theta=0.0), "rope_theta"),
        (dict(norm_eps=-1e-6), "norm_eps"),
    ],
)
def test_an_impossible_field_is_named(fields, culprit):
    with pytest.raises(ValueError, match=culprit) as error:
        PolicyConfig(**fields)
    assert "\n" not in str(error.value)


def test_the_vocabulary_must_be_known_in_the_end():
    with pytest.raises(ValueError, match=r"PolicyConfig\.vocab"):
        build_policy(PolicyConfig())
