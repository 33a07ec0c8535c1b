"""Learned reward models as guides: each value is that of the text, read alone."""

import re
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tiny import tiny

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.cli import main
from o1jax.config import load
from o1jax.loop import reward_guides
from o1jax.loop.guides import Verifier
from o1jax.loop.judges import trained_aggregate
from o1jax.loop.methods import Search, build_program, with_guide
from o1jax.loop.reward_guides import reward_reader
from o1jax.loop.run import method_of
from o1jax.loop.searching import Searcher
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import ROWS, MeshConfig, build_mesh, put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.reward.model import RewardModelConfig, build_reward_model
from o1jax.reward.versions import Weights
from o1jax.rollout.sampling import SamplingConfig
from o1jax.search.mcts import Mcts
from o1jax.search.problems import Problems
from o1jax.search.steps import Steps, StepSearch
from o1jax.types import Prompts, Spent

# Several of each, for a policy of random weights ends few steps with one.
ENDS, STOPS = (1, 3, 4, 5), (2, 11)
PROMPT_TEXTS = [[1, 5, 10], [1, 7, 8, 9, 4]]  # a step end in a prompt is none
PROMPT_LENGTH = np.array([3, 5], np.int32)
PROMPT_TOKENS = np.array([[1, 5, 10, 0, 0], [1, 7, 8, 9, 4]], np.int32)
CONFIG, POLICY, PARAMS = tiny(layers=1)
# Unoptimised machine code compiles in half the time.
FAST = {"xla_backend_optimization_level": 0}
BY_HAND = {"product": np.prod, "min": np.min, "last": lambda p: p[-1], "mean": np.mean}
STEPS = Steps(children=2, tokens=3, sampling=SamplingConfig(temperature=3.0))


@cache
def model_of(readout="logodds", heads=1):
    """(RewardModel, params of which nothing is at its default)."""
    model = build_reward_model(RewardModelConfig(readout, heads=heads), CONFIG)
    shapes = jax.eval_shape(model.init, jax.random.key(0), PARAMS)
    rng = np.random.default_rng(4)
    moved = lambda x: x + jnp.asarray(rng.normal(0.3, 0.3, x.shape), x.dtype)
    fill = lambda shape: moved(jnp.zeros(shape.shape, shape.dtype))
    if readout == "implicit":
        return model, {"net": PARAMS, "reference": jax.tree.map(moved, PARAMS)}
    return model, {"net": PARAMS, "readout": jax.tree.map(fill, shapes["readout"])}


def search_of(method="beam", model=("logodds", 1), **options):
    """A search, its nodes judged by a reward_reader of these options."""
    search = StepSearch(POLICY, STEPS, ENDS, STOPS)
    config = Search(
        method=method,
        budget=4,
        depth=3,
        answer_tokens=4.0,
        steps=STEPS,
        mcts=Mcts(leaves=2, revisit=False),
    )
    read = partial(reward_reader, model_of(*model)[0], step_end_ids=ENDS, **options)
    return build_program(search, config, read)


@cache
def program_of(*method, **options):
    return jax.jit(search_of(*method, **options), compiler_options=FAST)


def searched(program, params, key=5, prompt_id=(0, 1)):
    prompts = Prompts(
        tokens=PROMPT_TOKENS, length=PROMPT_LENGTH, prompt_id=np.array(prompt_id)
    )
    found = program(PARAMS, jax.random.split(jax.random.key(key), 2), prompts, params)
    return jax.tree.map(np.asarray, found)


class Text(NamedTuple):
    """A node: all its text, prompt first, and the last step's own tokens."""

    b: int
    node: int
    tokens: list
    own: int
    finished: bool


def texts_of(nodes, *, alone=False):
    """Every node; alone: a step is an attempt, judged as if there were no other."""
    texts = []
    for b in range(2):
        known = {-1: PROMPT_TEXTS[b]}
        for node in range(nodes.used[b]):
            length = nodes.store.length[b, node]
            own = nodes.store.tokens[b, node, :length].tolist()
            above = known[-1] if alone else known[nodes.parent[b, node]]
            known[node] = above + own
            finished = bool(nodes.store.finished[b, node])
            texts.append(Text(b, node, known[node], length, finished))
    return texts


