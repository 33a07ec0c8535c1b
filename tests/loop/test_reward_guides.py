"""Learned reward models as guides: each value is that of the text, read alone."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.cli import main
from o1jax.config import load
from o1jax.loop import reward_guides
from o1jax.loop.guides import Verifier
from o1jax.loop.methods import Search, build_program, with_guide
from o1jax.loop.reward_guides import reward_guide
from o1jax.loop.run import method_of
from o1jax.loop.searching import Searcher, trained_aggregate
from o1jax.loop.workdir import Workdir
from o1jax.reward.model import RewardModel, RewardModelConfig, build_reward_model
from o1jax.reward.versions import Weights
from o1jax.rollout.sampling import SamplingConfig
from o1jax.search.mcts import Mcts
from o1jax.search.retry import Retry
from o1jax.search.steps import Steps, StepSearch
from o1jax.types import NodeState, Prompts, Spent

STEP_END = 10
# In searches several, for a policy of random weights ends few steps with one.
ENDS, STOPS = (1, 3, 4, 5), (2, 11)
PROMPT_TEXTS = [[1, 5, 10], [1, 7, 8, 9, 4]]  # a step end in a prompt is none
PROMPT_LENGTH = np.array([3, 5], np.int32)
PROMPT_TOKENS = np.array([[1, 5, 10, 0, 0], [1, 7, 8, 9, 4]], np.int32)
CONFIG, POLICY, PARAMS = tiny(layers=1)
# Unoptimised machine code compiles in half the time.
FAST = {"xla_backend_optimization_level": 0}
HOW = ("product", "min", "last", "mean")


def toy_score(params, tokens, prompt_length, length, step_end):
    """log-odds params * (sum of all tokens so far modulo 7 - 3)."""
    del prompt_length, length
    sums = jnp.cumsum(tokens, axis=1) % 7 - 3
    return jnp.where(step_end, params * sums.astype(jnp.float32), 0.0)


TOY = RewardModel(init=lambda key, policy_params=None: jnp.float32(1), score=toy_score)


def toy_steps(text, prompt, scale=1.0):
    """Probabilities of the steps closed in a text, by toy_score."""
    odds = [
        scale * (sum(text[: t + 1]) % 7 - 3)
        for t in range(prompt, len(text))
        if text[t] == STEP_END
    ]
    return [1 / (1 + np.exp(-x)) for x in odds]


BY_HAND = {"product": np.prod, "min": np.min, "last": lambda p: p[-1], "mean": np.mean}


def guide_of(model=TOY, **options):
    return reward_guide(
        model,
        PROMPT_TOKENS,
        PROMPT_LENGTH,
        **{"step_end_ids": (STEP_END,)} | options,
    )


def state_of(steps, finished, prompt_id=(0, 1)):
    """What a guide sees of steps [B][M][depth], lists of tokens; 4 places a step."""
    B, M, depth = len(steps), len(steps[0]), len(steps[0][0])
    tokens = np.zeros((B, M, depth, 4), np.int32)
    length = np.zeros((B, M, depth), np.int32)
    for at in np.ndindex(B, M, depth):
        step = steps[at[0]][at[1]][at[2]]
        tokens[at][: len(step)], length[at] = step, len(step)
    zeros = np.zeros((B, M), np.float32)
    return NodeState(
        prompt_id=np.array(prompt_id, np.int32),
        tokens=tokens,
        logprob=np.zeros(tokens.shape, np.float32),
        length=length,
        entropy=np.zeros(length.shape, np.float32),
        finished=np.array(finished),
        value=zeros,
        process=zeros,
    )


def judged(state, params=1.0, **options):
    guide = jax.jit(guide_of(**options), compiler_options=FAST)
    with jax.numpy_dtype_promotion("strict"):
        return jax.tree.map(np.asarray, guide(jnp.float32(params), state))


# Steps that are closed; a step that ran out of tokens; the end of an answer alone, and
# behind words; the last row of the second problem is not wanted.
STEPS = [
    [[[], [5, 10], [6, 6, 10]], [[], [9, 10], [11]], [[], [3, 10], [8, 8, 8, 8]]],
    [[[], [], [8, 10]], [[], [4, 10], [5, 11]], [[], [], []]],
]
FINISHED = [[False, True, False], [False, True, False]]


@pytest.mark.parametrize("how", HOW)
def test_values_and_what_is_read_by_hand(how):
    found = judged(state_of(STEPS, FINISHED), how=how)
    first, second = PROMPT_TEXTS
    texts = [first + [5, 10, 6, 6, 10], first + [9, 10], first + [3, 10]]
    texts += [second + [8, 10], second + [4, 10]]
    prompt = [3, 3, 3, 5, 5]
    steps = [toy_steps(*row) for row in zip(texts, prompt)]
    steps[2] = [0.5, *steps[2]]  # the open step
    expected = [BY_HAND[how](row) for row in steps]
    np.testing.assert_allclose(found.value.reshape(-1)[:5], expected, rtol=1e-6)
    # Up to the last step end, and nothing of what was not wanted.
    assert found.tokens.tolist() == [[8, 5, 5], [7, 7, 0]]


@pytest.mark.parametrize("how", HOW)
def test_nothing_is_read_where_no_step_is_closed(how):
    # A root, one of a problem that is none, and another root.
    roots = state_of([[[[]]], [[[]]], [[[]]]], [[False]] * 3, prompt_id=(1, -1, 0))
    found = judged(roots, how=how)
    assert found.value.tolist() == [[0.5]] * 3 and found.tokens.tolist() == [[0]] * 3
    # An answer without a step, a step that is open, and a problem that is none.
    state = state_of(
        [[[[], [5, 11]]], [[[], [5, 5]]], [[[], [5, 10]]]],
        [[True], [False], [False]],
        prompt_id=(0, 1, -1),
    )
    found = judged(state, how=how)
    assert found.value[:2].tolist() == [[0.0], [0.5]]
    assert found.tokens.tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("heads", ["mean", "min", "pessimistic"])
def test_heads_are_combined_along_the_path(heads):
    def score(params, *rows):
        return jnp.stack([toy_score(params * scale, *rows) for scale in (1.0, -0.5)])

    model = TOY._replace(score=score)
    found = judged(state_of(STEPS, FINISHED), model=model, heads=heads, lam=0.5)
    text = PROMPT_TEXTS[0] + [5, 10, 6, 6, 10]
    each = [np.prod(toy_steps(text, 3, scale)) for scale in (1.0, -0.5)]
    expected = {
        "mean": np.mean(each),
        "min": min(each),
        "pessimistic": np.mean(each) - 0.5 * np.std(each),
    }
    np.testing.assert_allclose(found.value[0, 0], expected[heads], rtol=1e-6)


def test_rows_are_read_a_few_at_a_time(monkeypatch):
    state = state_of(STEPS, FINISHED)
    whole = judged(state)
    for size in (1, 4):
        monkeypatch.setattr(reward_guides, "ROWS_AT_ONCE", size)
        np.testing.assert_array_equal(judged(state).value, whole.value)


@cache
def reward_model():
    """A model on the policy's trunk, (RewardModel, params)."""
    model = build_reward_model(RewardModelConfig(), CONFIG)
    readout = {"scale": jnp.float32(0.3), "bias": jnp.float32(1.0)}
    return model, {"net": PARAMS, "readout": readout}


