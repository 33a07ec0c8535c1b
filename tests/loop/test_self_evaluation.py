"""The policy asked about its own texts: each value equals reading that text anew."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.cli.commands import _method
from o1jax.config import ConfigError, load
from o1jax.data.tokenizer import from_symbols, from_texts
from o1jax.loop.compare import section
from o1jax.loop.guides import Verifier
from o1jax.loop.methods import Search, build_program
from o1jax.loop.path_rows import packed
from o1jax.loop.searching import Searcher
from o1jax.loop.self_evaluation import SelfEvaluation, self_evaluation_guide
from o1jax.loop.workdir import Workdir
from o1jax.search.mcts import Mcts
from o1jax.search.steps import Steps, StepSearch
from o1jax.types import NodeState, Prompts

TOKENIZER = from_symbols(list("abcdefgh"))  # a is 4, h is 11
STEP_END, STOP = 10, 11
ASKED = SelfEvaluation(ask="e f", yes="a", no="b")
PROMPT_TEXTS = [[1, 5, 6], [1, 7, 8, 9, 4]]
PROMPT_LENGTH = np.array([3, 5], np.int32)
PROMPT_TOKENS = np.array([[1, 5, 6, 0, 0], [1, 7, 8, 9, 4]], np.int32)
_, POLICY, PARAMS = tiny(cache_chunk=64)
# Unoptimised machine code compiles in half the time.
FAST = {"xla_backend_optimization_level": 0}


def guide_of(config=ASKED):
    return self_evaluation_guide(
        POLICY, PROMPT_TOKENS, PROMPT_LENGTH, config, TOKENIZER
    )


def by_hand(texts, config=ASKED):
    """P(yes) / (P(yes) + P(no)) behind each text and the question, read one by one."""
    word = lambda text: [4 + "abcdefgh".index(w) for w in text.split()]
    (yes,), (no,), ask = word(config.yes), word(config.no), word(config.ask)
    answers = []
    for text in texts:
        whole = text + ask
        row = np.zeros((1, 24), np.int32)
        row[0, : len(whole)] = whole
        # logits[t] are of token t given those before it.
        logits = np.asarray(forward()(PARAMS, row))[0, len(whole)]
        odds = np.exp(logits.astype(np.float64))
        answers.append(odds[yes] / (odds[yes] + odds[no]))
    return np.array(answers)


@cache
def forward():
    read = lambda params, rows: POLICY.forward(params, rows).logits
    return jax.jit(read, compiler_options=FAST)


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


def judged(state, config=ASKED, params=PARAMS):
    guide = jax.jit(guide_of(config), compiler_options=FAST)
    return jax.tree.map(np.asarray, guide(params, state))


# The root's step is empty, and the places between the end of a path and the node's own
# step are too. The last row of the second problem is not wanted.
STEPS = [
    [[[], [5, 10], [6, 6, 10]], [[], [], [9, 5, 11]], [[], [], [11]]],
    [[[], [], [8, 10]], [[], [4, 4, 4, 10], [4, 4, 4, 4]], [[], [], []]],
]
FINISHED = [[False, True, True], [False, False, False]]


def test_value_is_that_of_the_whole_text_read_anew():
    guidance = judged(state_of(STEPS, FINISHED))
    first, second = PROMPT_TEXTS
    texts = [
        first + [5, 10, 6, 6, 10],
        first + [9, 5],  # the stop token 11 is left out
        first,
        second + [8, 10],
        second + [4, 4, 4, 10, 4, 4, 4, 4],
    ]
    np.testing.assert_allclose(
        guidance.value.reshape(-1)[:5], by_hand(texts), rtol=3e-5
    )
    # Prompt, steps and the question of 2 tokens.
    assert guidance.tokens.tolist() == [
        [3 + 5 + 2, 3 + 2 + 2, 3 + 2],
        [5 + 2 + 2, 5 + 8 + 2, 0],
    ]


def test_roots_are_judged_and_padding_costs_nothing():
    state = state_of([[[[]]], [[[]]], [[[]]]], [[False]] * 3, prompt_id=(1, -1, 0))
    guidance = judged(state)
    expected = by_hand([PROMPT_TEXTS[1], PROMPT_TEXTS[0]])
    np.testing.assert_allclose(guidance.value[[0, 2], 0], expected, rtol=3e-5)
    assert guidance.tokens.tolist() == [[7], [0], [5]]
    # A problem that is none, in the middle of a search.
    padded = judged(state_of(STEPS, FINISHED, prompt_id=(-1, 1)))
    assert padded.tokens.tolist() == [[0, 0, 0], [9, 15, 0]]


def test_every_word_counts():
    state = state_of(STEPS, FINISHED)
    value = judged(state).value[0]
    for change in ({"ask": "f e"}, {"yes": "c"}, {"no": "d"}):
        config = replace(ASKED, **change)
        other = judged(state, config).value[0]
        assert (np.abs(other - value) > 1e-3).all()
    swapped = judged(state, replace(ASKED, yes="b", no="a")).value[0]
    np.testing.assert_allclose(swapped, 1 - value, rtol=1e-5)


def test_layers_may_be_stacked_or_not():
    state = state_of(STEPS, FINISHED)
    other = judged(state, params=POLICY.unstack(PARAMS))
    np.testing.assert_allclose(other.value, judged(state).value, rtol=1e-5)


def test_packed_moves_what_is_kept_to_the_left():
    tokens = jnp.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    kept = jnp.array([[False, True, False, True], [False, False, False, False]])
    left, length = packed(tokens, kept)
    assert left.tolist() == [[2, 4, 0, 0], [0, 0, 0, 0]]
    assert length.tolist() == [2, 0]


@pytest.mark.parametrize("method", ["mcts", "beam"])
def test_a_search_reads_every_node_s_text_and_counts_it(method):
    steps = Steps(children=2, tokens=3)
    search = StepSearch(POLICY, steps, (STEP_END,), (STOP,), guide_of())
    config = Search(
        method=method,
        budget=4,
        depth=3,
        answer_tokens=4.0,
        steps=steps,
        mcts=Mcts(leaves=2, revisit=False),
    )
    prompts = Prompts(
        tokens=PROMPT_TOKENS, length=PROMPT_LENGTH, prompt_id=np.arange(2)
    )
    program = jax.jit(build_program(search, config), compiler_options=FAST)
    found = program(PARAMS, jax.random.split(jax.random.key(5), 2), prompts)
    nodes, spent = jax.tree.map(np.asarray, (found.nodes, found.spent))
    read = np.zeros(2)
    texts, values = [], []
    for b, prompt in enumerate(PROMPT_TEXTS):
        known = {-1: prompt}
        for node in range(nodes.used[b]):
            length = nodes.store.length[b, node]
            own = nodes.store.tokens[b, node, :length].tolist()
            known[node] = known[nodes.parent[b, node]] + own
            text = known[node][: -1 if nodes.store.finished[b, node] else None]
            texts.append(text)
            values.append(nodes.raw_value[b, node])
            read[b] += len(text) + 2
    assert len(texts) > 10 and nodes.store.finished.any()
    np.testing.assert_allclose(values, by_hand(texts), rtol=1e-4)
    # Twins are judged too, and in no tree.
    kept = np.array(
        [nodes.store.length[b, :used].sum() for b, used in enumerate(nodes.used)]
    )
    twins = nodes.cost > kept
    assert (spent.reward_tokens[twins] > read[twins]).all()
    assert (spent.reward_tokens[~twins] == read[~twins]).all()
    assert spent.generated_tokens.tolist() == nodes.cost.tolist()
    assert spent.flops.tolist() == [0, 0]


EXPERIMENT = """
Experiment.task = @Chain()
Experiment.stages = [@Compare()]
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
Search.self_evaluation = @SelfEvaluation()
SelfEvaluation.ask = '= +'
SelfEvaluation.yes = '1'
SelfEvaluation.no = '0'
Steps.tokens = 3
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir of a policy that has learned nothing."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "config.gin").write_text(EXPERIMENT)
    return Workdir(load(folder / "config.gin").experiment, folder)


