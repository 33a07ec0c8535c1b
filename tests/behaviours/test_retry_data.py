"""Retry data: mistakes at a rate, taken back, masked or not, at equal tokens."""

import numpy as np
import pytest

from o1jax.config import load
from o1jax.data.batches import BatchConfig, sft_batches
from o1jax.data.behaviours import Behaviours
from o1jax.data.budget import BudgetBatch, TokenBudget, within_budget
from o1jax.data.datasets import TaskSource
from o1jax.data.template import Template, TextTemplate
from o1jax.data.tokenizer import from_symbols, from_texts
from o1jax.loop.experiment import Experiment
from o1jax.tasks import Chain, Graph

RETRY = dict(analysis=0, decomposition=0, alternatives=0, evaluation=0)


def retry(base, **knobs) -> Behaviours:
    return Behaviours(task=base, **(RETRY | knobs))


def stream(task, config, *, template=None, tokenizer=None):
    tokenizer = tokenizer or from_symbols(task.symbols())
    source = TaskSource(task, 0, "train")
    return sft_batches(source, tokenizer, template or Template(), config, seed=0)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_mistakes_come_at_their_rate(rate):
    """Each step is wrong again and again with chance q: q / (1 - q) mistakes a step."""
    task = retry(Chain(), correction=rate)
    texts = [task.example(0, "train", i) for i in range(1500)]
    steps = sum(len(e.hidden.example.steps) for e in texts)
    backs = sum(e.hidden.labels["back"] for e in texts)
    mean, variance = rate / (1 - rate), rate / (1 - rate) ** 2  # of a geometric count
    assert abs(backs / steps - mean) < 4 * (variance / steps) ** 0.5
    assert all(e.hidden.labels["back_needed"] == e.hidden.labels["back"] for e in texts)


def test_weak_mistakes_are_later_steps():
    task = retry(Graph(), correction=0.5, mistakes="weak")
    mistakes = 0
    for i in range(100):
        text = task.example(0, "train", i).hidden
        steps, stands = text.example.steps, 0
        for at, segment in enumerate(text.segments):
            words = segment.removeprefix("<work> ")
            following = text.segments[at + 1 : at + 2]
            if following == (f"<back> #{stands + 1}",):
                assert words in steps[stands + 1 :]
                mistakes += 1
            elif not words.startswith("<back>"):
                assert words == steps[stands]
                stands += 1
    assert mistakes > 100


def test_masked_mistakes_have_no_weight():
    """7 + 5 * 3: the mistakes and the marks that close them, and nothing else."""
    rates = dict(correction=0.5, evaluation=0.5)
    plain = retry(Chain(), **rates)
    masked = retry(Chain(), **rates, masked=True)
    config = BatchConfig(rows=8, length=100, on_overflow="drop", packed=True)
    tokenizer = from_symbols(plain.symbols())
    learned, all_ = (next(stream(task, config)) for task in (masked, plain))
    np.testing.assert_array_equal(learned.tokens, all_.tokens)
    np.testing.assert_array_equal(all_.weight, all_.weight * (all_.segment > 0))
    for row, weight, before, segment in zip(
        learned.tokens, learned.weight, all_.weight, learned.segment
    ):
        for document in range(1, segment.max() + 1):
            here = (segment == document) & (before > 0)
            parts = tokenizer.decode(row[here].tolist()).split(" ; ")
            silent = []
            for part in parts:
                words = part.removesuffix(" ;").split()
                silent.append((words, words[0] not in ("<check>", "<back>")))
            # By hand: a step is taken back if `<back>` comes before any other step.
            expected, wrong = [], False
            for words, step in reversed(silent):
                if words[0] == "<back>":
                    wrong = True
                expected.append(np.full(len(words) + 1, not (step and wrong)))
                wrong = wrong and not step
            flat = np.concatenate(expected[::-1])
            flat = np.append(flat, True)  # the end of text
            np.testing.assert_array_equal(weight[here], flat)
    assert 0.5 < learned.weight.sum() / all_.weight.sum() < 0.95


