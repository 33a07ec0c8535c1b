"""A GRPO step of trl's GRPOTrainer over transformers' Llama, random weights, our sizes.

`grpo/SIZE` is everything between two steps of `trainer.train()`: sampling, decoding and
rewarding text, log-probs of the reference, gradient, clipping, AdamW. The trainer runs
in a thread of its own that waits for its turn. `grpo-rollout/SIZE` is the trainer's own
sampling, tokens in and tokens out. The settings are those that are fastest here.
"""

import worker  # isort: skip  (pins the process first)

import tempfile
import threading
import warnings

import sizes
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from transformers_decode import load
from trl import GRPOConfig, GRPOTrainer

PIECES = {"1m": 1}  # of the batch in the update: gradient accumulation
MANY = 10_000


def numbers(size: sizes.Size) -> PreTrainedTokenizerFast:
    """A tokenizer over space-separated token ids.

    Its end of text is no word of the model, so that no row stops.
    """
    words = {str(i): i for i in range(size.vocab)} | {"<end>": size.vocab}
    model = Tokenizer(WordLevel(words, unk_token="0"))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token="<end>", pad_token="0", padding_side="left"
    )


class Turns(TrainerCallback):
    """Lets the trainer make one step whenever it is asked to."""

    def __init__(self) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.go.acquire()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.done.release()
        self.go.acquire()

    def one(self) -> None:
        """Returns when the step is done."""
        self.go.release()
        self.done.acquire()
        if self.error is not None:
            raise RuntimeError("the trainer stopped") from self.error


def reward(completion_ids: list[list[int]], completions: list[str], **_) -> list[float]:
    """Of the text: how often it says 7. No row may be short."""
    if {len(row) for row in completion_ids} != {sizes.SIZES["1m"].new_tokens}:
        raise RuntimeError("trl stopped a row early")
    return [sizes.grpo_reward(text) for text in completions]


def new_trainer(size: sizes.Size, pieces: int, turns: Turns) -> GRPOTrainer:
    """The trainer of 8 prompts x 8 samples."""
    folder = tempfile.mkdtemp()
    load(size).save_pretrained(folder)  # the trainer reads its reference from there
    rows = sizes.GRPO_PROMPTS * sizes.GRPO_SAMPLES
    config = GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=rows // pieces,
        gradient_accumulation_steps=pieces,
        num_generations=sizes.GRPO_SAMPLES,
        max_completion_length=size.new_tokens,
        beta=sizes.GRPO_BETA,
        num_iterations=1,
        loss_type="grpo",
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        max_steps=MANY,
        gradient_checkpointing=False,  # its default costs a fifth
        disable_dropout=True,
        generation_kwargs={"eos_token_id": None},
        report_to="none",
        logging_steps=MANY,
        save_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
        dataloader_pin_memory=False,
    )
    return GRPOTrainer(
        LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": sizes.grpo_prompts(size)}),
        processing_class=numbers(size),
        callbacks=[turns],
    )


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`grpo/SIZE`, `grpo/SIZE/PIECES` or `grpo-rollout/SIZE`."""
    kind, name, *pieces = sizes.parse(case)
    size = sizes.SIZES[name]
    turns = Turns()
    trainer = new_trainer(size, int(pieces[0]) if pieces else PIECES[name], turns)
    if kind == "grpo-rollout":
        prompts = sizes.grpo_prompts(size)
        each = [text for text in prompts for _ in range(sizes.GRPO_SAMPLES)]
        ids, *_ = trainer._tokenize_prompts(each)

        def sample() -> None:
            tokens, _ = trainer._generate_single_turn(
                ids, None, {}, trainer.num_generations
            )
            if [len(row) for row in tokens] != [size.new_tokens] * len(each):
                raise RuntimeError("trl stopped a row early")

        return sample, lambda: sample()

    def train() -> None:
        try:
            trainer.train()
        except BaseException as error:
            turns.error = error
            turns.done.release()

    threading.Thread(target=train, daemon=True).start()
    return turns.one, turns.one


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    worker.serve(build, worker.versions("trl", "torch", "transformers"))
