"""How continuations of sampled traces end: what Monte-Carlo labels ask for.

In: traces. Out: a function (traces, steps, count) -> which of `count` continuations
behind so many steps end right (reward.labels.Succeeds). The traces are read once; every
continuation attends to the keys and values of that reading. On a mesh each device reads
and continues its own traces, where the run decodes. Grading is the task's.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from o1jax.loop.answer import request_keys
from o1jax.loop.layout import decoding
from o1jax.loop.ledger import count_flops
from o1jax.loop.traces import Traces
from o1jax.loop.workdir import Workdir
from o1jax.parallel.hosts import fetch
from o1jax.parallel.mesh import ROWS, put_batch
from o1jax.policy.policy import Policy
from o1jax.rollout.continuation import (
    NONE,
    Continuations,
    Prefixes,
    continue_from,
    read_prefixes,
)
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Task
from o1jax.types import Params

# That a CPU decodes at once: products over more rows are no faster there for a small
# policy, and a search for the first error asks for too few to keep them busy.
CPU_ROWS = 32


class Continued(NamedTuple):
    """Texts that continue beginnings of traces; flat, in the order asked for."""

    trace: np.ndarray  # i32[N]
    steps: np.ndarray  # i32[N]
    text: list[str]  # [N]  the whole response, its beginning included
    grade: np.ndarray  # f64[N]


class Programs:
    """What is compiled, once for all chunks of traces of `length` tokens a row."""

    def __init__(self, run: Workdir, sampling: SamplingConfig, length: int) -> None:
        config = run.experiment.sampler
        self.layout, self._unstack = decoding(run), run.policy.unstack
        self._from = self._placed = None
        self.together = jax.default_backend() == "cpu"
        self.rows = min(config.rows, CPU_ROWS) if self.together else 0
        read = functools.partial(read_prefixes, run.policy, sampling=sampling)
        self.read = jax.jit(self._on_rows(lambda params, rows: read(params, *rows)))
        self._continue = functools.partial(
            continue_from,
            run.policy,
            sampling=sampling,
            stop_ids=config.stop_ids or (run.tokenizer.eos_id,),
            max_new_tokens=config.max_new_tokens,
            rows=self.rows,
            together=self.together,
        )
        self.draw = jax.jit(self._draw, static_argnames="count")
        self.read_flops, self.draw_flops = self._flops(
            run.policy, length, length + config.max_new_tokens
        )

    def _on_rows(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """fn of (params, *rows), each device with its own rows."""
        layout = self.layout
        if layout.shards == 1:
            return fn
        # The partitioner can't see that traces do not look at each other.
        return jax.shard_map(
            fn,
            mesh=layout.mesh,
            in_specs=(P(), P(ROWS)),
            out_specs=P(ROWS),
            axis_names=set(ROWS) if layout.cut else set(layout.mesh.axis_names),
            check_vma=False,
        )

    def placed(self, params: Params) -> Params:
        """The run's parameters, where it decodes."""
        if self._from is not params:
            self._from = params
            self._placed = self._unstack(self.layout.place(params))
        return self._placed

    def filled(self, rows: np.ndarray, value: int = 0) -> np.ndarray:
        """Rows, and as many more as the devices need to get equally many."""
        room = [(0, -len(rows) % self.layout.shards)] + [(0, 0)] * (rows.ndim - 1)
        return np.pad(rows, room, constant_values=value)

    def put(self, rows: Any) -> Any:
        """Arrays of filled rows, on the devices that they belong to."""
        return rows if self.layout.shards == 1 else put_batch(self.layout.mesh, rows)

    def _draw(
        self,
        params: Params,
        prefixes: Prefixes,
        at: jax.Array,
        number: jax.Array,
        keys: jax.Array,
        *,
        count: int,
    ) -> Continuations:
        """`count` continuations of places `at` i32[B, P] of each trace, or NONE.

        number i32[B, P]: how many of a place were drawn before. Each device continues
        the traces that it holds.
        """

        def own(params: Params, of_rows: tuple) -> Continuations:
            prefixes, at, number, keys = of_rows
            keys = _keys(keys, at, number, count)
            drawn = self._continue(params, prefixes, at, keys)
            return drawn.replace(computed=drawn.computed[None])

        drawn = self._on_rows(own)(params, (prefixes, at, number, keys))
        return drawn.replace(computed=jnp.sum(drawn.computed))

    def _flops(self, policy: Policy, length: int, capacity: int) -> tuple[float, float]:
        """Of a token of a trace, and of one drawn, over all that it may attend to."""
        params = jax.eval_shape(policy.init, jax.random.key(0))
        rows = self.layout.shards
        row = jax.ShapeDtypeStruct((1,), jnp.int32)
        trace = jax.ShapeDtypeStruct((1, length), jnp.int32)
        traces = jax.ShapeDtypeStruct((rows, length), jnp.int32)
        start = functools.partial(policy.start, capacity=capacity)
        _, cache = jax.eval_shape(start, params, trace, row)
        return (
            count_flops(self.read, params, (traces, traces)).flops / length / rows,
            count_flops(policy.step, params, cache, row).flops,
        )


