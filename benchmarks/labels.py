"""Step labels: how fast they are made, what they cost, how fast steps are scored.

    o1jax run experiments/claims/chain8.gin --workdir runs/chain8
    python benchmarks/labels.py runs/chain8

In: the workdir of any trained run on chain. Out: a table, and results_labels.json. The
sides run in one process pinned to one core, in turns, warm; a ratio is the median over
rounds of the ratio inside a round. Both sides of the labels draw from the same policy,
stop at the same tokens and grade every continuation.
"""

import worker  # isort: skip  (pins the process first)

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
from run import machine
from tables import number, table

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.loop.labelling import CHUNK
from o1jax.loop.rollouts import Continuer, Programs
from o1jax.loop.run import graded_task
from o1jax.loop.traces import TraceConfig, Traces, sample_traces
from o1jax.loop.workdir import Workdir
from o1jax.reward.label_cost import METHODS, label_costs, needed
from o1jax.reward.labels import by_rollouts
from o1jax.reward.metrics import step_auc
from o1jax.reward.model import RewardModelConfig, build_reward_model
from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.rollout.sampling import SamplingConfig
from o1jax.types import Prompts

HERE = Path(__file__).resolve().parent
ROLLOUTS, TRACES = 8, 64
SIZES = (1, 2, 4, 8, 16, 32, 64)  # rollouts of a step, for the cost of labels
SAMPLING = SamplingConfig()


class Bench:
    """A trained run and traces of it."""

    def __init__(self, path: Path, traces: int) -> None:
        self.run = Workdir(load(path / "config.gin").experiment, path)
        self.task = graded_task(self.run)
        self.params = self.run.policy.unstack(self.run.newest_params())
        examples = [self.task.example(0, "valid", i) for i in range(traces)]
        key, config = jax.random.key(11), TraceConfig(sampling=SAMPLING)
        self.traces = sample_traces(
            self.run, self.params, key, examples, config, task=self.task
        )
        self.programs = Programs(self.run, SAMPLING, self.traces.tokens.shape[1])

    def continuer(self, traces: Traces, first: int = 0) -> Continuer:
        """Reads these traces."""
        key = jax.random.key(12)
        return Continuer(
            self.run,
            self.programs,
            self.params,
            traces,
            key,
            task=self.task,
            first=first,
        )

    def ours(self, traces: Traces) -> np.ndarray:
        """f32[B, J]"""
        labelled = by_rollouts(
            traces.steps,
            traces.grades >= 1,
            self.continuer(traces),
            rollouts=ROLLOUTS,
            complete=traces.finished,
        )
        return labelled.value

    def loop(self, traces: Traces) -> np.ndarray:
        """The same labels by a call of a jitted sampler for each step.

        It reads the step's prefix, padded to one width, and draws 8 rows at once.
        """
        value = np.zeros(traces.ends.shape, np.float32)
        config = self.run.experiment.sampler
        stop_ids = config.stop_ids or (self.run.tokenizer.eos_id,)
        if not hasattr(self, "sampler"):
            self.sampler = jax.jit(
                build_sampler(
                    self.run.policy,
                    SamplerConfig(
                        rows=ROLLOUTS,
                        max_new_tokens=config.max_new_tokens,
                        stop_ids=stop_ids,
                        sampling=SAMPLING,
                    ),
                )
            )
        rows = np.arange(ROLLOUTS)
        for t, ends in enumerate(traces.ends):
            n = traces.steps[t]
            for j, end in enumerate(ends[:n]):
                if j == n - 1 and traces.finished[t]:
                    value[t, j] = traces.grades[t] >= 1
                    continue
                text = np.where(
                    np.arange(traces.tokens.shape[1]) <= end, traces.tokens[t], 0
                )
                prompts = Prompts(
                    tokens=np.tile(text, (ROLLOUTS, 1)),
                    length=np.full(ROLLOUTS, end + 1, np.int32),
                    prompt_id=rows.astype(np.int32),
                )
                key = jax.random.key(1000 * t + j)
                drawn, _ = self.sampler(self.params, key, prompts)
                tokens, length = jax.device_get((drawn.tokens, drawn.length))
                begin, grades = traces.prompt_length[t], []
                for row, size in zip(tokens, length):
                    text = self.run.tokenizer.decode(row[begin:size].tolist())
                    grades.append(self.task.grade(traces.examples[t], text) >= 1)
                value[t, j] = np.mean(grades)
        return value

    def scoring(self, traces: Traces) -> dict[str, worker.Run]:
        """All steps of the traces by one forward, and by one forward for each."""
        model = build_reward_model(RewardModelConfig(), self.run.policy_config)
        params = model.init(jax.random.key(0), self.run.newest_params())
        score = jax.jit(model.score)
        place = np.arange(traces.tokens.shape[1])[None]

        def once() -> np.ndarray:
            args = traces.tokens, traces.prompt_length, traces.length, traces.step_end
            return np.asarray(score(params, *args))

        def each() -> np.ndarray:
            total = np.zeros(traces.tokens.shape, np.float32)
            for j in range(traces.ends.shape[1]):
                end = traces.ends[:, j, None]
                text = np.where(place <= end, traces.tokens, 0)
                # The read-out of a step looks at where the step before it ended.
                known = traces.step_end & (place <= end)
                found = score(params, text, traces.prompt_length, end[:, 0] + 1, known)
                total += np.where(place == end, np.asarray(found), 0)
            return total

        np.testing.assert_allclose(once(), each(), atol=1e-4)
        return {"one forward": once, "one forward a step": each}


