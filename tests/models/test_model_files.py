"""Models come in as transformers saved them, and go out with the same bytes."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from o1jax.cli import main
from o1jax.loop.checkpoint_read import restore_params
from o1jax.loop.model_files import export_model, import_model
from o1jax.models.configs import plain_config, policy_config
from o1jax.models.safetensors import read_file, read_folder
from o1jax.models.source import open_source
from o1jax.policy.policy import PolicyConfig, build_policy

GOLDEN = Path(__file__).parent / "golden"


@contextmanager
def counting(what, total):
    """A progress bar that insists on getting to its end."""
    done = []
    yield done.append
    assert sum(done) == total, what


def same_tensors(here, there):
    ours, theirs = read_folder(here), read_folder(there)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        a, b = tensor.read(), theirs[name].read()
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes(), name


# Biases and f16; parts with an index; norms behind, bf16.
@pytest.mark.parametrize("name", ["llama_bias_multi_query", "qwen3", "gemma2"])
def test_tensors_come_back_byte_for_byte(tmp_path, name):
    import_model(GOLDEN / name, tmp_path / "run", progress=counting)
    export_model(tmp_path / "run", tmp_path / "out", progress=counting)
    same_tensors(GOLDEN / name, tmp_path / "out")
    configs = [
        json.loads((folder / "config.json").read_text())
        for folder in (GOLDEN / name, tmp_path / "out")
    ]
    assert configs[0] == configs[1]
    assert not list(tmp_path.glob(".*")), "nothing half done is left"


def test_a_checkpoint_is_like_any_other(tmp_path):
    """Orbax restores it into a policy of its config, and to train means f32."""
    import_model(
        GOLDEN / "llama3", tmp_path / "run", dtype="float32", progress=counting
    )
    source = open_source(GOLDEN / "llama3")
    params = restore_params(tmp_path / "run" / "checkpoints" / "00-pretrained").params
    policy = build_policy(source.policy)
    wanted = jax.eval_shape(policy.init, jax.random.key(0))
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(params) == shapes(wanted)
    case = np.load(GOLDEN / "llama3" / "expected.npz")
    logits = jax.jit(policy.forward)(params, case["tokens"][:1]).logits
    np.testing.assert_allclose(logits[0, 1:], case["logits"][0, :-1], atol=1e-4)
    # What was bf16 goes out as bf16, unless told otherwise, and in parts if large.
    export_model(tmp_path / "run", tmp_path / "out", part=3000, progress=counting)
    same_tensors(GOLDEN / "llama3", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 1
    export_model(tmp_path / "run", tmp_path / "f32", dtype="float32", progress=counting)
    with safe_open(tmp_path / "f32" / "model.safetensors", framework="np") as file:
        name = "model.layers.1.mlp.down_proj.weight"
        theirs = read_folder(GOLDEN / "llama3")[name].read()
        ours = file.get_tensor(name)  # by the format's own library
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, theirs.astype(np.float32))


def damaged(folder, change):
    """A copy of a case: change gets config.json as a dict and the tensors, as bytes."""
    shutil.copytree(GOLDEN / "llama2", folder)
    config = json.loads((folder / "config.json").read_text())
    file = folder / "model.safetensors"
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    data = change(config, header, file.read_bytes()[8 + length :])
    text = json.dumps(header).encode()
    data = file.read_bytes()[8 + length :] if data is None else data
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


NORM, EMBED = "model.norm.weight", "model.embed_tokens.weight"


def renamed(header):
    header["model.norms.weight"] = header.pop(NORM)


def reshaped(header):
    header[NORM]["shape"] = [4, 4]


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda c, h, d: c.update(model_type="mamba"), "model_type 'mamba' is none"),
        (lambda c, h, d: c.update(mlp_bias=True), "mlp_bias = True is not supported"),
        (
            lambda c, h, d: c.update(rope_scaling={"type": "dynamic", "factor": 2}),
            "rope_type 'dynamic' is not supported",
        ),
        (lambda c, h, d: c.update(hidden_act="relu"), "hidden_act = 'relu'"),
        (lambda c, h, d: c.pop("hidden_size"), "hidden_size = None"),
        (
            lambda c, h, d: c.update(vocab_size=41),
            "model.embed_tokens.weight is [40, 16], but",
        ),
        (
            lambda c, h, d: renamed(h),
            "no tensor model.norm.weight; did you mean model.norms.weight?",
        ),
        (lambda c, h, d: reshaped(h), "model.norm.weight is [4, 4], but config.json"),
        (
            lambda c, h, d: h.update(extra=dict(h[NORM])),
            "tensor extra is none of this architecture",
        ),
        (lambda c, h, d: h[NORM].update(dtype="I8"), "model.norm.weight is I8"),
        (lambda c, h, d: h[NORM].pop("shape"), "says of model.norm.weight is broken"),
        (lambda c, h, d: d[:-100], " ends at byte 25053 of 25017"),
        (
            lambda c, h, d: c.update(layer_types=["full_attention"]),
            "layer_types has 1 entries for 2 layers",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, capsys, change, complaint):
    def changed(config, header, data):
        if "dynamic" in complaint:
            config.pop("rope_parameters")
        cut = change(config, header, data)
        return cut if isinstance(cut, bytes) else None

    folder = damaged(tmp_path / "source", changed)
    assert main(["import", str(folder), str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line and str(folder) in line
    assert not (tmp_path / "run").exists()


def test_tied_weights_may_be_there_twice_if_they_are_the_same(tmp_path):
    def twice(config, header, data):
        config["tie_word_embeddings"] = True
        header["lm_head.weight"] = header[EMBED]

    folder = damaged(tmp_path / "same", twice)
    import_model(folder, tmp_path / "run", progress=lambda what, total: nothing())
    other = damaged(
        tmp_path / "other",
        lambda config, *_: config.update(tie_word_embeddings=True),
    )
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from the embedding"):
        import_model(other, tmp_path / "run2", progress=counting)


@contextmanager
def nothing():
    yield lambda done: None


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "note.txt").write_text("mine")
    assert main(["import", str(GOLDEN / "qwen2"), str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_policy_made_here_has_a_config_json(qk_norm):
    config = PolicyConfig(vocab=30, kv_heads=2, qk_norm=qk_norm, tied=True)
    there_and_back = policy_config(plain_config(config))
    assert there_and_back == replace(config, head_width=24)


def test_a_broken_header_is_named(tmp_path):
    file = tmp_path / "model.safetensors"
    for content in (b"", b"\x10" + b"\0" * 7 + b"{", b"\x02" + b"\0" * 7 + b"[]"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            read_file(file)
