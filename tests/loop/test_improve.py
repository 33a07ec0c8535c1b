"""A policy that improves by its own answers: what counts, is learned, and stops it."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.learn.kl import KLControl
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.learn.policy_objective import PolicyGradient
from o1jax.learn.terms import Critic, Divergence, Surrogate
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.contrast import Distil, Prefer, answer_pairs
from o1jax.loop.experience import Collected, hinted
from o1jax.loop.filters import Filters, questions_kept, responses_kept
from o1jax.loop.guard import Guard, Stopped, Watch
from o1jax.loop.held_out import HeldOut
from o1jax.loop.improve import Improve
from o1jax.loop.improvement import Improvement
from o1jax.loop.learners import Clone, chosen, to_imitate
from o1jax.loop.methods import Search
from o1jax.loop.payment import Payment
from o1jax.loop.reward_model import TrainReward
from o1jax.loop.workdir import Workdir
from o1jax.reward.shaping import Shaping
from o1jax.reward.versions import Weights
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example
from o1jax.types import Trajectory

FAST = OptimizerConfig(0.02, 0, "constant", weight_decay=0.0)
SMALL = dict(
    questions=4, samples=4, rounds=4, optimizer=FAST, held_out=HeldOut(0, 4, 2)
)


@pytest.fixture
def run(finished):
    """The finished tiny run; nothing is written there."""
    state = Workdir(load(finished.workdir / "config.gin").experiment, finished.workdir)
    state.params = state.newest_params()
    return state


def arrays(at):
    leaves = jax.tree_util.tree_leaves_with_path(at.arrays())
    value = lambda x: (
        jax.random.key_data(x)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        else x
    )
    return {jax.tree_util.keystr(path): np.asarray(value(x)) for path, x in leaves}


def go_on_from_round_two(at, folder):
    """Asserts that a checkpoint of round two leads to the same rounds again.

    The rounds behind it are what a kill would have undone: nothing of them may stay.
    """
    with Checkpoints(folder, keep=9) as saved:
        seen = [at.round() for _ in range(2)]
        saved.save(at.rounds, at.arrays(), at.position(), at.extra())
        seen += [at.round() for _ in range(2)]
        after, extra = arrays(at), at.extra()
        at.resume(saved)
    assert at.rounds == 2
    again = [at.round() for _ in range(2)]
    assert again == seen[2:]
    for name, value in arrays(at).items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    same = ("updates", "kl_coef", "paid_coef", "watch")
    assert [at.extra()[k] for k in same] == [extra[k] for k in same]
    spent = [x["ledger"]["accounts"] for x in (at.extra(), extra)]
    assert spent[0] == spent[1]
    return seen


def test_a_critic_and_a_reward_model_learn_beside_the_policy(
    run, tmp_path, monkeypatch
):
    """PPO with a network of its own for the critic, paid by a model that learns on."""
    stage = TrainReward(name="prm", learns="outcome", rows=8)
    stages = (*run.experiment.stages, stage)
    run.experiment = replace(run.experiment, stages=stages)
    model = run.build_reward_model(stage)
    weights = Weights(jax.jit(model.init)(jax.random.key(5), run.params), 0)
    monkeypatch.setattr(run, "reward_model", lambda name: (model, weights))
    first = jax.tree.map(np.asarray, run.params)
    learner = PolicyGradient(
        "gae",
        (Surrogate(), Critic(), Divergence()),
        "token",
        kl=KLControl(0.1, "adaptive", target=1e-3, horizon=100),
    )
    config = Improve(
        learner=learner,
        critic="own",
        minibatches=2,
        payment=Payment("prm", refresh_every=1, refresh_steps=2),
        **SMALL,
    )
    at = Improvement(run, len(stages), config)
    seen = go_on_from_round_two(at, tmp_path)
    # The sampler is the trainer, and the policy begins as the reference.
    assert max(s["logprob_gap"] for s in seen) < 1e-5
    assert abs(seen[0]["kl"]) < 1e-5 < seen[-1]["kl_reference"]
    # 16 responses against a horizon of 100: at most a fifth of 16 % a round.
    coefs = [s["kl_coef"] for s in seen]
    assert coefs[0] == 0.1
    assert coefs[1] == pytest.approx(0.1 * (1 - 0.2 * 0.16))
    # The critic and the reward model have moved; the first policy is as it was.
    for part in (at.state.params["critic"], at._pay.state.params["net"]):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, part)
        assert max(jax.tree.leaves(moved)) > 1e-3
    assert int(at._pay.state.step) == 4 * 2
    spent = at.extra()["ledger"]["accounts"]
    for kind in ("train", "rollout", "reference", "critic", "reward"):
        assert spent[kind]["flops"] > 0


def test_cloning_replays_and_starts_anew(run, tmp_path):
    """ReST-EM on a replay: each round's policy is one update from the first one."""
    learner = Clone(keep="best", start="first", hint=" {answer}")
    config = Improve(learner=learner, replay=10, rows=8, **SMALL)
    at = Improvement(run, len(run.experiment.stages), config)
    seen = go_on_from_round_two(at, tmp_path)
    assert [s["rows"] > 0 for s in seen] == [True] * 4
    assert [s["updates"] for s in seen] == [1.0] * 4
    assert int(at.state.step) == 1  # of the round's own optimizer
    assert at.extra()["updates"] == 4
    assert seen[-1]["staleness"] > 0


