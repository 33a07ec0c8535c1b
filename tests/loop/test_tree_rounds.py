"""Rounds of search trees: what filters leave of them, and when they are stopped."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.learn.optimizer import OptimizerConfig
from o1jax.loop.checkpoint_read import restore_params
from o1jax.loop.contrast import Distil, Prefer, distilled, step_pairs
from o1jax.loop.experiment import Experiment
from o1jax.loop.filters import Filters, distinct, trees_kept
from o1jax.loop.guard import Guard, Stopped
from o1jax.loop.held_out import HeldOut
from o1jax.loop.improve import Improve, improve
from o1jax.loop.improvement import Improvement
from o1jax.loop.learners import Clone, chosen
from o1jax.loop.methods import Search
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.policy.policy import PolicyConfig
from o1jax.rollout.decode import SamplerConfig
from o1jax.search.steps import Steps
from o1jax.tasks import Chain

QUESTIONS = 6
SEARCH = Search("mcts", budget=4, steps=Steps(children=3, tokens=2, guide="likelihood"))
STAGE = Improve(
    rounds=6,
    questions=QUESTIONS,
    samples=4,
    search=SEARCH,
    learner=Clone(),
    optimizer=OptimizerConfig(0.3, 0, "constant", weight_decay=0.0),
    held_out=HeldOut(0, 4, 2),
    checkpoint_every=1,
)


@dataclass(frozen=True)
class Even(Chain):
    """Right is what begins with an even number: policies that know nothing hit it."""

    def grade(self, example, response):
        return float(response[:1] in ("0", "2", "4"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run on one device that has done nothing yet."""
    experiment = Experiment(
        task=Even(min_steps=2, max_steps=2, modulus=5),
        policy=PolicyConfig(vocab=16, width=16, layers=1, heads=2, ff=16),
        sampler=SamplerConfig(rows=16, max_new_tokens=6),
        stages=(STAGE,),
    )
    run = Workdir(experiment, tmp_path_factory.mktemp("trees"))
    run.mesh = build_mesh(MeshConfig(), jax.devices()[:1])
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(run.policy.init, run.key)
    fill = lambda path, x: rng.normal(path[-1].key == "scale", 0.2, x.shape)
    drawn = jax.tree_util.tree_map_with_path(fill, shapes)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), drawn)
    run.current_params = lambda: params
    return run


@pytest.fixture(scope="module")
def at(run):
    """The stage, about to begin."""
    return Improvement(run, 0, STAGE)


@pytest.fixture(scope="module")
def collect(at):
    """A function of filters: the same round's trees and what is kept of them."""

    def collect(**filters):
        at._trees._filters = Filters(**filters)
        return at._trees.collect(at.policy, jax.random.key(3), 0)

    return collect


def test_which_trees_are_kept_by_hand():
    tree = np.array([0, 0, 0, 0, 1, 1, 3])  # nothing was found in tree 2
    grade = np.array([1.0, 0, 0, 0, 1, 1, 0])
    kept = lambda **config: trees_kept(Filters(**config), tree, grade, 4).tolist()
    assert kept() == [True] * 4
    assert kept(hardest=0.25) == [True, True, False, False]
    assert kept(hardest=0.3) == [False, True, False, False]
    assert kept(easiest=0.5) == [True, False, True, True]
    assert kept(zero_variance=True) == [True, False, False, False]


def test_a_text_counts_once_for_each_question():
    question = np.array([0, 0, 1, 0, 1, 1])
    first = distinct(question, ["a", "b", "a", "a", "a", "c"])
    assert first.tolist() == [True, True, True, False, False, True]


def test_a_question_is_as_hard_as_its_tree_says(collect):
    plain = collect()
    tree, right = plain.rows.prompt_id, plain.grades
    answers = [right[tree == i] for i in range(QUESTIONS)]
    share = np.array([x.mean() if len(x) else 0.0 for x in answers])
    assert plain.keep.all()
    bound = np.median(share[share > 0])
    found = collect(hardest=bound, duplicates=True)
    hard = share < bound
    assert 0 < hard.sum() < QUESTIONS
    own = [*zip(tree, found.texts)]
    expected = [
        not hard[i] and own.index((i, text)) == r for r, (i, text) in enumerate(own)
    ]
    assert found.keep.tolist() == expected
    assert found.facts["trees_kept"] == (~hard).mean()
    # What is cloned, and the trees that others learn from, are those of the easy ones.
    assert not hard[tree[chosen(found, Clone())]].any()
    assert np.concatenate([kept for *_, kept in found.trees]).tolist() == [*~hard]
    width, asked = found.rows.tokens.shape[1], Prefer(level="step", margin=1e-3)
    ends = {"step_end_ids": (), "stop_ids": ()}
    for made in (
        lambda x: distilled(x, Distil(min_visits=1), width + 4).tokens[:, 0],
        lambda x: step_pairs(x, asked, width + 4, **ends).tokens[:, 0],
    ):
        prompts = [
            {bytes(row[:5]) for row in np.asarray(made(x))} for x in (plain, found)
        ]
        easy = {bytes(found.rows.tokens[tree == i][0][:5]) for i in np.where(~hard)[0]}
        assert prompts[1] <= easy and len(prompts[1]) < len(prompts[0])


def test_cloning_from_trees_has_a_divergence_too(at, collect):
    collect()  # no filters
    seen = [at.round() for _ in range(2)]
    assert seen[0]["kl"] == 0 < 0.01 < seen[1]["kl"]


def test_one_that_strays_is_stopped_with_the_last_good_checkpoint(run):
    bound = replace(STAGE, guard=Guard(kl=0.5, patience=0))
    with pytest.raises(Stopped) as stopped:
        improve(run, 0, bound)
    round_ = int(str(stopped.value).split("round ")[1].split(":")[0])
    assert str(stopped.value).startswith(
        f"stage 'improve' stopped in round {round_}: kl is "
    )
    assert str(stopped.value).endswith(
        "nats a response, above Guard.kl 0.5: lower the learning rate; checkpoint "
        f"{round_ - 1} is kept"
    )
    assert restore_params(run.checkpoints(0)).step == round_ - 1


def test_a_search_asks_each_question_once():
    with pytest.raises(ValueError, match=r"filters\.draws is for samples"):
        replace(STAGE, filters=Filters(draws=2))