def _keys(keys: jax.Array, at: jax.Array, number: jax.Array, count: int) -> jax.Array:
    """key[B, P, count]: those of continuations `number` .. of a place of a trace."""

    def of(key: jax.Array, at: jax.Array, number: jax.Array) -> jax.Array:
        place = jax.random.fold_in(key, jnp.maximum(at, 0))
        return jax.vmap(functools.partial(jax.random.fold_in, place))(
            number + jnp.arange(count)
        )

    of_places = jax.vmap(of, in_axes=(None, 0, 0))
    return jax.vmap(of_places)(keys, at, number)


class Continuer:
    """Continues beginnings of the traces of one chunk; call it as Succeeds is called.

    `first` is the number of the chunk's first trace: what is drawn for a trace does not
    depend on the chunk it is in.
    """

    def __init__(
        self,
        run: Workdir,
        programs: Programs,
        params: Params,
        traces: Traces,
        key: jax.Array,
        *,
        task: Task,
        first: int = 0,
    ) -> None:
        self._run, self._programs = run, programs
        self._params = params = programs.placed(params)
        self._traces, self._task, self._ends = traces, task, traces.ends
        tokens, ends = programs.filled(traces.tokens), programs.filled(self._ends, NONE)
        self._keys = request_keys(key, first + jnp.arange(len(tokens)))
        self._drawn = np.zeros(ends.shape, np.int32)  # continuations of each place
        self.continued: list[Continued] = []
        began = time.monotonic()
        self._prefixes: Prefixes = programs.read(params, programs.put((tokens, ends)))
        self._book(traces.tokens.size, programs.read_flops, began)

    def __call__(self, trace: np.ndarray, steps: np.ndarray, count: int) -> np.ndarray:
        """bool[R, count]: which continuations of these beginnings end right.

        No beginning may be asked for twice in a call.
        """
        began = time.monotonic()
        at, place = self._places(trace, steps)
        number = np.take_along_axis(self._drawn, np.maximum(at, 0), axis=1)
        asked = self._programs.put((at, np.where(at > NONE, number, 0)))
        found = self._programs.draw(
            self._params, self._prefixes, *asked, self._keys, count=count
        )
        self._drawn[trace, steps - 1] += count
        tokens, length, computed = fetch((found.tokens, found.length, found.computed))
        self._book(int(computed), self._programs.draw_flops, began)
        own = trace, place
        return self._grades(trace, steps, tokens[own], length[own]) >= 1

    def _places(
        self, trace: np.ndarray, steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(i32[B, P] places of all traces, i32[R] which of them each beginning is).

        P is 1 if no trace has two, and as many as there are otherwise: two programs.
        """
        B, J = self._drawn.shape
        one = len(set(trace.tolist())) == len(trace)
        at = np.full((B, 1 if one else J), NONE, np.int32)
        place = np.zeros_like(trace) if one else steps - 1
        at[trace, place] = steps - 1
        if (at > NONE).sum() < len(trace):
            raise ValueError("the same beginning is asked for twice in a call")
        return at, place

    def _grades(
        self,
        trace: np.ndarray,
        steps: np.ndarray,
        tokens: np.ndarray,
        length: np.ndarray,
    ) -> np.ndarray:
        """f64[R, count], and the texts are kept."""
        traces, decode = self._traces, self._run.tokenizer.decode
        texts, grades = [], np.zeros(length.shape)
        for r, (t, n) in enumerate(zip(trace, steps)):
            begin, end = traces.prompt_length[t], self._ends[t, n - 1] + 1
            given, known = traces.tokens[t, begin:end].tolist(), {}
            for c, size in enumerate(length[r]):
                drawn = tuple(tokens[r, c, :size].tolist())
                if drawn not in known:  # many continuations are the same
                    text = decode([*given, *drawn])
                    known[drawn] = text, self._task.grade(traces.examples[t], text)
                text, grades[r, c] = known[drawn]
                texts.append(text)
        repeat = lambda x: np.repeat(x, length.shape[1]).astype(np.int32)
        self.continued.append(
            Continued(repeat(trace), repeat(steps), texts, grades.ravel())
        )
        return grades

    def _book(self, tokens: int, flops: float, began: float) -> None:
        """`flops`: of a token."""
        self._run.ledger.add(
            "reward",
            tokens=tokens,
            flops=tokens * flops,
            seconds=time.monotonic() - began,
        )