def closed_in(text, ends):
    """Where the steps of a text end."""
    prompt = PROMPT_LENGTH[text.b]
    closed = [t for t in range(prompt, len(text.tokens)) if text.tokens[t] in ENDS]
    last = len(text.tokens) - 1
    if ends and text.finished and last not in closed:
        closed.append(last)
    return closed


@cache
def read_alone(*model):
    return jax.jit(model_of(*model)[0].score, compiler_options=FAST)


def worths(texts, model=("logodds", 1), how="product", ends=False, params=None):
    """f64[K, texts]: by `score` of whole rows, aggregated by hand."""
    tokens, step_end = np.zeros((128, 20), np.int32), np.zeros((128, 20), bool)
    prompt, length = np.ones((2, 128), np.int32)
    for r, text in enumerate(texts):
        tokens[r, : len(text.tokens)] = text.tokens
        prompt[r], length[r] = PROMPT_LENGTH[text.b], len(text.tokens)
        step_end[r, closed_in(text, ends)] = True
    rows = (params or model_of(*model)[1], tokens, prompt, length, step_end)
    scores = np.asarray(read_alone(*model)(*rows), np.float64)
    scores = scores.reshape(-1, *tokens.shape)
    found = np.zeros((len(scores), len(texts)))
    for k, r in np.ndindex(found.shape):
        text, closed = texts[r], closed_in(texts[r], ends)
        steps = (1 / (1 + np.exp(-scores[k, r, closed]))).tolist()
        if not text.finished and closed[-1:] != [len(text.tokens) - 1]:
            steps = [0.5, *steps]  # the open step
        found[k, r] = BY_HAND[how](steps) if steps else 0.0
    return found


def check_values(value, texts, expected):
    raw = [value[text.b, text.node] for text in texts]
    np.testing.assert_allclose(raw, expected, atol=1e-4)
    assert len(np.unique(np.round(expected, 4))) > len(expected) / 4


def check_tokens(found, texts, ends):
    """The prompts once; of a step its tokens, but nothing behind the end of all."""
    read = PROMPT_LENGTH.astype(float)
    for text in texts:
        closed = [t + 1 for t in closed_in(text, ends)]
        unread = len(text.tokens) - max([*closed, len(text.tokens) - text.own])
        read[text.b] += text.own - unread * text.finished
    nodes, store = found.nodes, found.nodes.store
    for b in range(2):
        # Twins are read too, and in no tree.
        kept = nodes.cost[b] == store.length[b, : nodes.used[b]].sum()
        assert found.spent.reward_tokens[b] == nodes.reward_tokens[b]
        assert (found.spent.reward_tokens[b] == read[b]) or not kept
        assert found.spent.reward_tokens[b] >= read[b]


@pytest.mark.parametrize("method", ["beam", "mcts", "revision"])
def test_every_recipe_takes_the_worth_of_every_state(method):
    found = searched(program_of(method, ends=True), model_of()[1])
    texts = texts_of(found.nodes, alone=method == "revision")
    check_values(found.nodes.raw_value, texts, worths(texts, ends=True)[0])
    check_tokens(found, texts, ends=True)
    assert found.nodes.used.sum() > 7


@cache
def levels():
    """(nodes of a search, [(which nodes [B, N] are of a level, their paths)])."""
    nodes = searched(program_of(ends=True), model_of()[1]).nodes
    parent, found = nodes.parent, []
    B, N = parent.shape
    for depth in range(1, 4):
        path = np.full((B, N, 3), -1, np.int32)
        wanted = np.zeros((B, N), bool)
        for b in range(B):
            for n in range(1, nodes.used[b]):
                above = [n]
                while above[0]:
                    above.insert(0, parent[b, above[0]])
                if len(above) == depth + 1:
                    wanted[b, n], path[b, n, :depth] = True, above[:-1]
        found.append((wanted, path))
    return nodes, found


