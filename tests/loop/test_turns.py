"""Two attempts at each question: made, paid and learned from."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.learn.kl import KLControl
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.learn.policy_objective import PolicyGradient
from o1jax.learn.terms import Divergence, Reinforce
from o1jax.loop import improve_sections
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.experiment import Experiment
from o1jax.loop.filters import Filters
from o1jax.loop.held_out import HeldOut
from o1jax.loop.improve import Improve
from o1jax.loop.improvement import Improvement
from o1jax.loop.learners import Clone
from o1jax.loop.methods import Search
from o1jax.loop.payment import Payment
from o1jax.loop.turns import Turns, corrections
from o1jax.loop.workdir import Workdir
from o1jax.policy.policy import PolicyConfig
from o1jax.reward.shaping import Shaping
from o1jax.rollout.decode import SamplerConfig
from o1jax.tasks import Chain

G = 8  # episodes of a question
HELD = PolicyGradient(terms=(Reinforce(), Divergence("k2")), kl=KLControl(0.01))
STAGE = Improve(
    rounds=20,
    questions=4,
    samples=G,
    learner=HELD,
    optimizer=OptimizerConfig(0.03, 0, "constant", weight_decay=0.0),
    held_out=HeldOut(0, 8, 8),
    filters=Filters(zero_variance=True),
    turns=Turns(alpha=0.5, pay_first=False, first_kl=0.3, mark="= ="),
)


@dataclass(frozen=True)
class Even(Chain):
    """Right is what begins with an even number: policies that know nothing hit it."""

    def grade(self, example, response):
        return float(response[:1] in ("0", "2", "4"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run that has done nothing yet."""
    experiment = Experiment(
        task=Even(min_steps=2, max_steps=2, modulus=5),
        policy=PolicyConfig(vocab=16, width=16, layers=1, heads=2, ff=16),
        sampler=SamplerConfig(rows=16, max_new_tokens=6),
        stages=(STAGE,),
    )
    run = Workdir(experiment, tmp_path_factory.mktemp("turns"))
    # Drawn by numpy: the program of `init` would take a quarter of this file's time.
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(run.policy.init, run.key)
    fill = lambda path, x: rng.normal(path[-1].key == "scale", 0.2, x.shape)
    drawn = jax.tree_util.tree_map_with_path(fill, shapes)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), drawn)
    run.current_params = lambda: params
    return run


def test_payments_by_hand():
    first, second = np.array([0, 0, 1, 1.0]), np.array([0, 1, 0, 1.0])
    # r2 + 2 (r2 - r1), and of that half behind r1.
    paid = Turns(alpha=2.0, gamma=0.5).paid(first, second)
    assert [x.tolist() for x in paid] == [[0, 1.5, 0, 1.5], [0, 3, -2, 1]]
    only_second = Turns(pay_first=False).paid(first, second)
    assert [x.tolist() for x in only_second] == [[0] * 4, [0, 1, 0, 1]]
    # gamma * alpha above 1: from a right second attempt a wrong first one earns more.
    sandbag, _ = Turns(alpha=3.0, gamma=0.5).paid(first, second)
    assert sandbag[1] > sandbag[3]


def test_corrections_by_hand():
    right = np.array([[1, 0, 0, 1], [0, 0, 0, 0]], bool)
    then = np.array([[0, 1, 1, 1], [0, 0, 0, 1]], bool)
    found = {k: v.tolist() for k, v in corrections(right, then).items()}
    assert found == {
        "accuracy@t1": [0.5, 0],
        "accuracy@t2": [0.75, 0.25],
        "delta": [0.25, 0.25],
        "wrong_to_right": [0.5, 0.25],
        "right_to_wrong": [0.25, 0],
    }


@pytest.fixture(scope="module")
def at(run):
    """Stage I, about to begin, with a mark between the attempts."""
    return Improvement(run, 0, STAGE)


@pytest.fixture(scope="module")
def found(at):
    """A round's episodes."""
    return at._collect(jax.random.key(3))


def test_an_episode_is_two_rows(run, at, found):
    eos, mark = run.tokenizer.eos_id, run.tokenizer.encode("= =")
    rows = jax.tree.map(lambda x: x.reshape(4, 2, G, *x.shape[1:]), found.rows)
    assert rows.tokens.shape[-1] == at._sampling.width
    text = rows.tokens, rows.prompt_length, rows.length, rows.finished
    for q, g in np.ndindex(4, G):
        tokens, begin, end, finished = (
            [x[q, turn, g] for turn in (0, 1)] for x in text
        )
        between = [*([] if finished[0] else [eos]), *mark]
        seen = [*tokens[0][: end[0]].tolist(), *between]
        assert tokens[1][: begin[1]].tolist() == seen
    both = {bool(x) for x in rows.finished[:, 0].ravel()}
    assert both == {False, True}  # both ways of closing an attempt were seen