def test_the_account_of_an_experiment_holds_what_was_read(run):
    task = run.experiment.task
    examples = [task.example(0, "test", i) for i in range(8)]
    (asking,) = run.experiment.stages[0].methods
    asking = replace(asking, budget=2)
    assert asking.label == "best-of-n (self-evaluation)"
    search = Searcher(run, examples, task, asking)
    spent = search(run.current_params(), jax.random.key(2)).spent
    # BOS, 5 tokens of the question and =; behind them the 2 that ask, at the root and
    # at each of at least 2 further nodes, whose own steps come on top.
    assert (spent.reward_tokens >= 3 * (7 + 2) + 2).all()
    # flops = prompt + a x tokens drawn + b x tokens read by the guide, and a = b.
    parts = np.stack([np.ones(8), spent.generated_tokens, spent.reward_tokens], axis=1)
    assert np.linalg.matrix_rank(parts) == 3
    prompt, drawn, read = np.linalg.lstsq(parts, spent.flops)[0]
    np.testing.assert_allclose(drawn, read, rtol=1e-6)
    assert prompt > drawn > 0


def test_the_report_has_a_column_for_them_where_there_are_any():
    row = {
        "method": "m",
        "budget": 2,
        "tokens": 9.0,
        "reward_tokens": 0.0,
        "flops": 1.0,
        "accuracy": [0.5, 0.4, 0.6],
        "found": [0.5, 0.4, 0.6],
    }
    results = {"rows": [row], "answer_tokens": 4.0, "problems": 3}
    table = section("search", results)["table"]
    assert "reward tokens" not in table["columns"]
    row["reward_tokens"] = 55.0
    table = section("search", results)["table"]
    place = table["columns"].index("reward tokens")
    assert table["rows"][0][place] == 55.0
    assert len(table["rows"][0]) == len(table["columns"])


