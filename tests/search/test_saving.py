"""Saved trees are the same trees, and a search goes on from them as if never saved."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import expand_fn, random_game, root_of

from o1jax.search.harvest import on_host, texts
from o1jax.search.mcts import Mcts, grow, mcts
from o1jax.search.nodes import nodes_of
from o1jax.search.saving import load_tree, save_tree
from o1jax.search.steps import Steps, StepSearch
from o1jax.search.trace import trace_of
from o1jax.search.tree import plant
from o1jax.types import Prompts


@flax.struct.dataclass
class Record:
    """Something like a page: nested, with types of several widths."""

    small: jax.Array
    layers: tuple[jax.Array, ...]
    none: None = None


RECORD = Record(
    small=jnp.array([True, False]),
    layers=(jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), jnp.arange(2)),
)


def same(a, b):
    """The same structure, types, shapes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_a_search_goes_on_from_a_file_as_if_it_had_not_stopped(tmp_path):
    game, state = random_game(4), jnp.array([0, 1, 2])
    config = Mcts(simulations=8, leaves=2, nodes=17)
    search = jax.jit(
        lambda key: mcts(game, key, root_of(game, state), state, expand_fn, config).tree
    )
    go_on = jax.jit(lambda key, tree: grow(game, key, tree, expand_fn, config))
    first, second = jax.random.split(jax.random.key(0))
    tree = search(first)
    save_tree(tmp_path / "tree.npz", tree)
    loaded = load_tree(tmp_path / "tree.npz", jax.eval_shape(search, first))
    same(loaded, tree)
    result = go_on(second, loaded)
    same(result, go_on(second, tree))
    assert result.tree.root_visits.tolist() == [17] * 3


def test_a_search_over_text_goes_on_and_its_tree_is_read(tmp_path, make):
    _, policy, params = make(layers=1)
    steps = Steps(children=3, tokens=3, guide="likelihood")
    searcher = StepSearch(policy, steps, step_end_ids=(10,), stop_ids=(11,))
    config = Mcts(simulations=8, max_depth=3, nodes=17)
    prompts = Prompts(
        tokens=jnp.array([[1, 2, 3], [4, 0, 0]]),
        length=jnp.array([3, 1]),
        prompt_id=jnp.arange(2),
    )
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def begin(params, keys, prompts):
        problems, *root = searcher.start(policy.unstack(params), keys, prompts)
        return plant(*root, nodes=config.pool), problems

    @jax.jit
    def go_on(params, key, tree, problems):
        expand = searcher.expand_fn(problems)
        return grow(policy.unstack(params), key, tree, expand, config).tree

    tree, problems = begin(params, keys, prompts)
    records = go_on(params, keys[0], tree, problems), problems
    save_tree(tmp_path / "tree.npz", records)
    loaded = load_tree(
        tmp_path / "tree.npz", jax.eval_shape(begin, params, keys, prompts)
    )
    same(loaded, records)
    tree = go_on(params, keys[1], *loaded)
    same(tree, go_on(params, keys[1], *records))

    # The pages of a true search are those that harvesting reads.
    nodes, page = on_host(jax.jit(nodes_of)(tree)), tree.store
    assert nodes.used.max() > 4  # there is something to read
    for b in range(2):
        at = np.arange(nodes.used[b])
        rows = texts(nodes, b, at)
        response = [
            row[:length].tolist() for row, length in zip(rows.tokens, rows.length)
        ]
        trace = trace_of(nodes, b, question="", method="", decode=str)
        for n in at:
            length = page.length[b, n]
            own = page.tokens[b, n, :length].tolist()
            above = response[nodes.parent[b, n]] if n else []
            assert response[n] == above + own
            assert rows.finished[n] == (own[-1:] == [11])
            # Likelihood is the geometric mean of the path's probabilities.
            total = sum(trace.logprob[i] for i in trace.path(n))
            likelihood = np.exp(total / max(rows.length[n], 1))
            np.testing.assert_allclose(trace.raw_value[n], likelihood, rtol=1e-5)


def test_records_of_all_types_come_back(tmp_path):
    file = tmp_path / "records.npz"
    for records in (RECORD, (RECORD, {"file": jnp.zeros(())}), jnp.ones(3), ()):
        save_tree(file, records)
        same(load_tree(file, records), records)


def test_what_is_loaded_is_laid_out_as_the_example(tmp_path):
    save_tree(tmp_path / "x.npz", {"x": np.arange(8)})
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    like = {"x": jax.ShapeDtypeStruct((8,), np.arange(8).dtype, sharding=sharding)}
    found = load_tree(tmp_path / "x.npz", like)["x"]
    assert found.sharding == sharding
    assert found.tolist() == list(range(8))


@pytest.mark.parametrize(
    "like, message",
    [
        (
            RECORD.replace(small=jnp.zeros(3, bool)),
            "small is bool[2], in the example bool[3]",
        ),
        (
            RECORD.replace(small=jnp.zeros(2)),
            "small is bool[2], in the example float32[2]",
        ),
        (
            RECORD.replace(layers=(jnp.zeros((2, 3), jnp.uint16), jnp.arange(2))),
            "layers/0 is bfloat16[2, 3], in the example uint16[2, 3]",
        ),
        (
            RECORD.replace(layers=RECORD.layers[:1]),
            "layers/1 is in it, but not in the example",
        ),
        (RECORD.replace(none=jnp.zeros(2)), "none of the example is not in it"),
    ],
)
def test_a_leaf_that_does_not_fit_is_named(tmp_path, like, message):
    file = tmp_path / "records.npz"
    save_tree(file, RECORD)
    with pytest.raises(ValueError) as caught:
        load_tree(file, like)
    assert str(caught.value) == f"{file}: {message}"


@pytest.mark.parametrize(
    "records, message",
    [
        ({"x": 3.0}, "x is a float, not an array"),
        ({"x": jax.random.key(0)}, "x is a PRNG key: save its jax.random.key_data"),
        ({"a": {"b": np.ones(1)}, "a/b": np.ones(1)}, "a/b is the path of two leaves"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, records, message):
    with pytest.raises(ValueError) as caught:
        save_tree(tmp_path / "x.npz", records)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_called_so(tmp_path):
    file = tmp_path / "records.npz"
    save_tree(file, RECORD)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    array = whole.index(b"NUMPY", whole.index(b"leaf/layers/1")) - 1
    flipped[array + 128] ^= 1  # its header takes 128 bytes
    for content in (b"", b"no archive", whole[:-30], bytes(flipped)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="damaged, or not a file of save_tree"):
            load_tree(file, RECORD)
    np.savez(file, x=np.ones(2))
    with pytest.raises(ValueError, match="damaged, or not a file of save_tree"):
        load_tree(file, RECORD)
    with open(file, "wb") as out:
        np.save(out, np.ones(2))
    with pytest.raises(ValueError, match="damaged, or not a file of save_tree"):
        load_tree(file, RECORD)
    with pytest.raises(FileNotFoundError):
        load_tree(tmp_path / "none.npz", RECORD)


def test_a_save_that_fails_leaves_the_file_before_it(tmp_path, monkeypatch):
    file = tmp_path / "records.npz"
    save_tree(file, RECORD)

    def full(out, **arrays):
        out.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        save_tree(file, jnp.ones(3))
    same(load_tree(file, RECORD), RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["records.npz"]