@cache
def read_alone():
    return jax.jit(reward_model()[0].score, compiler_options=FAST)


def worth(text, prompt, finished, params):
    """Product of the steps' probabilities of one text, in a row of its own."""
    row, ends = np.zeros((1, 40), np.int32), np.zeros((1, 40), bool)
    row[0, : len(text)] = text
    ends[0, prompt : len(text)] = np.isin(text[prompt:], ENDS)
    lengths = np.array([prompt], np.int32), np.array([len(text)], np.int32)
    scores = np.asarray(read_alone()(params, row, *lengths, ends))[0, ends[0]]
    is_open = not finished and text[-1] not in ENDS
    is_open |= not finished and len(text) == prompt
    probability = 1 / (1 + np.exp(-scores.astype(np.float64)))
    if finished and not len(scores):
        return 0.0
    return np.prod(probability) * (0.5 if is_open else 1.0)


def read_of(text, prompt):
    """Tokens up to the last step end."""
    ends = [t + 1 for t in range(prompt, len(text)) if text[t] in ENDS]
    return max(ends, default=0)


@cache
def program_of(method):
    """The compiled search."""
    steps = Steps(children=2, tokens=3, sampling=SamplingConfig(temperature=3.0))
    search = StepSearch(POLICY, steps, ENDS, STOPS)
    config = Search(
        method=method,
        budget=8 if method == "best_of_n" else 4,
        depth=3,
        answer_tokens=4.0,
        steps=steps,
        mcts=Mcts(leaves=2, revisit=False),
        retry=Retry(attempts=2, threshold=0.4),
    )
    guide = guide_of(reward_model()[0], step_end_ids=ENDS)
    return jax.jit(build_program(search, config, guide), compiler_options=FAST)


