"""Which answers math-verify is asked about, and what its silence means."""

import pytest

from o1jax.tasks import mathematics
from o1jax.tasks.mathematics import VERIFIERS, equal_math, grade_many, grade_math
from o1jax.tasks.worker import SLOW, Reply


@pytest.fixture
def asked(monkeypatch):
    """What the library was asked; it finds sets equal, and hangs on towers."""
    questions = []

    def worker(what, answer, gold):
        questions.append((answer, gold))
        if "**" in answer:
            return Reply(None, SLOW)
        return Reply(sorted(answer.split(", ")) == sorted(gold.split(", ")))

    monkeypatch.setattr(mathematics, "math_worker", lambda: worker)
    return questions


def test_it_is_asked_only_where_spelling_cannot_tell(asked):
    assert grade_math(r"so \boxed{\frac12}", "0.5") == 1.0
    assert grade_math("#### 41", "42") == 0.0
    assert asked == []
    assert grade_math("The answer is 2, 1", "1, 2") == 1.0
    assert asked == [("2, 1", "1, 2")]


def test_an_answer_that_takes_too_long_is_wrong_and_holds_up_no_other(asked):
    texts = ["#### 2, 1", "#### 9**9**9", "#### 3, 1", "#### 3"]
    assert grade_many(texts, ["1, 2"] * 4) == [1.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="is shorter than argument 1"):
        grade_many(texts, ["1"])


def test_a_long_answer_is_not_handed_on(asked):
    assert grade_math("#### " + "x + " * 1000, "x, y" + " " * 3000) == 0.0
    assert asked == []


def test_a_gold_answer_must_be_there(asked):
    with pytest.raises(ValueError, match="the gold answer is blank"):
        equal_math("5", " ")


def test_verifiers_by_name(asked):
    said = lambda text, gold: {k: v(text, gold) for k, v in VERIFIERS.items()}
    assert said("#### 42", "42") == {"words": 1.0, "number": 1.0, "math": 1.0}
    assert said("#### 42.0", "42") == {"words": 0.0, "number": 1.0, "math": 1.0}
    assert said("#### 42 km", "42") == {"words": 0.0, "number": 0.0, "math": 1.0}
    assert VERIFIERS["words"]("The answer is a cat.", "a cat") == 1.0
