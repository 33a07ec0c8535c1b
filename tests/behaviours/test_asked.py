"""Behaviours on request: by marks of a question, and by the system prompt of a chat."""

from dataclasses import replace

import pytest

from o1jax.data.behaviours.asked import MARK_OF, Asked, asked_for
from o1jax.data.behaviours.prompts import ASKS, PromptTemplate, SystemPrompt, shown
from o1jax.data.behaviours.task import Behaviours
from o1jax.loop.text_meter import text_shares
from o1jax.tasks import Chain

MIXTURE = Behaviours(
    task=Chain(), analysis=1, decomposition=1, alternatives=0.7, evaluation=0.7
)


def text(example):
    return " ".join(f"{step} ;" for step in example.steps)


def test_a_text_shows_what_its_question_asks_for_and_nothing_else():
    task, seen = Asked(MIXTURE), set()
    for index in range(100):
        example = task.example(0, "train", index)
        names, bare = asked_for(example.question)
        seen.add(names)
        assert bare == Chain().example(0, "train", index).question
        assert task.grade(example, text(example)) == 1
        for name, mark in MARK_OF.items():
            if name not in names:
                assert mark not in text(example)
            elif name in ("analysis", "decomposition"):  # always, where asked for
                assert mark in text(example)
        # A text that a policy wrote comes without what its author knew.
        alone = replace(example, hidden=None)
        assert task.grade(alone, text(example)) == 1
        assert task.grade(alone, text(example) + " 99 ;") == 0
    assert len(seen) > 20  # of 32 sets


def test_what_is_asked_for_can_be_set():
    reflect = Asked(MIXTURE, "correction+evaluation").example(0, "test", 3)
    assert reflect.question.startswith("<check> <back> ")
    assert Asked(MIXTURE, "none").example(0, "test", 3).question == (
        Chain().example(0, "test", 3).question
    )
    assert asked_for(Asked(MIXTURE, "all").example(0, "test", 3).question)[0] == (
        tuple(MARK_OF)
    )
    assert Asked(MIXTURE).parse("<check> 7 + 5 * 3 =").question == "<check> 7 + 5 * 3 ="
    with pytest.raises(ValueError, match="ask: 'luck' is no behaviour"):
        Asked(MIXTURE, "evaluation+luck")


def test_the_meter_tells_who_obeys():
    task = Asked(MIXTURE, "analysis+decomposition")
    examples = [task.example(0, "valid", i) for i in range(4)]
    texts = [text(example) for example in examples]
    found = task.measure(examples, texts)
    assert (found["obeyed"], found["unasked"], found["analysis"]) == (1, 0, 1)
    # Two of four texts are another question's, bare: half of what was asked for shows.
    bare = text(Chain().example(0, "valid", 0))
    found = task.measure(examples, [*texts[:2], bare, "<check> right 90% ; " + bare])
    assert found["obeyed"] == 0.5
    assert found["unasked"] == pytest.approx(1 / 12)  # one of three behaviours, 4 texts


SAID = {  # phrases of each behaviour, and one that is none
    "analysis": "We are given three numbers and have to find their sum.",
    "decomposition": "My plan: add the tens, then the ones.",
    "completion": "Step 1: 10 + 20 = 30.\nStep 2: 7 + 5 = 12.",
    "alternatives": "Alternatively, 17 + 25 = 20 + 22.",
    "evaluation": "Let me check: 42 - 25 = 17. I am 95% sure.",
    "correction": "Wait, that is wrong. I go back to the sum.",
}


def test_plain_text_is_read_by_its_phrases():
    for name, phrase in SAID.items():
        assert shown(phrase) == (name,)
    assert shown("17 + 25 is 42.") == ()
    assert shown("The answer comes last; first things first.") == ()
    assert shown("Let\N{RIGHT SINGLE QUOTATION MARK}s verify it.") == ("evaluation",)
    assert shown("\n".join(SAID.values())) == tuple(SAID)
    assert tuple(SAID) == tuple(ASKS)


def test_a_system_prompt_asks_for_what_it_names():
    prompt = SystemPrompt(("correction", "analysis"), extra="Be brief.")
    assert prompt.text.index("restate") < prompt.text.index("Wait")
    assert "Alternatively" not in prompt.text and "Be brief." in prompt.text
    assert SystemPrompt(()).text == ""
    with pytest.raises(ValueError, match="behaviours: 'luck' is none; choose from"):
        SystemPrompt(("luck",))


def test_answers_to_a_prompt_are_metered_where_no_task_can():
    examples = [Chain().example(0, "valid", i) for i in range(2)]
    texts = [[SAID["analysis"]], ["4 ;"]]
    assert text_shares(Chain(), examples, texts) == {}
    found = text_shares(Chain(), examples, texts, template=PromptTemplate())
    assert found["text_analysis"] == 0.5 and found["text_correction"] == 0
