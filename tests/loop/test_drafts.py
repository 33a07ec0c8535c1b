"""A sampler with a draft: first layers of the policy, or the policy of another run."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.loop.answer import Answerer
from o1jax.loop.drafts import draft_of, first_layers
from o1jax.loop.methods import Search
from o1jax.loop.searching import Searcher
from o1jax.loop.workdir import Workdir
from o1jax.policy.policy import PolicyConfig
from o1jax.rollout.decode import Draft
from o1jax.rollout.sampling import SamplingConfig
from o1jax.search.steps import Steps

GREEDY = SamplingConfig(temperature=0.0)


def reopened(finished, draft):
    """The finished run, whose sampler has this draft from now on."""
    experiment = load(finished.workdir / "config.gin").experiment
    sampler = replace(experiment.sampler, draft=draft)
    return Workdir(replace(experiment, sampler=sampler), finished.workdir)


def answers(run):
    task = run.experiment.task
    examples = [task.example(0, "test", i) for i in range(4)]
    answerer = Answerer(run, examples, GREEDY, chunk=8)
    found = answerer(run.newest_params(), jax.random.key(0), 2, task=task)
    return found, run.ledger.total()


def test_a_draft_of_another_run_changes_no_answer_and_is_paid_for(finished):
    plain, alone = answers(reopened(finished, None))
    draft = Draft(tokens=2, workdir=str(finished.workdir))
    found, total = answers(reopened(finished, draft))
    assert found.texts == plain.texts
    np.testing.assert_array_equal(found.rows.tokens, plain.rows.tokens)
    assert total["flops"] > alone["flops"]  # the draft reads and draws too


@pytest.mark.parametrize("method", ["mcts", "best_of_n"])
def test_a_search_with_a_draft_finds_the_same_and_pays_for_it(finished, method):
    run = reopened(finished, None)
    task = run.experiment.task
    examples = [task.example(0, "test", i) for i in range(3)]
    steps = Steps(children=2, first="top", guide="likelihood", sampling=GREEDY)

    def searched(draft):
        search = Search(method, budget=4, steps=replace(steps, draft=draft))
        searcher = Searcher(run, examples, task, search)
        return searcher(run.newest_params(), jax.random.key(0))

    alone = searched(None)
    found = searched(Draft(tokens=2, workdir=str(finished.workdir)))
    assert found.texts == alone.texts
    np.testing.assert_array_equal(
        found.spent.generated_tokens, alone.spent.generated_tokens
    )
    assert (alone.spent.reread_tokens == 0).all()
    # The draft is the policy, so each token is paid twice. All that it proposes passes,
    # but behind the end of a step it was in vain.
    vain = found.spent.reread_tokens
    assert (vain > 0).all()
    assert ((found.spent.generated_tokens + vain) % 3 == 0).all()
    token = (found.spent.flops / 2 - alone.spent.flops) / vain
    np.testing.assert_allclose(token, token[0])
    assert 0 < token[0] < alone.spent.flops[0] / alone.spent.generated_tokens[0]


def test_a_config_without_a_draft_keeps_its_fingerprint(tmp_path):
    file = tmp_path / "a.gin"
    text = "Experiment.stages = (@Imitate(),)\n"
    file.write_text(text)
    before = load(file).fingerprint()
    file.write_text(text + "SamplerConfig.draft = None\n")
    assert load(file).fingerprint() == before
    file.write_text(text + "SamplerConfig.draft = @Draft()\nDraft.layers = 1\n")
    assert load(file).fingerprint() != before


def test_the_first_layers_are_a_policy(make):
    config, policy, params = make()
    draft = first_layers(config, 1)
    tokens = np.array([[3, 8, 5]])
    cut = params | {"layers": jax.tree.map(lambda x: x[:1], params["layers"])}
    found = jax.jit(draft.forward)(cut, tokens).logits
    assert found.shape == (1, 3, config.vocab)
    whole = jax.jit(policy.forward)(params, tokens).logits
    assert np.abs(found - whole)[0, 1:].max() > 0.01


def test_a_draft_that_does_not_fit_is_named(finished, tmp_path, make):
    def refused(draft):
        run = reopened(finished, draft)
        with pytest.raises(ValueError) as error:
            draft_of(run, run.experiment.sampler.draft)
        return str(error.value)

    assert refused(Draft(layers=1)) == "Draft.layers is 1: the policy has 1"
    assert refused(Draft(workdir=str(tmp_path))) == (
        f"Draft.workdir: {tmp_path} is no workdir: it has no config.gin"
    )
    run = reopened(finished, Draft(workdir=str(finished.workdir)))
    run.policy_config = PolicyConfig(vocab=99)
    with pytest.raises(ValueError, match="has 16 logits, the policy 99"):
        draft_of(run, run.experiment.sampler.draft)
