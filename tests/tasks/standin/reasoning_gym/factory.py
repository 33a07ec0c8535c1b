"""Families small enough to know all questions of, and scorers that are too kind."""

from dataclasses import dataclass
from random import Random


@dataclass
class Config:
    seed: int
    size: int
    largest: int = 999


class Sums:
    """a + b = ?  Half an answer earns half, garbage 0.09."""

    def __init__(self, config):
        self.config = config

    def __getitem__(self, index):
        rng = Random(self.config.seed + index)
        a, b = rng.randint(0, self.config.largest), rng.randint(0, self.config.largest)
        worked = f"{a} and {b} make\n{a + b} in all.\n#### {a + b}"
        return {
            "question": f" {a} + {b} = ",
            "answer": str(a + b),
            "metadata": {"answer_cot": worked},
        }

    def score_answer(self, answer, entry):
        if answer == entry["answer"]:
            return 1.0
        return 0.5 if entry["answer"] in answer else 0.09


class Scrambled(Sums):
    """Its worked answer is a note on the side, its scorer fails or hangs."""

    def __getitem__(self, index):
        words = {"one", "two", "three", "four", "five", str(index)}  # in any order
        return {
            "question": " ".join(words),
            "answer": None,
            "metadata": {"possible_answer": {"0": index}},
        }

    def score_answer(self, answer, entry):
        while answer == "hang":
            pass
        right = entry["metadata"]["possible_answer"]
        return float(answer == f'{{"0": {right["0"]}}}' or int(answer) == right["0"])


class Integrals(Sums):
    """Integrals; of odd numbers unsolved. The scorer would evaluate any answer."""

    def __getitem__(self, index):
        solved = "exp(x) + C" if index % 2 == 0 else "Integral(exp(x), x) + C"
        return {"question": f"integral {index}", "answer": solved, "metadata": {}}

    def score_answer(self, answer, entry):
        return 1.0


class Coins(Sums):
    """A chance; the scorer says that any answer is right."""

    def __getitem__(self, index):
        return {"question": f"coin {index}", "answer": "0.25", "metadata": {}}

    def score_answer(self, answer, entry):
        return 1.0


class Stories(Coins):
    def __getitem__(self, index):
        return {"question": f"story {index}", "answer": "12", "metadata": {}}


class Twentyfours(Coins):
    def __getitem__(self, index):
        numbers = {"numbers": [6, 2, 2, 1]}
        return {"question": f"24 {index}", "answer": "6*2*2*1", "metadata": numbers}


DATASETS = {
    "sums": (Sums, Config),
    "graph_color": (Scrambled, Config),
    "simple_integration": (Integrals, Config),
    "coin_flip": (Coins, Config),
    "gsm_symbolic": (Stories, Config),
    "puzzle24": (Twentyfours, Config),
}


def create_dataset(name, **options):
    made, config = DATASETS[name]
    return made(config(**options))