class Arguments:
    """Of the command line."""

    temperature = select = None


def test_a_guide_of_the_command_line_takes_its_place(run):
    own = _method(Arguments(), run.path, "best_of_n", "")
    assert own.self_evaluation == run.experiment.stages[0].methods[0].self_evaluation
    for guide in ("verifier", "certainty"):
        method = _method(Arguments(), run.path, "best_of_n", guide)
        assert method.guide == guide and method.self_evaluation is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"yes": "a b"}, r"SelfEvaluation.yes: 'a b' is not one token"),
        ({"no": "z"}, "SelfEvaluation.no: unknown word 'z'"),
        ({"ask": "e z"}, "SelfEvaluation.ask: unknown word 'z' in 'e z'"),
        ({"no": "a"}, "yes and no are the same token: 'a'"),
    ],
)
def test_words_that_the_tokenizer_cannot_write_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        guide_of(replace(ASKED, **change))


def test_a_tokenizer_that_splits_the_word_is_refused():
    pieces = from_texts(["a b c"], vocab_size=300, symbols=["right"])
    config = SelfEvaluation(ask="?", yes="right", no="wrong")
    with pytest.raises(ValueError, match="no: 'wrong' is not one token"):
        self_evaluation_guide(POLICY, PROMPT_TOKENS, PROMPT_LENGTH, config, pieces)


def test_an_experiment_that_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ask must not be empty"):
        SelfEvaluation(ask="", yes="a", no="b")
    with pytest.raises(ValueError, match="verifier and self_evaluation are both set"):
        Search(verifier=Verifier(), self_evaluation=ASKED)
    file = tmp_path / "both.gin"
    file.write_text(EXPERIMENT + "Search.verifier = @Verifier()\n")
    with pytest.raises(ConfigError, match="both set: choose one"):
        load(file)
