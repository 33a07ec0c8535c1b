"""Saved trees are the same trees, and a search goes on from them as if never saved."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import expand_fn, random_game, root_of

from o1jax.search.mcts import Mcts, grow, mcts
from o1jax.search.saving import load_tree, save_tree


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


def test_a_search_goes_on_from_a_file_as_if_it_had_not_stopped(tmp_path, jit):
    game, state = random_game(4), jnp.array([0, 1, 2])
    config = Mcts(simulations=8, leaves=2, nodes=17)
    search = jit(
        lambda key: mcts(game, key, root_of(game, state), state, expand_fn, config).tree
    )
    go_on = jit(lambda key, tree: grow(game, key, tree, expand_fn, config))
    first, second = jax.random.split(jax.random.key(0))
    tree = search(first)
    save_tree(tmp_path / "tree.npz", tree)
    loaded = load_tree(tmp_path / "tree.npz", jax.eval_shape(search, first))
    same(loaded, tree)
    result = go_on(second, loaded)
    same(result, go_on(second, tree))
    assert result.tree.root_visits.tolist() == [17] * 3


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