def in_turns(
    sides: dict[str, worker.Run], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """(seconds, seconds of CPU) of each side, round by round, after a warm-up.

    On one pinned core both are the same, unless something else runs there.
    """
    for run in sides.values():
        run()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(rounds):
        names = list(sides)
        for name in names[turn % 2 :] + names[: turn % 2]:
            busy = time.process_time()
            measured = worker.measure(sides[name])
            busy = (time.process_time() - busy) / measured["calls"]
            found[name].append((measured["seconds"], busy))
    return found


def outcomes(bench: Bench, count: int) -> np.ndarray:
    """bool[B, J, count]: how continuations of every step end."""
    traces = bench.traces
    out = np.zeros((*traces.ends.shape, count), bool)
    for start in range(0, len(out), CHUNK):
        index = np.arange(start, min(start + CHUNK, len(out)))
        chunk = traces.rows(index)
        succeeds = bench.continuer(chunk, start)
        for j in range(out.shape[1]):
            (rows,) = np.nonzero(chunk.steps > j)
            for part in range(0, count, 16):
                got = min(16, count - part)
                found = succeeds(rows.astype(np.int32), np.full(len(rows), j + 1), got)
                out[index[rows], j, part : part + got] = found
    return out


def costs(bench: Bench) -> list[dict[str, Any]]:
    """A row for each method and number of rollouts: used, AUC against the oracle.

    Of all steps, and of those that are not behind a wrong one. The last step of a trace
    is known by how it ended, for all methods; it is left out of both.
    """
    traces = bench.traces
    there = traces.ends >= 0
    truth = np.take_along_axis(traces.verdict, np.maximum(traces.ends, 0), axis=1)
    truth = np.where(there, truth, 0)
    wrong = (there & (truth < 0.5)).astype(int)
    front = there & (np.cumsum(wrong, axis=1) - wrong == 0)
    last = np.arange(there.shape[1]) == traces.steps[:, None] - 1
    asked = ~(last & traces.finished[:, None])
    rows = []
    for cost in label_costs(
        traces.steps,
        traces.grades >= 1,
        outcomes(bench, max(SIZES)),
        sizes=SIZES,
        complete=traces.finished,
    ):
        auc = lambda where: step_auc(cost.value[where], truth[where])  # noqa: B023
        rows.append(
            {
                "method": cost.method,
                "rollouts": cost.rollouts,
                "used": cost.used,
                "auc": auc(there & asked),
                "auc_front": auc(front & asked),
            }
        )
    return rows


def ratios(rows: list[dict[str, Any]], quality: str) -> list[dict[str, Any]]:
    """What a binary search needs to be as good as each size of every-step labels."""
    curve = lambda method, name: [r[name] for r in rows if r["method"] == method]
    search = METHODS[-1]
    found = []
    for method in METHODS[:-1]:
        best = needed_best(curve(search, "used"), curve(search, quality))
        for row in (r for r in rows if r["method"] == method):
            used = needed(*best, row[quality])
            found.append(
                {
                    "method": method,
                    "rollouts": row["rollouts"],
                    quality: row[quality],
                    "used": row["used"],
                    "search_used": used,
                    "ratio": used / row["used"],
                }
            )
    return found


def needed_best(
    used: list[float], quality: list[float]
) -> tuple[list[float], list[float]]:
    """A method's sizes up to its best one: more rollouts can make it worse."""
    end = int(np.argmax(quality)) + 1
    return used[:end], quality[:end]


def speed(bench: Bench, rounds: int) -> dict[str, Any]:
    """Labels and scored steps a second, beside the loops; ratios of each round."""
    traces = bench.traces.rows(np.arange(TRACES))
    labels = int((traces.steps - traces.finished).sum())  # the last step has none
    ours, loop = bench.ours(traces), bench.loop(traces)
    found = {
        "traces": TRACES,
        "labels": labels,
        "agree": float(np.abs(ours - loop).mean()),  # both are noisy
    }
    sides = {
        "o1jax": lambda: bench.ours(traces),
        "loop": lambda: bench.loop(traces),
    }
    for name, work, these in (
        ("labels", labels, sides),
        ("scores", int(traces.steps.sum()), bench.scoring(traces)),
    ):
        taken = in_turns(these, rounds)
        first, second = taken.values()
        found[f"{name}/s"] = {
            k: work / median(seconds for seconds, _ in v) for k, v in taken.items()
        }
        found[f"{name}_ratios"] = [b[0] / a[0] for a, b in zip(first, second)]
        found[f"{name}_cpu_ratios"] = [b[1] / a[1] for a, b in zip(first, second)]
    return found


def render(found: dict[str, Any]) -> str:
    """Tables."""
    speed, rows = found["speed"], []
    for what, goal in (("labels", 5), ("scores", 4)):
        ratio, rates = speed[f"{what}_ratios"], speed[f"{what}/s"]
        (_, ours), (peer, theirs) = rates.items()
        rows.append(
            [
                f"{what} a second",
                peer,
                f"**{median(ratio):.2f}x**",
                f"[{min(ratio):.2f}, {max(ratio):.2f}]",
                f"{median(speed[f'{what}_cpu_ratios']):.2f}x",
                f"{goal}x",
                number(ours),
                number(theirs),
            ]
        )
    head = ["what", "peer", "ratio", "spread", "of CPU time", "goal", "o1jax", "peer"]
    text = table(head, rows)
    shown = lambda x: f"{x:.3f}"
    head = ["labels", "rollouts a step", "used a trace", "AUC"]
    text += table(
        head,
        [
            [r["method"], str(r["rollouts"]), f"{r['used']:.1f}", f"{r['auc']:.4f}"]
            for r in found["costs"]
        ],
    )
    head = ["as good as", "rollouts a step", "AUC", "binary search / used", "goal"]
    text += table(
        head,
        [
            [
                r["method"],
                str(r["rollouts"]),
                f"{r['auc']:.4f}",
                shown(r["ratio"]),
                "<= 0.333",
            ]
            for r in found["ratios"]
        ],
    )
    return text


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="workdir of a trained run on chain")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--traces", type=int, default=1024, help="for the costs")
    args = parser.parse_args()
    if args.traces < TRACES or args.rounds < 1:
        parser.error(f"--traces must be at least {TRACES} and --rounds at least 1")
    if not (args.run / "config.gin").exists():
        parser.error(f"{args.run} is no workdir: it holds no config.gin")
    start = time.monotonic()
    bench = Bench(args.run, args.traces)
    rows = costs(bench)
    found = {
        "machine": machine(int(os.environ.get("BENCH_CORE", "0"))),
        "load": os.getloadavg()[0],  # ratios of a busy machine are still in turns
        "pass@1": float((bench.traces.grades >= 1).mean()),
        "cost_traces": args.traces,
        "speed": speed(bench, args.rounds),
        "costs": rows,
        "ratios": ratios(rows, "auc"),
        "versions": worker.versions("o1jax", "jax", "flax"),
        "seconds": time.monotonic() - start,
    }
    (HERE / "results_labels.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"pass@1 {found['pass@1']:.3f}, {found['seconds']:.0f} s")
    print(render(found))


if __name__ == "__main__":
    main()
