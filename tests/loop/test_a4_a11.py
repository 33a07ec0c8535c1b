"""A4 and A11: the checks hold for the published shapes and fail for others."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from o1jax.loop.reproduce import a4, a11
from o1jax.loop.reproduce.a3 import POLICY
from o1jax.loop.reproduce.claim import Evidence, Predictions, Tier
from o1jax.loop.reproduce.verify import Trained, Verify
from o1jax.loop.reward_data import Data
from o1jax.loop.traces import Traces
from o1jax.reward.overoptimisation import kl_best_of_n
from o1jax.types import StepLabels

K = 2 ** np.arange(9)
PROBLEMS = 20


def predictions(gold, proxy=None, facts=(), **extra):
    """Three seeds alike but for noise, with curves [K] for every problem."""
    rng, ones = np.random.default_rng(0), np.ones(PROBLEMS)
    found = []
    for _ in range(3):
        noise = 0.02 * rng.standard_normal((PROBLEMS, 1))
        curves = {"best": gold, "proxy": gold if proxy is None else proxy, **extra}
        columns = {name: (curve + noise).tolist() for name, curve in curves.items()}
        found.append(
            Predictions(
                ones.astype(int), ones.astype(int), ones, ones, columns, dict(facts)
            )
        )
    return found


def line(end):
    return np.linspace(0.2, end, 9)


def labelled(rollouts=(800, 200), aucs=(0.99, 0.98), **ends):
    """Evidence of A4, by what each source of labels earns at N = 256."""
    ends = {"exact": 0.8, "hard": 0.8, "soft": 0.79, "binary": 0.78} | ends
    measured = {
        "hard": {"rollouts": rollouts[0], "step_auc": aucs[0]},
        "binary": {"rollouts": rollouts[1], "step_auc": aucs[1]},
    }
    arms = {
        POLICY: predictions(line(0.5), majority=line(0.5), covered=line(1.0)),
        a4.ORM: predictions(line(0.6), facts={"judged": {}}),
    }
    for name, end in ends.items():
        facts = {"judged": measured.get(name, {})}
        arms[name] = predictions(line(end), facts=facts)
    return Evidence(Tier("x.gin", (), PROBLEMS), (0, 1, 2), [], arms)


def passed(found):
    return [check.passed for check in found.checks]


def test_a4_tells_labels_that_work():
    assert passed(a4.analyse(labelled())) == [True] * 5
    # No better than outcomes, and so unlike soft labels and far below exact ones.
    weak = passed(a4.analyse(labelled(hard=0.6)))
    assert weak == [False, True, False, False, True]
    assert passed(a4.analyse(labelled(soft=0.6)))[1] is False
    # Half of the rollouts are too many, and an AUC of .95 is too low.
    assert passed(a4.analyse(labelled(rollouts=(800, 400))))[-1] is False
    assert passed(a4.analyse(labelled(aucs=(0.99, 0.95))))[-1] is False


def test_a4_reports_worth_against_cost():
    found = a4.analyse(labelled())
    json.dumps([found.checks, found.sections])  # plain numbers and truths only
    table, curves = found.sections
    rows = {row[0]: row[1:] for row in table["table"]["rows"]}
    assert list(rows) == ["exact", "hard", "soft", "binary", "outcome"]
    assert rows["hard"][1:3] == pytest.approx([800, 0.99])
    # At N = 64, six of eight steps up: (0.8 - 0.6) * 6 / 8.
    assert rows["hard"][6] == [pytest.approx(0.15)] * 3
    assert curves["table"]["rows"][0][0] == 4


def test_a_success_is_one_of_all_steps_before_it():
    """Four traces of three steps and a stop token."""
    end = np.zeros((4, 10), bool)
    end[:, [3, 5, 7]] = True  # prompt 0 and 1, steps to 3, 5, 7; stop token 8
    value = np.zeros((4, 10), np.float32)
    value[0, 5] = 0.25  # nothing from step 1, two of eight from step 2, none from 3
    value[2, [3, 5, 7]] = [0.5, 0.75, 0]
    traces = rows(0, 4)._replace(
        tokens=np.zeros((4, 10), np.int32),
        prompt_length=np.full(4, 2),
        length=np.full(4, 9),
        grades=np.array([0.0, 1, 1, 0]),
        step_end=end,
    )
    nothing = np.zeros((4, 10), np.float32)
    labels = StepLabels(
        tokens=traces.tokens,
        prompt_length=traces.prompt_length,
        length=traces.length,
        step_end=end,
        label=value,
        weight=nothing,
    )
    hard = a4.reuse(traces, labels, hard=True)
    at = [3, 5, 7, 8]
    # The second trace ended right though no rollout did; of the last nothing is right.
    right = [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    known = [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert hard.label[:, at].tolist() == right
    assert hard.weight[:, at].tolist() == known
    assert hard.step_end[:, at].all() and hard.step_end.sum() == 16
    soft = a4.reuse(traces, labels, hard=False)
    assert soft.weight.tolist() == hard.weight.tolist()
    # Their own values, and the grade where the text ends.
    assert soft.label[:, at].tolist() == [
        [0, 0.25, 0, 0],
        [0, 0, 0, 1],
        [0.5, 0.75, 0, 1],
        [0, 0, 0, 0],
    ]


def over(least=0.02, refreshed=0.9):
    """Evidence of A11; `least` is the fall of the smallest model's gold."""
    d = np.sqrt(kl_best_of_n(K))
    # alpha d - beta d^2 has its peak at d = 1 and is back at 0.2 + least at the end.
    fall = 0.2 + least * (2 * d - d**2)
    rising = 0.2 + 0.25 * d
    arms = {a11.arm_name(n): predictions(rising, rising) for n in a11.SIZES}
    arms[a11.arm_name(a11.SIZES[0])] = predictions(fall, rising + 0.2)
    arms[a11.REFRESHED] = predictions(0.2 + refreshed / d[-1] * d, rising)
    return Evidence(Tier("x.gin", (), PROBLEMS), (0, 1, 2), [], arms)


