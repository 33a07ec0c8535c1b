"""The machine's own limits: f32 matrix product and reading bandwidth, one thread.

Runs in any of the environments and measures with the library that is there. A GEMM
case reports GFLOP/s of the best size: what a user of that library can reach.
"""

import worker  # isort: skip  (pins the process first)

import importlib.util
import time

import numpy as np

GEMM_SIZES = (256, 512, 1024, 2048)
COPY_FLOATS = 64 * 2**20  # 256 MiB an array: far beyond any cache here
CACHED = 1024  # squared: 4 MiB, as much as the weights of the 1m policy


def gemm(library: str, size: int) -> worker.Run:
    """C = A B with square f32 matrices."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    if library == "numpy":
        out = np.empty_like(a)
        return lambda: np.matmul(a, b, out=out)
    if library == "torch":
        import torch

        torch.set_num_threads(1)
        ta, tb = torch.from_numpy(a), torch.from_numpy(b)
        result = torch.empty_like(ta)
        return lambda: torch.matmul(ta, tb, out=result)
    import jax

    product = jax.jit(lambda x, y: x @ y)
    ja, jb = jax.numpy.asarray(a), jax.numpy.asarray(b)
    return lambda: product(ja, jb).block_until_ready()


def shortest(run: worker.Run) -> float:
    """Seconds of the shortest call in a fifth of a second, after one to warm up."""
    run()
    best, until = float("inf"), time.perf_counter() + 0.2
    while time.perf_counter() < until:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def best_gflops(library: str) -> dict[str, float]:
    """Highest rate over the sizes, each tried for a fifth of a second."""
    rates = {}
    for size in GEMM_SIZES:
        run = gemm(library, size)
        rates[size] = 2 * size**3 / shortest(run) / 1e9
    size = max(rates, key=rates.get)
    return {"gflops": rates[size], "size": size}


def bandwidth() -> dict[str, float]:
    """GB/s of reading an array much larger than the caches, and of copying it.

    And of reading one of 4 MiB again and again, the better of two ways.
    """
    source = np.ones(COPY_FLOATS, np.float32)
    target = np.zeros_like(source)
    rates = {}
    for name, run, moved in (
        ("read", lambda: source.max(), source.nbytes),
        ("copy", lambda: np.copyto(target, source), 2 * source.nbytes),
    ):
        times = []
        for _ in range(4):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        rates[name] = moved / min(times) / 1e9
    weights = np.ones((CACHED, CACHED), np.float32)
    vector, out = np.ones(CACHED, np.float32), np.empty(CACHED, np.float32)
    product = lambda: np.matmul(weights, vector, out=out)
    seconds = min(shortest(weights.max), shortest(product))
    rates["cached"] = weights.nbytes / seconds / 1e9
    return rates


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`gemm/LIBRARY` or `bandwidth`; the work itself measures and keeps its result."""
    found: dict[str, float] = {}

    def run() -> None:
        fresh = bandwidth() if case == "bandwidth" else best_gflops(case.split("/")[1])
        found.update(fresh)

    run.note = lambda: found
    return run, run


if __name__ == "__main__":
    here = [n for n in ("numpy", "torch", "jax") if importlib.util.find_spec(n)]
    worker.serve(build, worker.versions(*here))
