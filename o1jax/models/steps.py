"""Where a step of real text ends: a stop automaton over tokens.

In: a tokenizer and what ends a step. Out: StepEnds, a table over states and tokens, so
that a boundary is seen however the tokenizer cut the text: SmolLM2 writes a blank line
as two tokens, others as a part of `.\\n\\n`. To decode a step:

    ends = step_ends(tokenizer, "blank")
    state = jnp.zeros(B, jnp.int32)                   # START, at the step's first token
    state = ends.after(state, token)                  # for each token drawn
    done = ends.ended(state)                          # this token ends the step

`ends.closing(...)` finds the ends of all steps of responses on the host, and
`split_text` those of a text. A token that ends a step belongs to it whole.
"""

from collections.abc import Iterator, Mapping
from typing import get_args

import numpy as np

from o1jax.models.pieces import Pieces, token_bytes
from o1jax.rollout.ends import START, Kind, StepEnds

KINDS = get_args(Kind)

# States behind START (blanks only). A step without any text has not begun and cannot
# end, so newlines in front of it are its own.
(
    INSIDE,  # text stands on this line
    LINE,  # behind a newline
    MARKUP,  # and `#` or `*`
    S,
    ST,
    STE,
    STEP,
    STEP_SPACE,
    STEP_NUMBER,  # `Step 12`
    DIGIT,
    DIGITS,  # `12`
    POINT,  # `12.`, which may be a decimal
    ENDED,
) = range(START + 1, 14)

_BLANKS, _NEWLINE, _DIGITS, _MARKUP = b" \t\r", b"\n", b"0123456789", b"#*>"


def step_ends(tokenizer: Pieces, kind: str = "blank", *, vocab: int = 0) -> StepEnds:
    """The automaton of a tokenizer; `kind` is one of KINDS.

    vocab: of the policy, where it is larger than the tokenizer's. A number followed by
    a point ends a step at the blank behind it, `2.5` being a number of the text; a
    tokenizer that writes the blank in front of the next word puts that word into the
    step. `2)` and `Step 2:` have no such trouble.
    """
    step = _bytes_table(kind)
    pieces = token_bytes(tokenizer)
    size = max(map(len, pieces))
    # One more symbol, which changes nothing, fills pieces up.
    spelled = np.full((max(vocab, len(pieces)), size), 256, np.int16)
    for i, piece in enumerate(pieces):
        spelled[i, : len(piece)] = np.frombuffer(piece, np.uint8)
    state = np.broadcast_to(np.arange(len(step))[:, None], (len(step), len(spelled)))
    for t in range(size):
        state = step[state, spelled[None, :, t]]
    return StepEnds(state.astype(np.int8))


def split_text(text: str, kind: str = "blank") -> list[str]:
    """The steps of a text; joined, they are the text. The last one may be unclosed."""
    step, state, begin, steps = _bytes_table(kind), START, 0, []
    for end, character in enumerate(text, start=1):
        for byte in character.encode(errors="replace"):
            state = int(step[state, byte])
        if state == ENDED:
            steps.append(text[begin:end])
            begin, state = end, START
    return [*steps, *([text[begin:]] if begin < len(text) else [])]


def _bytes_table(kind: str) -> np.ndarray:
    """i8[states, 257]: the state behind a byte; the last column changes nothing."""
    if kind not in KINDS:
        raise ValueError(f"steps end at {kind!r}; choose from {', '.join(KINDS)}")
    table = np.full((ENDED + 1, 257), INSIDE, np.int8)
    numbers, blank = kind in ("numbered", "any"), kind in ("blank", "any")
    for state, to in _moves(numbers).items():
        for symbols, target in to:
            table[state, list(symbols)] = target
    table[START, list(_BLANKS + _NEWLINE)] = START
    for state in range(INSIDE, ENDED):
        table[state, _NEWLINE[0]] = ENDED if kind == "line" else LINE
    table[LINE, list(_BLANKS)] = LINE
    table[LINE, _NEWLINE[0]] = ENDED if blank else LINE
    if numbers:
        table[[STEP_NUMBER, POINT], _NEWLINE[0]] = ENDED
    table[ENDED] = ENDED
    table[:, 256] = np.arange(ENDED + 1)
    return table


def _moves(numbers: bool) -> Mapping[int, list[tuple[bytes, int]]]:
    """state -> (bytes, next state) at the beginning of a line; else INSIDE follows."""
    if not numbers:
        return {}

    def word() -> Iterator[tuple[int, bytes, int]]:
        yield S, b"tT", ST
        yield ST, b"eE", STE
        yield STE, b"pP", STEP
        yield STEP, _BLANKS, STEP_SPACE

    begin = [(_DIGITS, DIGIT), (b"sS", S), (_MARKUP, MARKUP)]
    return {
        LINE: begin,
        MARKUP: [*begin, (_BLANKS, MARKUP)],
        **{state: [(symbols, to)] for state, symbols, to in word()},
        STEP_SPACE: [(_BLANKS, STEP_SPACE), (_DIGITS, STEP_NUMBER)],
        STEP_NUMBER: [(_DIGITS, STEP_NUMBER), (b".:)*", ENDED)],
        DIGIT: [(_DIGITS, DIGITS), (b".", POINT), (b")", ENDED)],
        DIGITS: [(b".", POINT), (b")", ENDED)],
        POINT: [(_BLANKS + b"*", ENDED)],
    }
