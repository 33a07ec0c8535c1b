"""Tiny random models of every family, as transformers saves and computes them.

    python tests/models/golden.py OUT    (needs torch and transformers; `make parity`)

Writes OUT/CASE with config.json, safetensors and expected.npz: logits f32 of two rows,
the second one padded, and 64 greedy tokens behind a prompt. The folder beside this file
holds such cases, so that the tests need no torch.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

SIZE = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = dict(
    rope_type="yarn",
    rope_theta=1000.0,
    factor=4.0,
    original_max_position_embeddings=32,
    beta_fast=4.0,
)
LINEAR = dict(rope_type="linear", rope_theta=100.0, factor=4.0)
LOCAL_GLOBAL = {
    "sliding_attention": dict(rope_type="default", rope_theta=100.0),
    "full_attention": dict(rope_type="linear", rope_theta=10_000.0, factor=8.0),
}

# name: (class, what differs from SIZE, dtype saved, old config keys, bytes of a part)
CASES = {
    "llama2": ("Llama", dict(num_key_value_heads=4), "float32", False, 0),
    "llama3": (
        "Llama",
        dict(rope_parameters=LLAMA3, tie_word_embeddings=True),
        "bfloat16",
        True,
        0,
    ),
    "llama_bias_multi_query": (
        "Llama",
        dict(num_key_value_heads=1, attention_bias=True, rope_parameters=LINEAR),
        "float16",
        False,
        0,
    ),
    "mistral": (
        "Mistral",
        dict(num_key_value_heads=1, head_dim=6, sliding_window=7),
        "bfloat16",
        False,
        0,
    ),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True), "bfloat16", True, 0),
    "qwen2_windows": (
        "Qwen2",
        dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
        "float32",
        True,
        0,
    ),
    "qwen3": ("Qwen3", dict(head_dim=8), "bfloat16", False, 6000),
    "qwen3_yarn": (
        "Qwen3",
        dict(head_dim=8, num_key_value_heads=4, rope_parameters=YARN),
        "float32",
        True,
        0,
    ),
    "gemma2": (
        "Gemma2",
        dict(
            head_dim=6,
            sliding_window=5,
            query_pre_attn_scalar=9,
            attn_logit_softcapping=4.0,
            final_logit_softcapping=6.0,
        ),
        "bfloat16",
        False,
        0,
    ),
    "gemma3": (
        "Gemma3",
        dict(
            head_dim=8,
            num_hidden_layers=3,
            num_key_value_heads=1,
            sliding_window=6,
            query_pre_attn_scalar=12,
            sliding_window_pattern=3,
            rope_parameters=LOCAL_GLOBAL,
        ),
        "bfloat16",
        False,
        0,
    ),
    "gemma3_old_keys": (
        "Gemma3",
        dict(
            head_dim=4,
            sliding_window=6,
            sliding_window_pattern=2,
            rope_parameters=LOCAL_GLOBAL,
        ),
        "float32",
        True,
        0,
    ),
}
CLASSES = {"Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM")}


def build(kind: str, options: dict, seed: int) -> torch.nn.Module:
    """A model none of whose parameters is at its default."""
    config_name, model_name = CLASSES.get(kind, (f"{kind}Config", f"{kind}ForCausalLM"))
    config = getattr(transformers, config_name)(**SIZE | options)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, model_name)(config).eval()
    zero_centred = kind.startswith("Gemma")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            center = 1.0 if "norm" in name and not zero_centred else 0.0
            # Where the next token is not drowned out by the last one's embedding.
            spread = 0.1 if "embed" in name else 0.4
            weight.copy_(center + spread * torch.randn(weight.shape))
    return model


def expected(model: torch.nn.Module, seed: int) -> dict[str, np.ndarray]:
    """What the library computes in f32."""
    rng = np.random.default_rng(seed)
    vocab = model.config.vocab_size
    tokens, length = rng.integers(3, vocab, (2, 20)), np.array([20, 13])
    tokens[1, 13:] = 0
    mask = torch.from_numpy(np.arange(20) < length[:, None]).long()
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens), attention_mask=mask).logits.numpy()
    prompt = torch.from_numpy(tokens[:1, :9])
    gap, text = np.inf, prompt
    for _ in range(64):
        with torch.no_grad():
            best = torch.topk(model(text).logits[0, -1], 2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        text = torch.cat([text, best.indices[:1][None]], dim=1)
    generated = model.generate(
        prompt, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(generated, text), "generate() differs from repeated forward"
    return dict(
        tokens=tokens.astype(np.int32),
        length=length.astype(np.int32),
        logits=logits.astype(np.float32),
        greedy=text[0].numpy().astype(np.int32),
        gap=np.float32(gap),
    )


def old_keys(file: Path) -> None:
    """Rewrites config.json as transformers 4 had it."""
    config = json.loads(file.read_text())
    rope = config.pop("rope_parameters", None) or {}
    config.pop("layer_types", None)
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = 2
        config.pop("_sliding_window_pattern", None)
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta", 10_000.0)
    if rope.get("rope_type", "default") != "default":
        rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype", "float32")
    file.write_text(json.dumps(config, indent=2) + "\n")


def main(out: Path) -> None:
    for name, (kind, options, dtype, old, part) in CASES.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        # Greedy tokens only compare where no two logits are nearly equal.
        for seed in range(100):
            model = build(kind, options, seed).to(getattr(torch, dtype))
            model.save_pretrained(folder, **({"max_shard_size": part} if part else {}))
            # Read back: a model that was cast has its rotary frequencies cast as well.
            model = type(model).from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            )
            found = expected(model, seed)
            distinct = len(set(found["greedy"][9:].tolist()))
            if found["gap"] > 3e-3 and distinct >= 8:
                break
        else:
            raise SystemExit(f"{name}: no seed with clear greedy tokens")
        np.savez_compressed(folder / "expected.npz", **found)
        (folder / "generation_config.json").unlink(missing_ok=True)
        if old:
            old_keys(folder / "config.json")
        print(f"{name}: seed {seed}, gap {found['gap']:.3f}, {distinct} tokens")


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    main(Path(sys.argv[1]))
