"""A tree as plain text and numbers: what trace_of() takes, and what files refuse."""

import json
import string

import numpy as np
import pytest
from forest import FOREST
from hypothesis import given, settings
from hypothesis import strategies as st

from o1jax.search.harvest import on_host
from o1jax.search.trace import (
    ANSWER_VERDICTS,
    Trace,
    read_traces,
    trace_of,
    write_traces,
)
from o1jax.types import Spent


def letters(ids):
    """1 -> a, 2 -> b, ..."""
    return "".join(string.ascii_lowercase[i - 1] for i in ids)


def words(ids):
    """One space between tokens, none in front, as a tokenizer of words decodes."""
    return " ".join(letters([i]) for i in ids)


def trace(b=0, **options):
    return trace_of(
        FOREST,
        b,
        **{"question": "3 5 -> 8", "method": "mcts", "decode": letters, **options},
    )


def test_the_trace_of_a_tree():
    found = trace(
        chosen=np.int32(3),
        answer_verdict="right",
        verdict=["", "ok", "2 is left out", "ok", "", "", ""],
        spent=Spent(generated_tokens=np.float32(14)),
    )
    f32 = lambda *numbers: tuple(float(np.float32(number)) for number in numbers)
    assert found == Trace(
        question="3 5 -> 8",
        method="mcts",
        parent=(-1, 0, 0, 1, 1, 2, 0),
        action=(-1, 0, 2, 0, 1, 1, 1),
        step=("", "ab", "c", "def", "g", "hi", "iii"),
        visits=(8, 4, 2, 2, 1, 1, 1),
        value=f32(0.5, 0.6, 0.2, 1.0, 0.0, 0.25, 0.5),
        raw_value=f32(0.5, 0.5, 0.1, 1.0, 0.0, 0.25, 0.5),
        # Token t has log-prob -t / 8: -(1 + 2) / 8, -3 / 8, -(4 + 5 + 6) / 8, ...
        logprob=(0, -3 / 8, -3 / 8, -15 / 8, -7 / 8, -17 / 8, -27 / 8),
        finished=(False, False, False, True, True, True, False),
        chosen=3,
        answer_verdict="right",
        verdict=("", "ok", "2 is left out", "ok", "", "", ""),
        spent=Spent(14.0, 0.0, 0.0, 0.0),
    )
    assert found.path(3) == (0, 1, 3)
    assert found.text(3) == "abdef"
    assert found.text(0) == ""
    with pytest.raises(ValueError, match="node 7 is none of 7"):
        found.path(7)


def test_a_trace_holds_the_nodes_in_use_only():
    assert trace(1).step == ("", "e", "fk")
    assert trace(2).parent == (-1,)
    assert trace(2).verdict == ("",)
    assert trace_of(
        on_host(FOREST), 1, question="3 5 -> 8", method="mcts", decode=letters
    ) == trace(1)


def test_steps_keep_the_spaces_between_them():
    found = trace(decode=words)
    assert found.step[1] == "a b" and found.step[3] == " d e f"
    assert found.text(3) == "a b d e f"


def test_a_step_that_changes_the_text_before_it_is_decoded_alone():
    # A path that ends in b shows "?", as half of a character would.
    broken = lambda ids: letters(ids[:-1]) + "?" if ids[-1:] == [2] else letters(ids)
    assert trace(decode=broken).step[:5] == ("", "a?", "c", "def", "g")


finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def traces(draw):
    count = draw(st.integers(1, 6))
    column = lambda entries: tuple(
        draw(st.lists(entries, min_size=count, max_size=count))
    )
    return Trace(
        question=draw(st.text()),
        method=draw(st.text()),
        parent=(-1, *(draw(st.integers(0, n - 1)) for n in range(1, count))),
        action=column(st.integers()),
        step=column(st.text()),
        visits=column(st.integers(0)),
        value=column(finite),
        raw_value=column(finite),
        logprob=column(finite),
        finished=column(st.booleans()),
        chosen=draw(st.integers(0, count - 1)),
        answer_verdict=draw(st.sampled_from(ANSWER_VERDICTS)),
        verdict=column(st.text(st.characters())),
        spent=Spent(*(draw(finite) for _ in Spent._fields)),
    )