def test_each_turn_is_paid_and_held_by_itself(at, found):
    first, second = found.grades.reshape(4, 2, G).swapaxes(0, 1)
    paid = found.reward.reshape(4, 2, G)
    assert not paid[:, 0].any()
    np.testing.assert_array_equal(paid[:, 1], second + (second - first) / 2)
    # The baseline is of the same turn of the same question.
    batch = at._learner.rows(found, at._know(found))
    advantage = batch.advantage[np.arange(8 * G), batch.length - 1].reshape(8, G)
    r = found.reward.reshape(8, G)
    others = (r.sum(axis=1, keepdims=True) - r) / (G - 1)
    np.testing.assert_allclose(advantage, r - others, atol=1e-5)
    coef = batch.kl_coef.reshape(4, 2, G)[:, :, 0]
    np.testing.assert_allclose(coef, [[0.31, 0.01]] * 4, rtol=1e-6)
    # Left out are questions neither of whose turns tells its episodes apart.
    vary = (paid[:, 1] != paid[:, 1, :1]).any(axis=1)
    assert (found.keep.reshape(4, 2 * G) == vary[:, None]).all()
    assert found.facts["zero_variance"] == (4 + (~vary).sum()) / 8
    # What an epoch learns from is all of it.
    assert STAGE.rows_a_round == len(batch.length)


def test_stage_one_teaches_the_second_attempt_and_holds_the_first(at, tmp_path):
    at.measure_start()
    with Checkpoints(tmp_path, keep=1) as saved:
        seen = [at.round() for _ in range(2)]
        saved.save(at.rounds, at.arrays(), at.position(), at.extra())
        seen += [at.round() for _ in range(2)]
        # Killed here, it goes on from round two to the very same.
        at.resume(saved)
    assert [at.round() for _ in range(2)] == seen[2:]
    while not at.over:
        seen.append(at.round())
    at.measure()
    before, after = at.record().results["before"], at.record().results["after"]
    assert after["accuracy@t2"][0] > before["accuracy@t2"][0] + 0.3
    assert abs(after["accuracy@t1"][0] - before["accuracy@t1"][0]) < 0.15
    assert after["pass@1"] == after["accuracy@t2"]
    # The report shows what the second attempt changes, before the stage and after it.
    table = improve_sections.section([at.record()], 0)["table"]
    *_, row = table["rows"]
    assert table["columns"][-2:] == ["second attempt - first, before", "after"]
    assert row[-2:] == [before["delta"], after["delta"]]
    assert len(row) == len(table["columns"])
    last = seen[-1]
    assert last["kl_second"] > last["kl_first"]
    mean = (last["kl_first"] + last["kl_second"]) / 2
    assert last["kl"] == pytest.approx(mean)
    assert last["accuracy@t2"] == last["pass@1"] == last["reward"]
    assert max(s["logprob_gap"] for s in seen) < 1e-4  # the sampler is the trainer


def test_the_format_is_taught_by_worked_solutions(run, at):
    """Both rows are the solution, the second behind an attempt of the policy's own."""
    config = replace(STAGE, learner=Clone(), turns=Turns(teach="wrong"))
    teaching = Improvement(run, 0, replace(config, filters=Filters()))
    teaching._sampling.answer = at._sampling.answer  # compiled once
    found = teaching._collect(jax.random.key(3))
    eos = run.tokenizer.eos_id
    behind = set()
    for r, example in enumerate(found.examples):
        begin, end = found.rows.prompt_length[r], found.rows.length[r]
        tokens = found.rows.tokens[r].tolist()
        worked = run.experiment.template.response(example)
        assert tokens[begin:end] == [*run.tokenizer.encode(worked), eos]
        if (r // G) % 2:
            assert tokens[begin - 1] == eos
            behind.add(tuple(tokens[:begin]))
        else:
            assert run.tokenizer.decode(tokens[:begin]) == example.question
    assert len(behind) > 24  # of 32 episodes: attempts that the policy drew
    # The second is learned behind what was wrong, or it would be copying.
    right = round(32 * found.facts["pass@1"])
    assert 0 < right < 32 and "accuracy@t2" not in found.facts
    assert len(teaching._learner.rows(found, None).tokens) == 64 - right


@pytest.mark.parametrize(
    "options, message",
    [
        ({"learner": Clone(keep="best")}, "Clone with keep 'right' and without a hint"),
        ({"learner": Clone(), "search": Search()}, "set no search"),
        ({"turns": Turns(teach="any")}, "teach is for Clone"),
        (
            {"turns": Turns(first_kl=1.0), "learner": PolicyGradient()},
            "first_kl needs a Divergence",
        ),
        ({"payment": Payment(pay="steps")}, "for whole attempts, by outcome"),
        (
            {"payment": Payment("prm", shaping=Shaping("process"))},
            "for whole attempts, by outcome",
        ),
        ({"payment": Payment("prm", refresh_every=1)}, "learns on sees one attempt"),
    ],
)
def test_what_two_attempts_cannot_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(STAGE, **options)


def test_a_mark_that_the_tokenizer_lacks_is_named(run):
    with pytest.raises(ValueError, match=r"Turns\.mark: unknown word 'revise'"):
        Improvement(run, 0, replace(STAGE, turns=Turns(mark="revise")))
