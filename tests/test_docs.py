"""The Python in the docs runs, and does what the text beside it says."""

import re
from pathlib import Path

import o1jax.loop.experiment  # noqa: F401  before the registry is put aside
from o1jax.config import registry

DOCS = Path(__file__).parents[1] / "docs"


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.S)


def test_the_task_of_the_docs_is_a_task(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    use, own = blocks("tasks.md")
    exec(compile(use, "tasks.md", "exec"), {})
    names = {}
    exec(compile(own, "tasks.md", "exec"), names)
    task = names["Count"]()
    example = task.example(0, "test", 1)
    assert task.grade(example, " ; ".join(example.steps) + " ;") == 1
    assert task.grade(example, example.steps[0] + " ;") == 0
    (check,) = task.check_steps(task.parse("7 :"), "9 ;")
    assert check.reason == "expected 8"
    assert task.state_value(example, example.steps[:1]) == 1
