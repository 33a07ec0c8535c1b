"""A GGUF file of the llama architecture, as if it were a folder of safetensors.

In: a .gguf file. Out: its config.json and tensors by the names that safetensors use,
dequantized to f32 one at a time. llama.cpp keeps rotary pairs side by side; here they
are halves again. The format, read by the gguf library (extra `models`):
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from o1jax.models.safetensors import Tensor

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
KINDS = ("F32", "F16", "Q8_0", "Q4_1")


class Gguf(NamedTuple):
    """What a file holds."""

    config: dict[str, Any]  # as config.json
    tensors: dict[str, Tensor]
    fields: Mapping[str, Any]  # all of the file's own


def read_gguf(file: Path) -> Gguf:
    """Reads the header. ValueError says what o1jax can't read."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ValueError(
            f"{file}: to read GGUF, pip install 'o1jax[models]' (no gguf library)"
        ) from None
    try:
        reader = GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{file}: not a GGUF file, or cut off") from error
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise ValueError(f"{file}: architecture {architecture!r}; o1jax reads llama")
    of = lambda key: fields.get(f"llama.{key}")
    heads, kv_heads = of("attention.head_count"), of("attention.head_count_kv")
    tensors = {}
    for tensor in reader.tensors:
        kind, shape = tensor.tensor_type.name, tuple(map(int, tensor.shape[::-1]))
        if kind not in KINDS:
            known = ", ".join(KINDS)
            raise ValueError(f"{file}: {tensor.name} is {kind}; o1jax reads {known}")
        turn = {"attn_q": heads, "attn_k": kv_heads or heads}.get(_part(tensor.name), 0)
        dtype = np.dtype(np.float16 if kind == "F16" else np.float32)
        read = partial(_read, tensor, dtype, turn)
        tensors[_name(file, tensor.name)] = Tensor(shape, dtype, read)
    if "model.embed_tokens.weight" not in tensors:
        raise ValueError(f"{file}: no tensor token_embd.weight")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "max_position_embeddings": of("context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": of("block_count"),
        "num_key_value_heads": kv_heads or heads,
        "rms_norm_eps": float(of("attention.layer_norm_rms_epsilon") or 1e-5),
        "rope_theta": float(of("rope.freq_base") or 10_000.0),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "vocab_size": tensors["model.embed_tokens.weight"].shape[0],
    }
    if of("rope.scaling.type") not in (None, "none"):
        raise ValueError(f"{file}: rope.scaling.type is not supported in GGUF")
    return Gguf(config, tensors, fields)


def _part(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


def _name(file: Path, name: str) -> str:
    """blk.3.attn_q.weight as model.layers.3.self_attn.q_proj.weight."""
    part = _part(name)
    if part not in NAMES or not name.endswith(".weight"):
        raise ValueError(f"{file}: tensor {name} is none of this architecture")
    if not name.startswith("blk."):
        return f"{NAMES[part]}.weight"
    return f"model.layers.{name.split('.')[1]}.{NAMES[part]}.weight"


def _read(tensor: Any, dtype: np.dtype, heads: int) -> np.ndarray:
    """heads: of a query or key kernel, whose rotary pairs are put back into halves."""
    from gguf.quants import dequantize

    shape = tuple(map(int, tensor.shape[::-1]))
    w = tensor.data
    if tensor.tensor_type.name not in ("F32", "F16"):
        w = dequantize(w, tensor.tensor_type)
    w = np.asarray(w, dtype).reshape(shape)
    if not heads:
        return w
    return w.reshape(heads, -1, 2, shape[1]).swapaxes(1, 2).reshape(shape)