def test_a11_tells_over_optimisation():
    assert passed(a11.analyse(over())) == [True] * 5
    # Gold of the smallest model rises all along: nothing falls, nothing strays.
    d = np.sqrt(kl_best_of_n(K))
    healthy = over()
    same = healthy.arms[a11.arm_name(a11.SIZES[-1])]
    healthy.arms[a11.arm_name(a11.SIZES[0])] = same
    assert passed(a11.analyse(healthy)) == [False, False, False, False, True]
    assert passed(a11.analyse(over(refreshed=0.2)))[-1] is False
    # A fall that is no parabola of d: flat, then a step.
    steps = np.where(d < 1.5, 0.2 + 0.3 * (d > 0), 0.1)
    healthy.arms[a11.arm_name(a11.SIZES[0])] = predictions(steps, steps + 0.3)
    assert passed(a11.analyse(healthy))[3] is False


def test_a11_reports_the_law():
    found = a11.analyse(over())
    json.dumps([found.checks, found.sections])
    (section,) = found.sections
    first, *_, last = section["table"]["rows"]
    # least * (2 d - d^2): alpha = 2 least, beta = least, peak at 1.
    assert first[5:] == [pytest.approx(x, rel=1e-3) for x in (0.04, 0.02, 1.0, 1.0)]
    assert last[0] == a11.REFRESHED
    one, two = section["figure"]
    assert [s["label"] for s in one["series"][::2]] == [f"orm-{n}" for n in a11.SIZES]
    assert [s["role"] for s in two["series"]] == ["gold", "proxy"] * 2


def rows(first, count):
    """Traces told apart by their first token; three tokens, one step, no prompt."""
    tokens = np.zeros((count, 3), np.int32)
    tokens[:, 0] = first + np.arange(count)
    ends = np.zeros((count, 3), bool)
    ends[:, 2] = True
    of_row = np.full(count, 3)
    return Traces(
        examples=[None] * count,
        texts=[""] * count,
        grades=tokens[:, 0] % 2.0,
        tokens=tokens,
        prompt_length=of_row * 0,
        length=of_row,
        logprob=np.zeros((count, 3)),
        finished=of_row > 0,
        step_end=ends,
        verdict=np.zeros((count, 3), np.float32),
    )


def test_a_refreshed_model_sees_what_the_first_one_liked(monkeypatch):
    """Two random traces, 90 and 91; then the likeliest of four for each of two."""
    method = a11.Refresh(Verify(a11.reward("outcome", 2), samples=4), among=4)
    experiment = SimpleNamespace(seed=3)
    asked, seen = [], []
    task = SimpleNamespace(
        example=lambda seed, split, i: asked.append((seed, split, i)) or i
    )
    run = SimpleNamespace(
        experiment=experiment, task=lambda _: task, current_params=dict, params=None
    )

    def train(run, config, data, flops=0.0):
        seen.append(data.rows)
        return Trained(None, len(seen), {"labels": len(data.rows.length)})

    def score(run, trained, rows, method):
        """The first model likes small remainders of 3, the second large tokens."""
        first = np.asarray(rows.tokens)[:, 0]
        return (-(first % 3.0), 8.0) if trained.params == 1 else (first * 1.0, 8.0)

    monkeypatch.setattr(a11, "train_verifier", train)
    monkeypatch.setattr(a11, "score_rows", score)
    monkeypatch.setattr(a11, "sample_traces", lambda *_, **__: rows(10, 8))
    random = a11.outcome_rows(rows(90, 2))
    monkeypatch.setattr(a11, "gather", lambda *_: Data(random, {}))
    monkeypatch.setattr(a11, "spent_flops", lambda run: 1.0)
    pool = SimpleNamespace(rows=rows(0, 8))
    monkeypatch.setattr(a11, "shared_pool", lambda *_: pool)
    chosen = []
    monkeypatch.setattr(
        a11, "choose", lambda pool, score, flops, facts, draws: chosen.append(score)
    )
    a11.refresh(run, {}, jax.random.key(0), [], method)
    first, both = seen
    assert first.tokens[:, 0].tolist() == [90, 91]
    # Of 10, 11, 12, 13 and of 14, 15, 16, 17 the multiples of 3.
    assert both.tokens[:, 0].tolist() == [90, 91, 12, 15]
    assert isinstance(both, StepLabels)
    assert both.label.sum(1).tolist() == [0, 1, 0, 1]
    assert chosen[0].tolist() == list(range(8))
    assert {(seed, split) for seed, split, _ in asked} == {(3, "train")}
    assert min(i for *_, i in asked) == 2 * a11.FRESH
