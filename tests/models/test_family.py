"""Options of families: what they may be, and what they change of a run's identity."""

import math

import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.policy.family import Family, RopeScaling, frequencies
from o1jax.policy.policy import PolicyConfig

PLAIN = "Experiment.stages = [@Evaluate()]\n"
FAMILY = "PolicyConfig.family = @Family()\n"


def test_a_family_is_part_of_the_identity_where_there_is_one(tmp_path):
    def of(text):
        file = tmp_path / "run.gin"
        file.write_text(PLAIN + text)
        return load(file)

    plain, capped = of(""), of(FAMILY + "Family.logit_cap = 30.0\n")
    # Runs made before there were families keep theirs: the field is left out.
    assert "PolicyConfig.family" in plain.transient
    assert [r for r in plain.rows() if r.name == "PolicyConfig.family"]
    assert "PolicyConfig.family" not in capped.transient
    others = [of(FAMILY), of(FAMILY + "Family.logit_cap = 50.0\n"), plain, capped]
    assert len({loaded.fingerprint() for loaded in others}) == 4


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda: Family(activation="relu"), "activation is 'relu'"),
        (lambda: Family(logit_cap=-1.0), "logit_cap must not be negative"),
        (lambda: Family(windows=(4, -1)), "windows must not be negative"),
        (lambda: RopeScaling(factor=0.5), "factor must be at least 1"),
        (lambda: RopeScaling("yarn", 2.0), "original must be positive for kind 'yarn'"),
        (lambda: RopeScaling("llama3", 2.0, 8, low=4.0), "low must be above 0"),
        (
            lambda: PolicyConfig(family=Family(windows=(4,))),
            "family has 1 windows for 2 layers",
        ),
    ],
)
def test_options_that_make_no_sense_are_named(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_frequencies_are_slowed_where_a_text_was_too_short_for_them():
    """theta = 16, 4 pairs: they turn by 1, 1/2, 1/4 and 1/8 at each token."""
    plain = np.array([1, 1 / 2, 1 / 4, 1 / 8])
    np.testing.assert_allclose(frequencies(8, 16.0), plain, rtol=1e-6)
    linear = frequencies(8, 16.0, RopeScaling("linear", 4.0))
    np.testing.assert_allclose(linear, plain / 4, rtol=1e-6)
    # Over 16 pi tokens they make 8, 4, 2 and 1 turns. From 1 to 4 turns the part kept
    # is 0, 1/3, 1; what is not kept is a fourth as fast.
    original = round(16 * math.pi)
    llama3 = frequencies(8, 16.0, RopeScaling("llama3", 4.0, original))
    kept = np.clip((original * plain / (2 * math.pi) - 1) / 3, 0, 1)
    np.testing.assert_allclose(kept, [1, 1, 1 / 3, 0], atol=1e-2)
    np.testing.assert_allclose(llama3, plain * (kept + (1 - kept) / 4), rtol=1e-6)
    # Pairs 0 to 3 make 8 to 1 turns, so those between fast = 8 and slow = 1 are blended
    # in even steps of the pair's number.
    scaling = RopeScaling("yarn", 4.0, original, fast=8.0, slow=1.0)
    yarn = frequencies(8, 16.0, scaling)
    kept = np.array([1, 2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(yarn, plain * (kept + (1 - kept) / 4), rtol=1e-6)
    assert yarn[0] > linear[0] and np.isclose(yarn[3], linear[3])