# Four answers to each of two questions.
def collected(texts, grades, finished=None, keep=None):
    rows, T = len(texts), 8
    size = np.array([len(text) for text in texts], np.int32)
    tokens = np.zeros((rows, T), np.int32)
    for row, text in zip(tokens, texts):
        row[:2] = (1, 9)
        row[2 : 2 + len(text)] = [ord(c) - 96 for c in text]
    none = np.zeros((rows, T), np.float32)
    trajectory = Trajectory(
        tokens=tokens,
        prompt_length=np.full(rows, 2, np.int32),
        length=2 + size,
        logprob=none,
        value=none,
        finished=np.ones(rows, bool) if finished is None else np.array(finished),
        prompt_id=np.arange(rows),
    )
    grades = np.array(grades, float)
    return Collected(
        examples=[Example(str(i // 4), (), "7", 1) for i in range(rows)],
        texts=list(texts),
        rows=trajectory,
        step_end=tokens == 3,
        grades=grades,
        reward=grades,
        keep=np.ones(rows, bool) if keep is None else np.array(keep),
        position=8,
        facts={},
    )


FOUND = collected(
    ["abc", "ab", "abc", "c", "b", "bb", "cc", "b"], [1, 0, 1, 0] + [0] * 4
)


def test_what_is_right_is_imitated_and_nothing_else():
    assert chosen(FOUND, Clone()).tolist() == [0, 2]
    assert chosen(FOUND, Clone(most=1)).tolist() == [0]
    # The best of each question, the first among equals.
    assert chosen(FOUND, Clone(keep="best")).tolist() == [0, 4]
    kept = FOUND._replace(keep=np.array([False] + [True] * 7))
    assert chosen(kept, Clone()).tolist() == [2]
    batch = to_imitate(FOUND, np.array([0, 3]))
    assert batch.weight.tolist() == [[0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]]
    assert batch.segment.sum(axis=1).tolist() == [5, 3]
    assert batch.tokens[0].tolist() == [1, 9, 1, 2, 3, 0, 0, 0]


def test_pairs_are_of_right_and_wrong_answers_to_one_question():
    pairs = answer_pairs(FOUND, Prefer(), [0])
    assert len(pairs.weight) == 2  # one right text against two wrong ones
    assert pairs.tokens[:, 0].tolist() == [[1, 9, 1, 2, 3, 0, 0, 0]] * 2
    assert sorted(pairs.length[:, 1].tolist()) == [3, 4]
    assert len(answer_pairs(FOUND, Prefer(most=1), [0]).weight) == 1
    none = FOUND._replace(grades=np.zeros(8))
    assert answer_pairs(none, Prefer(), [0]).tokens.shape == (0, 2, 8)


def test_filters():
    reward = np.array([[0.1, 0.1, 0.1], [0.1, 0.1, 0.2], [1, 1, 1]])
    grade = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1.0]])
    kept = lambda config: questions_kept(config, reward, grade).tolist()
    assert kept(Filters()) == [True, True, True]
    assert kept(Filters(zero_variance=True)) == [False, True, False]
    # Equality is exact.
    reward[0, 0] = np.nextafter(0.1, 1)
    assert kept(Filters(zero_variance=True)) == [True, True, False]
    assert kept(Filters(hardest=0.1)) == [False, True, True]
    assert kept(Filters(easiest=0.9)) == [True, True, False]
    texts, finished = (
        [["a", "b", "a"], ["a", "a", "c"]],
        np.array([[1, 1, 1], [1, 1, 0]]),
    )
    kept = lambda config: responses_kept(config, texts, finished > 0).tolist()
    first = [[True, True, False], [True, False, True]]
    assert kept(Filters(duplicates=True)) == first
    assert kept(Filters(overlong=True)) == [[True] * 3, [True, True, False]]


