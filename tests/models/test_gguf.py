"""A GGUF file reads as the model it was made of, whatever its types."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter

from o1jax.models.gguf import read_gguf
from o1jax.models.mapping import pieces
from o1jax.models.source import open_source

D, F, V, HEADS, KV = 32, 64, 40, 4, 2
RNG = np.random.default_rng(3)


def side_by_side(w, heads):
    """Rotary pairs as llama.cpp's converter lays them: halves woven together."""
    return (
        w.reshape(heads, 2, w.shape[0] // heads // 2, -1)
        .swapaxes(1, 2)
        .reshape(w.shape)
    )


def q8_0(shape):
    """(bytes, values): blocks of a f16 scale and 32 signed numbers."""
    scale = RNG.uniform(0.01, 0.1, (shape[0], shape[1] // 32, 1)).astype(np.float16)
    number = RNG.integers(-127, 128, (*scale.shape[:2], 32)).astype(np.int8)
    data = np.concatenate([scale.view(np.uint8), number.view(np.uint8)], axis=-1)
    values = scale.astype(np.float32) * number
    return data.reshape(shape[0], -1), values.reshape(shape)


def q4_1(shape):
    """(bytes, values): f16 scale and least value, then 32 halves of bytes.

    Number i of the first 16 is the low half of byte i, that of the last 16 the high.
    """
    scale, least = (
        RNG.uniform(-0.1, 0.1, (shape[0], shape[1] // 32, 1)).astype(np.float16)
        for _ in range(2)
    )
    number = RNG.integers(0, 16, (*scale.shape[:2], 32)).astype(np.uint8)
    packed = number[..., :16] | (number[..., 16:] << 4)
    parts = [scale.view(np.uint8), least.view(np.uint8), packed]
    values = scale.astype(np.float32) * number + least.astype(np.float32)
    data = np.concatenate(parts, axis=-1).reshape(shape[0], -1)
    return data, values.reshape(shape)


def written(file, *, architecture="llama", leave_out=()):
    """A model of one layer, and its tensors by the names of safetensors."""
    plain = lambda *shape: RNG.normal(size=shape).astype(np.float32)
    layer = "model.layers.0."
    embed, embedding = q8_0((V, D))
    down, down_values = q4_1((D, F))
    q, k = plain(D, D), plain(D // 2, D)
    half = plain(D // 2, D).astype(np.float16)
    tensors = {
        "token_embd": (embed, Kind.Q8_0, "model.embed_tokens", embedding),
        "output_norm": (n := plain(D), None, "model.norm", n),
        "blk.0.attn_q": (side_by_side(q, HEADS), None, f"{layer}self_attn.q_proj", q),
        "blk.0.attn_k": (side_by_side(k, KV), None, f"{layer}self_attn.k_proj", k),
        "blk.0.attn_v": (half, None, f"{layer}self_attn.v_proj", half),
        "blk.0.attn_output": (o := plain(D, D), None, f"{layer}self_attn.o_proj", o),
        "blk.0.ffn_gate": (g := plain(F, D), None, f"{layer}mlp.gate_proj", g),
        "blk.0.ffn_up": (u := plain(F, D), None, f"{layer}mlp.up_proj", u),
        "blk.0.ffn_down": (down, Kind.Q4_1, f"{layer}mlp.down_proj", down_values),
        "blk.0.attn_norm": (a := plain(D), None, f"{layer}input_layernorm", a),
        "blk.0.ffn_norm": (f := plain(D), None, f"{layer}post_attention_layernorm", f),
    }
    writer = GGUFWriter(file, architecture)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(F)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    for name, (data, kind, _, _) in tensors.items():
        if name not in leave_out:
            writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {f"{theirs}.weight": values for _, _, theirs, values in tensors.values()}


def test_tensors_are_those_of_the_model(tmp_path):
    values = written(tmp_path / "tiny.gguf")
    source = open_source(tmp_path / "tiny.gguf")
    assert source.policy.tied and source.policy.rope_theta == 1e5
    assert {name for p in pieces(source.policy) for name, _ in p.tensors} == set(values)
    for name, tensor in source.tensors.items():
        read = tensor.read()
        assert read.dtype == tensor.dtype == values[name].dtype
        np.testing.assert_array_equal(read, values[name], err_msg=name)


def test_what_o1jax_does_not_read_is_named(tmp_path):
    written(tmp_path / "a.gguf", architecture="mamba")
    with pytest.raises(ValueError, match="architecture 'mamba'; o1jax reads llama"):
        read_gguf(tmp_path / "a.gguf")
    written(tmp_path / "b.gguf", leave_out=("blk.0.attn_v",))
    with pytest.raises(ValueError, match=r"no tensor model.layers.0.self_attn.v_proj"):
        open_source(tmp_path / "b.gguf")
    (tmp_path / "c.gguf").write_bytes((tmp_path / "b.gguf").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"c.gguf: not a GGUF file, or cut off"):
        read_gguf(tmp_path / "c.gguf")
    (tmp_path / "d.gguf").write_bytes(b"hello, this is no model")
    with pytest.raises(ValueError, match=r"d.gguf: not a GGUF file, or cut off"):
        read_gguf(tmp_path / "d.gguf")