@settings(max_examples=50)
@given(st.lists(traces(), max_size=3))
def test_traces_come_back_from_a_file_as_they_were(tmp_path_factory, written):
    file = tmp_path_factory.getbasetemp() / "traces.jsonl"
    write_traces(file, written)
    assert read_traces(file) == written
    assert len(file.read_bytes().split(b"\n")) == len(written) + 1


def test_half_a_character_survives_a_file(tmp_path):
    broken = trace(verdict=["\ud800", *[""] * 6])
    write_traces(tmp_path / "t.jsonl", [broken])
    assert read_traces(tmp_path / "t.jsonl") == [broken]


def changed(**fields):
    return lambda data: data | fields


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda data: [data],
            "[{'question': '3 5 -> 8', 'method': '... is not an object",
        ),
        (lambda data: {}, "question is missing"),
        (changed(colour="red"), "colour is no field of a trace"),
        (changed(question=3), "question is 3, not a text"),
        (changed(method=None), "method is None, not a text"),
        (changed(visits="many"), "visits is 'many', not a list"),
        (changed(visits=[3, 2]), "visits has 2 entries, parent has 3"),
        (changed(visits=[3, 2, True]), "visits[2] is True, not a whole number"),
        (changed(visits=[3, 2, 1.0]), "visits[2] is 1.0, not a whole number"),
        (changed(visits=[3, -2, 1]), "visits[1] is -2, below 0"),
        (changed(value=[0.5, float("nan"), 1]), "value[1] is nan, not a finite number"),
        (changed(logprob=[0, "-1", 0]), "logprob[1] is '-1', not a finite number"),
        (changed(finished=[0, 0, 1]), "finished[0] is 0, not a bool"),
        (changed(step=["", "e", None]), "step[2] is None, not a text"),
        (changed(verdict=["", 1, ""]), "verdict[1] is 1, not a text"),
        (changed(action=[-1, 0.5, 0]), "action[1] is 0.5, not a whole number"),
        (changed(parent=[]), "there is no node in it, not even the root"),
        (changed(parent=[0, 0, 1]), "parent[0] is 0, a root has -1"),
        (changed(parent=[-1, 2, 0]), "parent[1] is 2, no earlier node"),
        (changed(parent=[-1, 0, -1]), "parent[2] is -1, no earlier node"),
        (changed(chosen=3), "chosen is 3, of 3 nodes"),
        (changed(chosen="1"), "chosen is '1', not a whole number"),
        (
            changed(answer_verdict="perhaps"),
            "answer_verdict is 'perhaps', not one of right, wrong, not graded",
        ),
        (changed(spent=3), "spent is 3, not an object"),
        (changed(spent={}), "spent.generated_tokens is missing"),
        (
            lambda data: data | {"spent": data["spent"] | {"flops": "few"}},
            "spent.flops is 'few', not a finite number",
        ),
        (
            lambda data: data | {"spent": data["spent"] | {"joules": 1}},
            "spent.joules is no field of a trace",
        ),
    ],
)
def test_what_is_wrong_with_a_trace_is_named(change, message):
    data = trace(1).to_json()
    assert Trace.from_json(data) == trace(1)
    with pytest.raises(ValueError) as caught:
        Trace.from_json(change(data))
    assert str(caught.value) == f"trace: {message}"


def test_what_is_wrong_with_a_file_is_named_with_its_line(tmp_path):
    file = tmp_path / "traces.jsonl"
    good = json.dumps(trace(1).to_json()).encode()
    for line, reason in (
        (b"{", "not JSON: Expecting property name enclosed in double quotes"),
        (b'"\xff"', "not UTF-8"),
        (b"[]", "trace: [] is not an object"),
        (b"[" * 100_000, "nested too deeply"),
    ):
        file.write_bytes(good + b"\n" + line + b"\n")
        with pytest.raises(ValueError) as caught:
            read_traces(file)
        assert str(caught.value) == f"{file}:2: {reason}"


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "traces.jsonl"
    write_traces(file, [trace(1)])

    def some():
        yield trace(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_traces(file, some())
    assert read_traces(file) == [trace(1)]
    assert [path.name for path in tmp_path.iterdir()] == ["traces.jsonl"]
