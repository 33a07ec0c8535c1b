import json
from pathlib import Path

import pytest

from o1jax.data.jsonl import read_jsonl
from o1jax.tasks.task import Example

GSM8K = {"question": "2 pens at 3?", "answer": "2*3 = <<2*3=6>>6\n\nSo 6.\n#### 6"}


def _write(path, *lines: object):
    text = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
    path.write_bytes(b"\n".join(text))
    return path


def test_both_shapes_of_a_line(tmp_path) -> None:
    file = _write(
        tmp_path / "a.jsonl",
        b"\xef\xbb\xbf" + json.dumps(GSM8K).encode(),  # some editors begin files so
        b"",
        {"question": "1+1?", "steps": ["1+1", "= 2"], "answer": 2, "difficulty": 7},
        {"question": "?", "steps": [], "answer": "x", "id": 3},
    )
    assert read_jsonl(file) == [
        Example("2 pens at 3?", ("2*3 = <<2*3=6>>6", "So 6."), "6", 2),
        Example("1+1?", ("1+1", "= 2"), "2", 7),
        Example("?", (), "x", 0),
    ]


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"question": ', "not JSON: .* at column 13"),
        (b'{"question": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "recursion"),
        ([1], "an object was expected, not list"),
        ({"answer": "1"}, r"no \"question\"; the fields are \['answer'\]"),
        ({"question": " ", "answer": "#### 1"}, "\"question\" is ' ', not a text"),
        ({"question": "?", "answer": "1"}, 'no "steps", and no #### mark'),
        ({"question": "?", "answer": "a\n####  "}, "nothing after ####"),
        ({"question": "?", "answer": True, "steps": []}, '"answer" is True'),
        (b'{"question": "?", "answer": NaN, "steps": []}', '"answer" is nan'),
        ({"question": "?", "answer": "1", "steps": "a"}, '"steps" is not a list'),
        ({"question": "?", "answer": "1", "steps": ["a", 2]}, '"steps" holds'),
        ({"question": "?", "answer": "1", "steps": [" "]}, '"steps" holds'),
        ({"question": "?", "answer": "#### 1", "difficulty": 2**63}, "64-bit"),
        ({"question": "?", "answer": "#### 1", "difficulty": "hard"}, "'hard'"),
        ({"question": "\ud800", "answer": "#### 1"}, "surrogates"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, reason: str) -> None:
    file = _write(tmp_path / "b.jsonl", *[GSM8K] * 16, line, GSM8K)
    with pytest.raises(ValueError, match=f"b.jsonl:17: .*{reason}") as error:
        read_jsonl(file)
    assert "\n" not in str(error.value)


def test_a_file_without_questions_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"c.jsonl: no questions"):
        read_jsonl(_write(tmp_path / "c.jsonl", b"", b"  "))


def test_the_shape_of_math(tmp_path) -> None:
    solution = (
        "We add. Then $2.5 + 1$ is\n\\[\n3.5. \n\\]\nSo $x = \\boxed{\\frac{7}{2}}$."
    )
    file = _write(
        tmp_path / "m.jsonl",
        {"problem": "x?", "solution": solution, "level": "Level 4", "type": "Algebra"},
        {"problem": "y?", "solution": "It is two.", "answer": "2", "level": "Level ?"},
    )
    steps = (
        "We add.",
        "Then $2.5 + 1$ is",
        "\\[ 3.5. \\]",
        "So $x = \\boxed{\\frac{7}{2}}$.",
    )
    assert read_jsonl(file) == [
        Example("x?", steps, "\\frac{7}{2}", 4),
        Example("y?", ("It is two.",), "2", 1),
    ]
    for record, reason in (
        (
            {"problem": "x?", "solution": "7"},
            r"m.jsonl:1: no .boxed\{\} with an answer",
        ),
        ({"problem": "x?", "solution": "\\boxed{ }"}, r"no .boxed\{\} with an answer"),
        ({"problem": "x?"}, 'no "solution"; the fields are'),
    ):
        with pytest.raises(ValueError, match=reason):
            read_jsonl(_write(file, record))


def test_the_samples_of_both_shapes_are_read() -> None:
    samples = Path(__file__).parents[2] / "experiments" / "data"
    competition = read_jsonl(samples / "competition.jsonl")
    assert {example.difficulty for example in competition} == {1, 2, 3, 4, 5}
    assert all("\n" not in step for e in competition for step in e.steps)
    assert len(read_jsonl(samples / "wordproblems.jsonl")) == 240
