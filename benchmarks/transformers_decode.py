"""Decoding with transformers' `generate`: a LlamaForCausalLM with random weights.

The key-value cache is on, the number of new tokens is fixed and no end token stops a
row. Nothing is compiled; the first call warms up, a short one for the large model.
"""

import worker  # isort: skip  (pins the process first)

import warnings

import sizes
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM


def load(size: sizes.Size) -> LlamaForCausalLM:
    """The model, in f32, ready for inference."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.ff,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.length,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings=False,
        attn_implementation="sdpa",  # eager attention is slower here
    )
    return LlamaForCausalLM(config).float().eval()


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`decode/SIZE/ROWS/MODE`."""
    _, name, rows, mode = sizes.parse(case)
    size = sizes.SIZES[name]
    model = load(size)
    prompts = torch.randint(1, size.vocab, (int(rows), size.prompt))
    mask = torch.ones_like(prompts)

    def decode(new_tokens: int) -> None:
        config = GenerationConfig(
            do_sample=mode == "sample",
            temperature=1.0 if mode == "sample" else None,
            top_k=0 if mode == "sample" else None,  # its default of 50 would cut
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            use_cache=True,
            pad_token_id=0,
            eos_token_id=None,
        )
        with torch.inference_mode():
            out = model.generate(prompts, attention_mask=mask, generation_config=config)
        if out.shape != (int(rows), size.prompt + new_tokens):
            raise RuntimeError(f"generate returned {tuple(out.shape)} tokens")

    warm = size.new_tokens if name == "1m" else 8
    return lambda: decode(size.new_tokens), lambda: decode(warm)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    worker.serve(build, worker.versions("torch", "transformers"))
