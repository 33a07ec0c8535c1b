"""Where steps of real text end, whatever tokens the text was cut into."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1jax.data.json_tokenizer import JsonTokenizer
from o1jax.data.template import TextTemplate
from o1jax.data.tokenizer import from_symbols, from_texts
from o1jax.loop.marks import step_end_ids
from o1jax.models.pieces import token_bytes
from o1jax.models.steps import KINDS, split_text, step_ends
from o1jax.models.vocabulary import gguf_files, marked
from o1jax.rollout.ends import START, at_tokens

# What a step is, said once more, by regular expressions.
BLANK = r"[ \t\r]"
LINE = r"[^\n]*[^ \t\r\n][^\n]*\n"
NUMBER = (
    rf"\n{BLANK}*(?:[#*>][#*> \t\r]*)?"
    rf"(?:[0-9]{{1,2}}(?:\)|\.[ \t\r\n*])|[sS]tep{BLANK}+[0-9]+[.:)*\n])"
)
ORACLE = {
    "line": rf"{BLANK}*\n*(?:{BLANK}|\n)*{LINE}",
    "blank": rf"(?:{BLANK}|\n)*(?:{LINE})+?{BLANK}*\n",
    "numbered": rf"(?s)(?:{BLANK}|\n)*[^ \t\r\n].*?{NUMBER}",
}


def oracle(text: str, kind: str) -> list[str]:
    steps = []
    while text:
        kinds = ("blank", "numbered") if kind == "any" else (kind,)
        found = [re.match(ORACLE[one], text) for one in kinds]
        end = min((one.end() for one in found if one), default=len(text))
        steps.append(text[:end])
        text = text[end:]
    return steps


class Cut:
    """A tokenizer of given pieces, spelled with a space as U+2581."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces, self.vocab_size = pieces, len(pieces)

    def encode(self, text: str) -> list[int]:
        raise ValueError("it has no newline of its own")

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[i] for i in ids)

    def piece(self, id: int) -> str:
        return self.pieces[id].replace(" ", "\u2581")


PARTS = st.sampled_from(
    ["\n", "\n\n", " ", "1", "2", ".", ")", ":", "Step", "step ", "**", "#", "a", "ten"]
)


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(PARTS, max_size=14))
def test_a_text_is_cut_as_regular_expressions_cut_it(kind, parts):
    text = "".join(parts)
    assert split_text(text, kind) == oracle(text, kind)


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.lists(PARTS, min_size=1, max_size=4), min_size=1, max_size=8))
def test_a_token_closes_a_step_if_the_boundary_lies_in_it(kind, cut):
    """Some with the boundary in their middle; what is behind it belongs to the step."""
    pieces = ["".join(parts) for parts in cut]
    ends = step_ends(Cut(pieces), kind)
    state, begin = START, 0
    for i in range(len(pieces)):
        state = int(ends.after(state, i))
        text = "".join(pieces[begin : i + 1])
        # The boundary lies in its midst, or at its end: more text is not of this step.
        more = oracle(text + "a\n\n", kind)[0]
        closed = len(oracle(text, kind)) > 1 or len(more) == len(text)
        assert bool(ends.ended(state)) == closed, text
        if closed:
            state, begin = START, i + 1


def byte_level(words: list[str]) -> JsonTokenizer:
    """A tokenizer.json with byte-level pieces; its marks are <s> and </s>."""
    words = ["<s>", "</s>", *words]
    fields = {
        "tokens": words,
        "pre": "smollm",
        "model": "gpt2",
        "token_type": [3, 3, *[1] * (len(words) - 2)],
        "merges": [],
    }
    files = gguf_files({f"tokenizer.ggml.{k}": v for k, v in fields.items()})
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    return JsonTokenizer(marked(files["tokenizer.json"], names))