def test_a_hint_holds_the_answer_and_remembers_the_question():
    example = Example("3 + 4 =", ("7",), "7", 1)
    asked = hinted(example, " {answer}")
    assert (asked.question, asked.hidden) == ("3 + 4 = 7", example)


def watch(rewards, **config):
    """The round in which each of these rewards is looked at, until it stops."""
    at = Watch(Guard(**config), "rl", plateau=3, gain=0.05)
    for round_, reward in enumerate(rewards, 1):
        at.look(round_, {"reward": reward, "kl": 0.1 * round_}, saved=round_ - 1)
    return at


def test_a_collapse_is_named_and_a_stumble_is_not():
    good = [0.4, 0.5, 0.6]
    assert watch([*good, 0.2, 0.2, 0.5, 0.2, 0.2]).worried
    assert not watch([*good, 0.2, 0.2, 0.3]).worried
    with pytest.raises(Stopped) as stopped:
        watch([*good, 0.2, 0.2, 0.1])
    assert str(stopped.value) == (
        "stage 'rl' stopped in round 6: reward fell from 0.5 to 0.1: is the learning "
        "rate too high?; checkpoint 5 is kept"
    )
    watch([*good, *[0.2] * 9], patience=0)


@pytest.mark.parametrize(
    "metrics, message",
    [
        ({"loss": float("nan")}, "stopped in round 1: loss is nan; no checkpoint was"),
        ({"grad_norm": float("inf")}, "grad_norm is inf"),
        ({"kl": 31.0}, "kl is 31 nats a response, above Guard.kl 30"),
    ],
)
def test_numbers_that_are_none_and_a_far_policy_stop_a_stage(metrics, message):
    with pytest.raises(Stopped, match=message):
        Watch(Guard(kl=30), "rl", plateau=0, gain=0).look(1, metrics, saved=0)


def test_a_plateau_ends_a_stage_and_survives_a_restart():
    # The start's mean is 0.3; a smoothed gain of 0.05 takes a jump.
    at = watch([0.3] * 3 + [0.3] * 3)
    assert not at.settled  # the first look behind the start is the best so far
    other = Watch(Guard(), "rl", plateau=3, gain=0.05)
    other.set_state(at.state())
    other.look(7, {"reward": 0.3}, saved=0)
    assert other.settled and other.state() != at.state()
    assert not watch([0.3] * 6 + [0.9]).settled


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"search": Search()},
            "search: a policy gradient learns from all fresh samples",
        ),
        ({"replay": 8}, "replay: a policy gradient"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"critic": "own"}, "no Critic is among the terms"),
        ({"critic": "own", "learner": Clone()}, "only a policy gradient has one"),
        ({"microbatches": 3}, "must divide the rows of a round, 256"),
        ({"learner": Distil()}, "Distil learns from trees: set search"),
        ({"learner": Prefer(level="step")}, "'step' learns from trees: set search"),
        (
            {"learner": Clone(hint=" {answer}"), "search": Search()},
            "hint is for samples",
        ),
        ({"sampling": SamplingConfig(0.0)}, "all samples would be the same"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Improve(**options)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Clone(hint="the answer"), "hint must hold {answer}"),
        (lambda: Payment(refresh_every=2), "needs a reward model to refresh"),
        (lambda: Payment(shaping=Shaping("process")), "'process' needs a reward model"),
        (
            lambda: Payment(shaping=Shaping(kl_coef=1.0), kl=KLControl()),
            "kl and shaping.kl_coef are both set",
        ),
        (lambda: HeldOut(stop_at=0.5), "stop_at needs every"),
        (lambda: Filters(hardest=0.5, easiest=0.4), "must be in order"),
    ],
)
def test_parts_refuse_too(make, message):
    with pytest.raises(ValueError, match=message):
        make()