def searched(program, params, key=5, prompt_id=(0, 1)):
    prompts = Prompts(
        tokens=PROMPT_TOKENS, length=PROMPT_LENGTH, prompt_id=np.array(prompt_id)
    )
    found = program(PARAMS, jax.random.split(jax.random.key(key), 2), prompts, params)
    return jax.tree.map(np.asarray, found)


def texts_of(nodes, b):
    """The whole text of every node of a tree, prompt first."""
    known = {-1: PROMPT_TEXTS[b]}
    for node in range(nodes.used[b]):
        length = nodes.store.length[b, node]
        own = nodes.store.tokens[b, node, :length].tolist()
        known[node] = known[nodes.parent[b, node]] + own
    del known[-1]
    return known


METHODS = ("beam", "mcts", "retry", "revision")  # one of each engine


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_takes_the_worth_of_every_state(method):
    params = reward_model()[1]
    found = searched(program_of(method), params)
    nodes, spent = found.nodes, found.spent
    for b in range(2):
        prompt, read = PROMPT_LENGTH[b], 0
        texts = texts_of(nodes, b)
        for node, text in texts.items():
            if method == "revision" and node:  # an attempt is judged alone
                text = PROMPT_TEXTS[b] + text[len(texts[nodes.parent[b, node]]) :]
            finished = bool(nodes.store.finished[b, node])
            np.testing.assert_allclose(
                nodes.raw_value[b, node],
                worth(text, prompt, finished, params),
                rtol=1e-4,
            )
            read += read_of(text, prompt)
        # Twins are read too, and in no tree.
        kept = nodes.store.length[b, : nodes.used[b]].sum()
        if nodes.cost[b] == kept:
            assert spent.reward_tokens[b] == read
        else:
            assert spent.reward_tokens[b] >= read
    assert nodes.used.sum() > 7 and spent.reward_tokens.min() > 0


def test_best_of_n_reads_each_finished_answer_once():
    params = reward_model()[1]
    found = searched(program_of("best_of_n"), params)
    nodes = found.nodes
    for b in range(2):
        prompt, read = PROMPT_LENGTH[b], 0
        for node, text in texts_of(nodes, b).items():
            if not nodes.store.finished[b, node]:
                assert nodes.raw_value[b, node] == 0.5  # nobody asked
                continue
            value = worth(text, prompt, True, params)
            np.testing.assert_allclose(nodes.raw_value[b, node], value, rtol=1e-4)
            assert nodes.value[b, node] == nodes.raw_value[b, node]
            read += read_of(text, prompt)
        assert found.spent.reward_tokens[b] == read == nodes.reward_tokens[b]
    assert nodes.store.finished.sum() > 4
    # Of different worth, as they are of different text.
    assert len(np.unique(nodes.raw_value[nodes.store.finished])) > 2


def test_weights_are_an_argument_of_the_compiled_program():
    _, params = reward_model()
    other = params | {"readout": {"scale": jnp.float32(2.0), "bias": jnp.float32(-1)}}
    program = program_of("best_of_n")
    one, two = searched(program, params), searched(program, other)
    again = searched(program, params)
    assert program._cache_size() == 1
    np.testing.assert_array_equal(one.nodes.store.tokens, two.nodes.store.tokens)
    done = one.nodes.store.finished
    differs = one.nodes.raw_value[done] != two.nodes.raw_value[done]
    assert (differs == (one.nodes.raw_value[done] > 0)).all() and differs.any()
    np.testing.assert_array_equal(one.nodes.raw_value, again.nodes.raw_value)


def test_padding_costs_nothing():
    params = reward_model()[1]
    for method in ("best_of_n", "beam"):
        padded = searched(program_of(method), params, prompt_id=(0, -1))
        assert padded.spent.reward_tokens[1] == 0 < padded.spent.reward_tokens[0]