def replayed(model, **options):
    """(values f32[B, N], scores f32[B, N, K]) of a reader on the tree of a search."""
    model, params = model_of(*model)
    nodes, steps = jax.tree.map(jnp.asarray, levels())
    prompts = Prompts(
        tokens=jnp.asarray(PROMPT_TOKENS),
        length=jnp.asarray(PROMPT_LENGTH),
        prompt_id=jnp.arange(2),
    )
    of = partial(reward_reader, model, step_end_ids=ENDS, **options)
    first = jax.jit(lambda params: of(params).start(prompts, 3), compiler_options=FAST)
    root, shared, page = first(params)
    problems = Problems(None, None, None, prompts.length, prompts.prompt_id, None)
    problems = problems._replace(reader=shared)

    @partial(jax.jit, compiler_options=FAST)
    def read(params, held, value, path, wanted):
        store = nodes.store.replace(reader=held)
        own = nodes.store.replace(length=jnp.where(wanted, nodes.store.length, 0))
        guidance, new = of(params).read(problems, store, path, own)
        of_level = lambda x: wanted.reshape(*wanted.shape, *[1] * (x.ndim - 2))
        place = lambda x, old: jnp.where(of_level(x), x, old)
        return jax.tree.map(place, (new, guidance.value), (held, value))

    every = nodes.parent.shape[1]
    found = jax.tree.map(lambda x: jnp.repeat(x, every, axis=1), (page, root.value))
    for wanted, path in steps:
        found = read(params, *found, path, wanted)
    return np.asarray(found[1]), np.asarray(found[0].score)


@pytest.mark.parametrize(
    "readout, how, ends",
    [
        ("goal", "mean", True),
        ("implicit", "last", False),
    ],
)
def test_a_node_is_worth_what_its_text_is_read_alone(readout, how, ends):
    options = {"model": (readout, 1), "how": how, "ends": ends}
    texts = texts_of(levels()[0])
    value, _ = replayed(**options)
    check_values(value, texts, worths(texts, **options)[0])


def test_heads_are_combined_along_the_path(monkeypatch):
    monkeypatch.setattr(reward_guides, "TOKENS_AT_ONCE", 1)  # a tree at a time
    options, texts = {"model": ("head", 3), "ends": True}, texts_of(levels()[0])
    value, of_heads = replayed(**options, heads="pessimistic", lam=0.5)
    each = worths(texts, **options)
    check_values(value, texts, np.maximum(each.mean(0) - 0.5 * each.std(0), 0))
    nodes = [i for i, text in enumerate(texts) if text.node]  # a root is no answer
    of_heads = [of_heads[texts[i].b, texts[i].node] for i in nodes]
    np.testing.assert_allclose(np.exp(of_heads), each.T[nodes], atol=1e-4)


def test_weights_are_an_argument_of_the_compiled_program():
    params, program = model_of()[1], program_of(ends=True)
    other = params | {"readout": {"scale": jnp.float32(2.0), "bias": jnp.float32(-1)}}
    for own in (params, other):
        found = searched(program, own)
        texts = texts_of(found.nodes)
        values = worths(texts, ends=True, params=own)[0]
        check_values(found.nodes.raw_value, texts, values)
    assert program._cache_size() == 1


def test_on_a_mesh_a_shard_reads_alone():
    """As tests/search/test_search_mesh.py, with a network more."""
    mesh = build_mesh(MeshConfig(data=2), jax.devices()[:2])
    rows = PartitionSpec(ROWS)
    local = jax.shard_map(
        search_of(ends=True),
        mesh=mesh,
        in_specs=(PartitionSpec(), rows, rows, PartitionSpec()),
        out_specs=rows,
        check_vma=False,
    )
    params = model_of()[1]
    prompts = Prompts(
        tokens=PROMPT_TOKENS, length=PROMPT_LENGTH, prompt_id=np.arange(2, dtype="i4")
    )
    keys = jax.random.split(jax.random.key(5), 2)
    arguments = (
        shard(PARAMS, TRANSFORMER_RULES, mesh),
        jax.device_put(keys, NamedSharding(mesh, rows)),
        put_batch(mesh, prompts),
        shard(params, TRANSFORMER_RULES, mesh),
    )
    program = jax.jit(local, compiler_options=FAST).lower(*arguments).compile()
    collective = r" (all-|reduce-scatter|collective-)\S*\("
    assert not re.search(collective, program.as_text())
    found, alone = program(*arguments), searched(program_of(ends=True), params)
    np.testing.assert_array_equal(found.nodes.store.tokens, alone.nodes.store.tokens)
    np.testing.assert_allclose(found.score, alone.score, atol=1e-5)


def test_padding_costs_nothing():
    padded = searched(program_of(ends=True), model_of()[1], prompt_id=(0, -1))
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
