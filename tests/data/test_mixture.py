"""A mixture gives each task its share and its own grades, and keeps splits apart."""

import re
from collections import Counter
from pathlib import Path

import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.data.behaviours import Behaviours
from o1jax.data.behaviours.draft import Text
from o1jax.data.mixture import Mixture
from o1jax.loop.workdir import Workdir
from o1jax.tasks import Chain, Countdown

ROOT = Path(__file__).parents[2]

CHAIN, COUNTDOWN = Chain(), Countdown(numbers=3)
MASKED = Behaviours(task=CHAIN, correction=0.9, masked=True)
MIXTURE = Mixture((CHAIN, COUNTDOWN, MASKED), (1, 2, 1))


def test_shares_are_the_weights():
    drawn = Counter(MIXTURE.example(0, "train", i).part for i in range(4000))
    for part, share in enumerate((0.25, 0.5, 0.25)):
        # Of 4,000 draws, five standard deviations.
        assert abs(drawn[part] / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5
    assert MIXTURE.shares == (0.25, 0.5, 0.25)
    assert MIXTURE.name == "0.25 chain + 0.50 countdown + 0.25 chain-behaviours"
    assert Mixture((CHAIN, COUNTDOWN)).shares == (0.5, 0.5)


def test_examples_are_the_tasks_own():
    for index in range(40):
        example = MIXTURE.example(3, "valid", index)
        own = MIXTURE.tasks[example.part].example(3, "valid", index)
        assert (example.question, example.steps) == (own.question, own.steps)
        text = " ".join(f"{step} ;" for step in example.steps)
        assert MIXTURE.grade(example, text) == 1
        assert MIXTURE.grade(example, text + " 99 ;") == 0
        checks = MIXTURE.tasks[example.part].check_steps(own, text)
        assert MIXTURE.check_steps(example, text) == checks and checks[-1].correct
        assert MIXTURE.state_value(example, list(example.steps)) == 1
        # What a text's author knows of it comes along: which of its steps are mistakes.
        assert isinstance(example.hidden, Text) == (example.part == 2)
        assert MIXTURE.example(3, "valid", index) == example


def test_splits_stay_apart():
    seen = {
        split: {MIXTURE.example(0, split, i).question for i in range(300)}
        for split in ("train", "valid", "test")
    }
    assert not seen["train"] & seen["valid"] and not seen["train"] & seen["test"]
    assert not seen["valid"] & seen["test"]


def test_weight_0_brings_words_alone():
    quiet = Mixture((CHAIN, COUNTDOWN), (1, 0))
    assert {quiet.example(0, "train", i).part for i in range(200)} == {0}
    assert set(quiet.symbols()) == {*CHAIN.symbols(), *COUNTDOWN.symbols()}
    assert quiet.name == "1.00 chain"


def test_a_users_question_goes_to_the_task_that_reads_it():
    assert MIXTURE.parse("3 5 7 -> 22 :").part == 1
    assert MIXTURE.parse("7 + 5 * 3 =").part == 0
    with pytest.raises(ValueError, match="no task of the mixture reads it: chain: "):
        MIXTURE.parse("what?")


def test_the_meter_is_that_of_each_task():
    examples = [MIXTURE.example(0, "train", i) for i in range(60)]
    texts = [" ".join(f"{step} ;" for step in e.steps) for e in examples]
    own = [(e, t) for e, t in zip(examples, texts) if e.part == 2]
    alone = MASKED.measure(*map(list, zip(*own)))
    found = MIXTURE.measure(examples, texts)
    assert found == {f"chain-behaviours/{name}": x for name, x in alone.items()}
    assert found["chain-behaviours/correction"] > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((),), "tasks is empty"),
        (((CHAIN,), (1, 2)), "weights: 2 of them for 1 tasks"),
        (((CHAIN,), (-1,)), "weights must not be negative"),
        (((CHAIN,), (0,)), "weights are all 0"),
    ],
)
def test_bad_weights_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixture(*arguments)


EXAMPLE = re.search(
    r"```\n(Experiment.task = @Mixture.*?)```",
    (ROOT / "docs" / "stages.md").read_text(),
    re.S,
)[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that mixes chains with a user's file, as the docs say."""
    folder = tmp_path_factory.mktemp("mixed")
    file = folder / "mixed.gin"
    text = EXAMPLE.replace("experiments/data", str(ROOT / "experiments" / "data"))
    file.write_text(f"Experiment.stages = [@Imitate()]\n{text}")
    return Workdir(load(file).experiment, folder)


def test_a_users_questions_are_a_part(run):
    mixture, tokenizer = run.experiment.task, run.tokenizer
    template = run.experiment.template
    of = {0: 0, 1: 0}
    for index in range(60):
        example = mixture.example(0, "train", index)
        prompt, response = template.encode(tokenizer, example)
        assert tokenizer.unk_id not in (*prompt, *response)
        text = tokenizer.decode(response)
        assert mixture.grade(example, text) == 1
        assert mixture.grade(example, text.replace(example.answer, "77")) == 0
        of[example.part] += 1
    assert min(of.values()) > 15
    words = example.question.split()
    assert mixture.parse(" ".join(words)).part == example.part
    assert mixture.parse("7 + 5 * 3 =").part == 0
    unknown = mixture.parse("How many?")
    assert (unknown.part, unknown.answer) == (1, "")


def test_of_a_file_each_held_out_question_is_asked_once(run):
    mixture, held_out = run.experiment.task, []
    with pytest.raises(ValueError, match=r"has 16 test questions: number 16 was asked"):
        for index in range(60):
            example = mixture.example(0, "test", index)
            held_out += [example.question] * (example.part == 1)
    assert len(held_out) == len(set(held_out)) == 16
    seen = {mixture.example(0, "train", i).question for i in range(1000)}
    assert not seen & set(held_out)