def test_masking_with_a_tokenizer_of_pieces():
    """Of a corpus: words take several tokens, marks one."""
    task = retry(Graph(), correction=0.5, masked=True)
    template = TextTemplate(step_end=" ;\n", answer_mark="")
    examples = [task.example(0, "train", i) for i in range(30)]
    texts = [template.response(e) for e in examples]
    tokenizer = from_texts(texts, 400, ["<work>", "<back>", ";"])
    config = BatchConfig(rows=30, length=400)
    batch = next(stream(task, config, template=template, tokenizer=tokenizer))
    for row, weight, example in zip(batch.tokens, batch.weight, examples):
        heard = tokenizer.decode(row[weight > 0].tolist())
        loud = [
            s for i, s in enumerate(example.steps) if i not in example.hidden.silent
        ]
        assert heard == "".join(f"{s} ;\n" for s in loud)


def test_arms_train_on_equal_tokens_exactly():
    """Plain, weak, masked or without mistakes: equal to the token, resumed or not."""
    arms = [
        Chain(),
        retry(Chain(), correction=0),
        retry(Chain(), correction=0.5),
        retry(Chain(), correction=0.5, masked=True),
        retry(Chain(), correction=0.5, mistakes="weak"),
    ]
    config = BudgetBatch(
        rows=4, length=128, packed=True, on_overflow="drop", tokens=5003
    )
    real, updates = [], []
    for task in arms:
        batches = list(within_budget(stream(task, config), config, steps=100))
        real.append(sum(int((b.segment > 0).sum()) for b in batches))
        updates.append(len(batches))
        last = batches[-1]
        assert not last.weight[last.segment == 0].any()
        assert not last.tokens[last.segment == 0].any()
        resumed = within_budget(stream(task, config), config, steps=100)
        next(resumed)
        state = resumed.get_state()
        resumed = within_budget(stream(task, config), config, steps=100)
        resumed.set_state(state)
        for batch, other in zip(batches[1:], resumed, strict=True):
            np.testing.assert_array_equal(batch.tokens, other.tokens)
            np.testing.assert_array_equal(batch.weight, other.weight)
    assert real == [5003] * len(arms)
    assert max(updates) - min(updates) <= 2


def test_a_budget_that_cannot_be_used_up_is_refused():
    config = BudgetBatch(rows=4, length=64, tokens=10_000)
    with pytest.raises(ValueError, match="tokens is 10000, but 39 steps read at most"):
        within_budget(stream(Chain(), config), config, steps=39)
    assert isinstance(
        within_budget(stream(Chain(), config), config, steps=40), TokenBudget
    )
    plain = stream(Chain(), BatchConfig())
    assert within_budget(plain, BatchConfig(), steps=1) is plain
    with pytest.raises(ValueError, match="tokens must be at least 1"):
        BudgetBatch(tokens=0)
    other = TokenBudget(stream(Chain(), config), 7)
    with pytest.raises(ValueError, match="its token budget was 10000 and is 7"):
        other.set_state(TokenBudget(stream(Chain(), config), 10_000).get_state())
    two = BatchConfig(rows=2, length=64)
    with pytest.raises(ValueError, match=r"the data ended after \d+ of 10000 tokens"):
        list(TokenBudget(iter([next(stream(Chain(), two))]), 10_000))


def test_an_experiment_file_sets_the_mixture(tmp_path):
    file = tmp_path / "retry.gin"
    file.write_text(
        "Experiment.task = @Behaviours()\nExperiment.template = @PathTemplate()\n"
        "Experiment.stages = [@Imitate()]\nBehaviours.task = @Graph()\n"
        "Behaviours.correction = 0.5\nImitate.batch = @BudgetBatch()\n"
        "BudgetBatch.tokens = 99\n"
    )
    experiment = load(file).experiment
    assert isinstance(experiment, Experiment)
    assert experiment.task == Behaviours(task=Graph(), correction=0.5)
    assert experiment.stages[0].batch.tokens == 99