EXPERIMENT = """
Experiment.task = @Chain()
Experiment.stages = [
    @prm/TrainReward(), @orm/TrainReward(), @head/TrainReward(), @Compare()]
prm/TrainReward.name = 'prm'
orm/TrainReward.name = 'orm'
orm/TrainReward.learns = 'outcome'
head/TrainReward.name = 'head'
head/TrainReward.learns = 'outcome'
head/RewardModelConfig.readout = 'head'
Chain.min_steps = 2
Chain.max_steps = 2
Chain.modulus = 5
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
Compare.problems = 8
Compare.budgets = (2,)
Compare.methods = [@Search()]
Search.method = 'best_of_n'
Search.reward = 'prm'
Search.aggregate = 'min'
Steps.tokens = 3
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir of a policy that has learned nothing."""
    folder = tmp_path_factory.mktemp("guided")
    (folder / "config.gin").write_text(EXPERIMENT)
    return Workdir(load(folder / "config.gin").experiment, folder)


def test_a_token_costs_what_it_costs_the_model_that_reads_it(run, monkeypatch):
    wide = replace(run.policy_config, width=32, ff=64)
    config = RewardModelConfig(trunk="new", policy=wide)
    model = build_reward_model(config, run.policy_config)
    shapes = jax.eval_shape(model.init, jax.random.key(1))
    monkeypatch.setattr(run, "reward_model", lambda name: (model, Weights(shapes, 7)))
    task = run.experiment.task
    (method,) = run.experiment.stages[-1].methods
    assert method.label == "best-of-n (prm, min)"
    search = Searcher(run, [task.example(0, "test", 0)], task, method)
    # The prompt alone, one token drawn, one judged.
    drawn, judged = np.array([0.0, 1, 0]), np.array([0.0, 0, 1])
    flops = search._spent(Spent(drawn, 0 * drawn, judged, 0 * drawn)).flops
    # Two FLOPs a weight: 4 matrices of width squared, 3 of width times ff, and the head
    # over all words; attention, norms and the read-out come on top.
    words = run.tokenizer.vocab_size
    weights = lambda width, ff: 4 * width**2 + 3 * width * ff + width * words
    assert 1 < (flops[1] - flops[0]) / (2 * weights(16, 16)) < 2
    assert 1 < (flops[2] - flops[0]) / (2 * weights(32, 64)) < 2


def test_scores_become_one_worth_as_in_training(run):
    # A head that learned from whole answers was asked at their last steps alone.
    assert trained_aggregate(run, "prm") == trained_aggregate(run, "orm") == "product"
    assert trained_aggregate(run, "head") == "last"


def test_a_guide_of_the_command_line_takes_the_place_of_the_config_s(run):
    guides = ("prm", "orm", "likelihood", "verifier")
    named = [method_of(run.path, "beam", guide) for guide in guides]
    assert [m.label for m in named] == [
        "beam (prm, min)",  # as the run sets it up but for what judges
        "beam (orm, min)",
        "beam (likelihood)",
        "beam (verifier)",
    ]
    assert [m.reward for m in named] == ["prm", "orm", "", ""]
    verified = replace(named[-1], name="mine")
    assert with_guide(verified, "prm", ("prm",)).verifier is None
    # Without one the method is the run's own.
    assert method_of(run.path, "best_of_n") == run.experiment.stages[-1].methods[0]


@pytest.mark.parametrize(
    "guide, hint",
    [("prn", "; did you mean prm?"), ("likelyhood", "; did you mean likelihood?")],
)
def test_an_unknown_guide_ends_in_one_line(run, capsys, guide, hint):
    known = "value, process, likelihood, certainty, constant, verifier, prm, orm, head"
    expected = f"o1jax: error: guide must be one of {known}, not {guide!r}{hint}\n"
    asked = ["ask", str(run.path), "1 + 2", "--search", "beam", "--guide", guide]
    several = ["eval", str(run.path), "--search", "mcts", "--guide", f"value,{guide}"]
    for args in (asked, several):
        assert main(args) == 2
        assert capsys.readouterr() == ("", expected)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"verifier": Verifier()}, "verifier and reward are both set: choose one"),
        ({"aggregate": "sum"}, "aggregate must be one of product, min, last, mean"),
        ({"combine": "max"}, "combine must be one of mean, min, pessimistic"),
        ({"lam": -1.0}, "lam must not be negative"),
    ],
)
def test_a_search_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        Search(reward="prm", **change)
