"""Decoding SmolLM2 with transformers' `generate`: greedy, fixed length, cache on.

Case `smollm/ROWS`; the weights are those that o1jax exported, $SMOLLM/export.
"""

import worker  # isort: skip  (pins the process first)

import os
import warnings
from functools import cache
from pathlib import Path

import sizes
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel


@cache
def exported() -> PreTrainedModel:
    """The model, in f32, ready for inference."""
    folder = Path(os.environ["SMOLLM"]) / "export"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`smollm/ROWS`."""
    rows = int(case.split("/")[1])
    model, prompts = exported(), torch.tensor(sizes.smollm_prompts(rows))
    mask, last = torch.ones_like(prompts), {}
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=sizes.SMOLLM_NEW,
        min_new_tokens=sizes.SMOLLM_NEW,
        use_cache=True,
        pad_token_id=0,
        eos_token_id=None,
    )

    def run() -> None:
        with torch.inference_mode():
            out = model.generate(prompts, attention_mask=mask, generation_config=config)
        last["text"] = out[0, sizes.SMOLLM_PROMPT :].tolist()

    run.note = lambda: {"useful": rows * sizes.SMOLLM_NEW, "text": last["text"]}
    return run, run


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    worker.serve(build, worker.versions("torch", "transformers"))
