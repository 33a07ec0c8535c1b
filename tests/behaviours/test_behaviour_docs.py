"""The Python in docs/behaviours.md runs, and its texts are what they are said to be."""

import re
from pathlib import Path

from o1jax.data.behaviours import Behaviours
from o1jax.data.search_text import SearchText, follows, space
from o1jax.data.search_text.spaces import heuristics
from o1jax.tasks import Chain, Countdown

TEXT = (Path(__file__).parents[2] / "docs" / "behaviours.md").read_text()


def assert_the_comments_are_true(block, names):
    """`call  # Expected(right=0.240, draws=4.0)`: those numbers, as far as written."""
    told = re.findall(r"^(.+?)  # (.*)$", block, re.M)
    assert len(told) == 4
    for call, comment in told:
        found = eval(call, names)  # a line of our own page
        if isinstance(found, bool):
            assert comment.startswith(str(found))
        for name, digits in re.findall(r"(right|answered|draws)=([0-9.]+)", comment):
            places = len(digits.partition(".")[2])
            assert f"{getattr(found, name):.{places}f}" == digits.rstrip("."), call


def test_the_docs_of_texts_are_true():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    names = [{} for _ in blocks]
    for block, own in zip(blocks, names):
        *before, last = re.sub(r"\n#.*", "", block.strip()).split("\n")
        exec(compile("\n".join(before), "behaviours.md", "exec"), own)
        own["last"] = eval(last, own)
    behaviours, checks, search, tree = names
    assert behaviours["task"].grade(behaviours["example"], behaviours["text"]) == 1
    assert behaviours["last"] == 1
    assert_the_comments_are_true(blocks[1], checks)
    assert search["last"].sound
    assert f"# {tree['last']}\n" in blocks[3]
    about_chain, about_countdown = (
        " ".join(text.split()) for text in re.findall(r"```\n(<.*?)```", TEXT, re.S)
    )
    task = Behaviours(task=Chain())
    assert task.grade(task.parse("7 + 5 * 3 - 2"), about_chain) == 1
    task, base = SearchText(), Countdown()
    one = space(base, base.parse("11 17 19 -> 13"))
    assert follows(one, about_countdown, heuristics(base), task.limits)
