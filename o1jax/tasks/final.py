r"""The final answer in what a model wrote.

In: any text. Out: the answer that it marks, by `<answer>` tags, `\boxed{42}`,
`#### 42` or "the answer is 42", in this order; of several the last. A text that
marks none answers with its last line. Bounded: the end of a long text is read.
"""

import re

MAX_TEXT = 65_536  # characters at the end of a text that are looked at
BOXES = 32  # at the end of a text that are looked at
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
# "The answer is 5", "the final answer to this problem is 5", "Answer: 5".
_SAID = re.compile(
    r"\banswer(?:\s+(?:to|of|for)\s[^.:=\n]{1,80}?)?\s*(?:\bis\b|:|=)[ \t:]*([^\n]+)",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MARK = "####"


def find_answer(text: str) -> str:
    """What the text answers, stripped; "" if it has no text."""
    text = text[-MAX_TEXT:]
    if tags := _TAG.findall(text):
        return tags[-1].strip()
    if (inside := last_box(text)) is not None:
        return inside.strip()
    if _MARK in text:
        return text.rpartition(_MARK)[2].strip().partition("\n")[0].strip()
    if said := _SAID.findall(text):
        return said[-1].strip()
    return text.strip().rpartition("\n")[2].strip()


def last_box(text: str) -> str | None:
    r"""What the last \boxed{} holds, the inner one of two; None without a closed one.

    Braces are counted; one behind a backslash is text.
    """
    for found in reversed(list(_BOX.finditer(text))[-BOXES:]):
        end = _closing_brace(text, found.end())
        if end is not None:
            return text[found.end() : end]
    return None


def plain(answer: str) -> str:
    """Without what a writer puts around it: `**42**.`, `$42$`, `"42"` are 42."""
    bare = answer.strip(" \t\n*$`").removesuffix(".").strip(" \t\n*$`")
    quoted = len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "'\""
    return bare[1:-1] if quoted else bare


def _closing_brace(text: str, begin: int) -> int | None:
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[begin:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return begin + brace.start()
    return None
