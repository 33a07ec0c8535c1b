"""Decoding with tunix's own `Sampler` over its own Llama 3, random weights, our sizes.

Only `tunix.generate` and `tunix.models` are imported: the package's `__init__` would
pull in every trainer, and with them dependencies that decoding never calls.
"""

import worker  # isort: skip  (pins the process first)

import importlib.util
import sys
import types

import sizes

package = types.ModuleType("tunix")
package.__path__ = list(importlib.util.find_spec("tunix").submodule_search_locations)
sys.modules["tunix"] = package

import jax  # noqa: E402
from flax import nnx  # noqa: E402
from tunix.generate import sampler as tunix_sampler  # noqa: E402
from tunix.models.llama3 import model as llama3  # noqa: E402

PAD, BOS = 0, 1
NEVER = -1  # an end token that no row can sample


class Numbers:
    """A tokenizer over space-separated token ids."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def pad_id(self) -> int:
        return PAD

    def bos_id(self) -> int:
        return BOS

    def eos_id(self) -> int:
        return NEVER


def load(size: sizes.Size) -> llama3.Llama3:
    """The model, in f32."""
    config = llama3.ModelConfig(
        num_layers=size.layers,
        vocab_size=size.vocab,
        embed_dim=size.width,
        hidden_dim=size.ff,
        num_heads=size.heads,
        head_dim=size.width // size.heads,
        num_kv_heads=size.heads,
        rope_theta=10_000,
        norm_eps=1e-6,
    )
    return llama3.Llama3(config, rngs=nnx.Rngs(0))


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`decode/SIZE/ROWS/MODE`."""
    _, name, rows, mode = sizes.parse(case)
    size = sizes.SIZES[name]
    cache = tunix_sampler.CacheConfig(
        cache_size=size.length,
        num_layers=size.layers,
        num_kv_heads=size.heads,
        head_dim=size.width // size.heads,
    )
    decode = tunix_sampler.Sampler(load(size), Numbers(), cache)
    text = " ".join(str(2 + t % (size.vocab - 2)) for t in range(size.prompt - 1))
    prompts = [text] * int(rows)  # the sampler puts BOS in front
    settings = {"temperature": 1.0, "top_p": 1.0} if mode == "sample" else {}

    def run() -> None:
        out = decode(
            prompts,
            max_generation_steps=size.new_tokens,
            max_prompt_length=size.prompt,
            eos_tokens=[NEVER],
            seed=0,
            **settings,
        )
        tokens = out.tokens  # on the host already: the sampler fetches them
        if [len(row) for row in tokens] != [size.new_tokens] * int(rows):
            raise RuntimeError("tunix stopped a row early")

    return run, run


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    worker.serve(build, worker.versions("google-tunix", "jax", "flax"))
