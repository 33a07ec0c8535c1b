"""The two model sizes, the measured cases, and how many FLOPs and bytes they need.

FLOPs follow the convention of PaLM (arXiv:2204.02311, appendix B): 6N + 12 L W T for a
trained token, where N are the weights that multiply (no embedding lookup), L layers, W
width, T the full sequence. Decoding reads all weights and the filled cache once a step.
Only the standard library is imported here, so every environment can use it.
"""

from dataclasses import dataclass

F32 = 4  # bytes


@dataclass(frozen=True)
class Size:
    """A decoder-only transformer with RoPE, RMSNorm and SwiGLU."""

    vocab: int
    width: int
    layers: int
    heads: int
    ff: int
    train_rows: int  # sequences in one train step
    length: int = 128
    prompt: int = 16

    @property
    def new_tokens(self) -> int:
        """Tokens decoded after the prompt."""
        return self.length - self.prompt

    @property
    def matmul_weights(self) -> int:
        """Weights that multiply an activation, the output head included."""
        layer = 4 * self.width**2 + 3 * self.width * self.ff
        return self.layers * layer + self.width * self.vocab

    @property
    def train_tokens(self) -> int:
        """Tokens of one train step."""
        return self.train_rows * self.length

    @property
    def train_flops(self) -> int:
        """Model FLOPs of one train step: forward and backward, no recomputation."""
        attention = 12 * self.layers * self.width * self.length
        return self.train_tokens * (6 * self.matmul_weights + attention)

    def decode_flops(self, rows: int) -> int:
        """FLOPs of decoding `rows` rows, the prompt included."""
        positions = self.length - 1  # the last token is never fed back
        attended = positions * (positions + 1) // 2
        attention = 4 * self.layers * self.width * attended
        return rows * (2 * self.matmul_weights * positions + attention)

    def decode_bytes(self, rows: int) -> int:
        """Bytes of weights and cache that the decode steps read at least once."""
        steps = range(self.prompt, self.length)
        cache = sum(2 * self.layers * self.width * rows * filled for filled in steps)
        return F32 * (self.matmul_weights * len(steps) + cache)


SIZES = {
    "1m": Size(vocab=64, width=128, layers=4, heads=4, ff=512, train_rows=64),
    "20m": Size(vocab=4096, width=512, layers=6, heads=8, ff=1408, train_rows=8),
}
ROWS = (1, 16, 128)
MODES = ("sample", "greedy")


def decode_case(size: str, rows: int, mode: str = "sample") -> str:
    """The name under which a decode measurement is asked for and reported."""
    return f"decode/{size}/{rows}/{mode}"


def train_case(size: str) -> str:
    """The name of a train-step measurement."""
    return f"train/{size}"


@dataclass(frozen=True)
class Search:
    """A search over the 1m policy: 16 problems, prompts of full length."""

    children: int
    prompt: int
    tokens: int  # of a step
    depth: int
    simulations: int
    trees: int = 16

    @property
    def window(self) -> int:
        """Tokens of a full path with its prompt."""
        return self.prompt + self.tokens * self.depth

    @property
    def step_bytes(self) -> int:
        """Keys and values of one step's tokens in all layers."""
        size = SIZES["1m"]
        return F32 * 2 * size.layers * size.width * self.tokens


SEARCHES = {
    "tokens": Search(children=16, prompt=48, tokens=1, depth=16, simulations=128),
    "steps": Search(children=4, prompt=64, tokens=8, depth=8, simulations=64),
}
# Overhead of the engine: trees and simulations. Growth is from the second to the last.
OVERHEAD = ((16, 32), (128, 32), (128, 128), (128, 512))


def overhead_case(rule: str, trees: int, simulations: int) -> str:
    """The name of a search with a network of a few integer hashes."""
    return f"search/overhead/{rule}/{trees}/{simulations}"


def search_cases() -> list[str]:
    """All of them; the last number over a policy is that of leaves at once."""
    cases = [overhead_case(r, *size) for r in ("puct", "gumbel") for size in OVERHEAD]
    cases += [f"search/{kind}/{leaves}" for kind in SEARCHES for leaves in (1, 8)]
    return [*cases, "search/memory"]


# A step of GRPO: responses of full length to prompts of full length.
GRPO_PROMPTS, GRPO_SAMPLES, GRPO_BETA = 8, 8, 0.04


def grpo_prompts(size: Size) -> list[str]:
    """Texts of token ids; no two are the same."""
    last = size.vocab - 1
    word = lambda row, t: 1 + (7 * row + t) % last
    return [
        " ".join(str(word(row, t)) for t in range(size.prompt))
        for row in range(GRPO_PROMPTS)
    ]


def grpo_reward(text: str) -> float:
    """Of a response: how often it says 7."""
    return float(text.split().count("7"))


def parse(case: str) -> tuple[str, ...]:
    """The parts of a case name; KeyError for an unknown size."""
    parts = tuple(case.split("/"))
    if parts[0] in (
        "decode",
        "train",
        "products",
        "grpo",
        "grpo-rollout",
        "ppo-update",
    ):
        SIZES[parts[1]]
    return parts


SMOLLM_PROMPT, SMOLLM_NEW = 20, 64  # tokens a row, of a vocabulary of 49,152


def smollm_prompts(rows: int) -> list[list[int]]:
    """Tokens of each row, the same for both sides of smollm.py."""
    return [
        [(1009 * row + 7919 * t) % 40_000 + 100 for t in range(SMOLLM_PROMPT)]
        for row in range(rows)
    ]
