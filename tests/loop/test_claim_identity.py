"""The name of a method in the cache of claims."""

from dataclasses import dataclass, field, make_dataclass

import pytest

from o1jax.loop.methods import Search
from o1jax.loop.reproduce.a6 import CLAIM
from o1jax.loop.reproduce.claim import Arm
from o1jax.loop.reproduce.identity import digest, identity
from o1jax.rollout.decode import Draft
from o1jax.search.steps import Steps


def new(default):
    return field(default=default, metadata={"identity": "if set"})


def test_a_field_that_is_new_and_not_set_changes_nothing():
    before = make_dataclass("Method", [("n", int, 4)], frozen=True)
    after = make_dataclass(
        "Method", [("n", int, 4), ("how", str | None, new(None))], frozen=True
    )
    assert identity(before()) == repr(before()) == "Method(n=4)" == identity(after())
    assert identity(after(how="so")) == "Method(n=4, how='so')"
    assert digest((1, before())) == digest((1, after())) != digest((1, after(5)))


def test_it_is_the_repr_of_all_else():
    @dataclass(frozen=True)
    class Nested:
        parts: tuple = ((), (1,), (1.5, "a", None, True))
        hidden: int = field(default=3, repr=False)

    assert identity(Nested()) == repr(Nested())


def test_searches_and_functions_of_modules_have_a_name():
    plain = Search(steps=Steps())
    assert "draft" not in identity(plain) and "ends" not in identity(plain)
    drafted = Search(steps=Steps(draft=Draft(tokens=4, layers=1)))
    assert "draft=Draft(tokens=4, layers=1" in identity(drafted)
    chain = next(a for a in CLAIM.tiers["nano"].arms if a.name == "chains-of-2-4")
    assert "run=o1jax.loop.reproduce.a5.search" in identity(chain.method)


def test_a_method_without_a_name_of_its_own_is_refused():
    with pytest.raises(ValueError, match="arm 'x': method has no repr of its own"):
        Arm("x", object(), identity)