def test_tokens_as_bytes():
    smollm = byte_level(["a", ".", "\u010a", "\u0120", ".\u010a\u010a", "\u00c3", "1"])
    assert token_bytes(smollm) == (
        b"",
        b"",
        b"a",
        b".",
        b"\n",
        b" ",
        b".\n\n",
        b"\xc3",
        b"1",
    )
    trained = from_texts(["one two\nthree two\n"] * 4, 300)
    spelled = token_bytes(trained)
    for text in ("two three\n\ntwo", "caf\u00e9 \u2581"):
        assert b"".join(spelled[i] for i in trained.encode(text)) == text.encode()
    assert [spelled[i] for i in (0, 1, 2)] == [b"", b"", b""]
    assert {b" 12", b" ;"} <= set(token_bytes(from_symbols(["12", ";"])))


def test_a_blank_line_in_two_tokens_in_one_and_inside_another():
    tokenizer = byte_level(
        ["a", ".", "\u010a", "\u0120", ".\u010a\u010a", "\u010a\u0120"]
    )
    a, dot, newline, space, merged, indented = range(2, 8)
    ends = step_ends(tokenizer, "blank")
    rows = [
        [a, dot, newline, newline, a, newline, a, newline],  # "a.\n\n" "a\na\n"
        [a, merged, newline, newline, a, merged, a, a],  # "a.\n\n" "\n\na.\n\n" "aa"
        [a, indented, space, newline, a, a, a, a],  # "a\n  \n": blanks are no text
        [a, newline, newline, a, newline, newline, a, a],  # the first 3: the prompt
    ]
    closing = ends.closing(
        np.array(rows), np.array([0, 0, 0, 3]), np.array([8, 8, 8, 5])
    )
    assert [np.flatnonzero(row).tolist() for row in closing] == [[3], [1, 5], [3], []]


def test_numbers_of_steps_and_numbers_of_the_text():
    text = "Step 1: add\n2.5 + 1\n\nStep 2: go on\n2) by\n10. ten\n 1000. no"
    assert split_text(text, "numbered") == [
        "Step 1: add\n2.5 + 1\n\nStep 2:",
        " go on\n2)",
        " by\n10. ",
        "ten\n 1000. no",
    ]
    assert split_text(text, "blank") == ["Step 1: add\n2.5 + 1\n\n", text[21:]]
    assert split_text("\n\n1. a\n\n**2.** b", "any") == ["\n\n1. a\n\n", "**2.** b"]


def test_the_same_in_jitted_code_and_with_stop_tokens():
    tokenizer = byte_level(["a", "\u010a"])
    ends = step_ends(tokenizer, "blank", vocab=6).or_tokens([1])
    tokens = np.array([[2, 3, 3, 2], [2, 1, 2, 5], [3, 3, 2, 1]])

    @jax.jit
    def ended(tokens):
        after = lambda state, token: (ends.after(state, token),) * 2
        _, states = jax.lax.scan(after, jnp.zeros(3, jnp.int32), tokens.T)
        return ends.ended(states).T

    # The state stays at the end: the token that led there is the first that is True.
    assert np.array(ended(jnp.asarray(tokens))).tolist() == [
        [False, False, True, True],
        [False, True, True, True],
        [False, False, False, True],
    ]
    plain = at_tokens([3], 6)
    assert plain.ended(plain.after(START, tokens[0])).tolist() == [0, 1, 1, 0]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"steps end at 'paragraph'; choose from line"):
        step_ends(byte_level(["a", "\u010a"]), "paragraph")


def test_a_run_whose_steps_are_lines_ends_them_at_any_newline():
    tokenizer = byte_level(["a", "\u010a", "\u010a\u0120", "."])
    experiment = SimpleNamespace(template=TextTemplate())
    run = SimpleNamespace(experiment=experiment, tokenizer=tokenizer)
    assert step_end_ids(run) == (3, 4)
    trained = from_texts(["one two\nthree two\n"] * 4, 300)
    run = SimpleNamespace(experiment=experiment, tokenizer=trained)
    assert trained.id_of("\n") in step_end_ids(run)
    assert [trained.decode([i]) for i in step_end_ids(run)] == [
        "\n"
    ] * 2  # and its byte
