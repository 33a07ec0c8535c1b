"""Programs that decode: sampling, tree search, and what brings them parameters.

In: a planned run, what would answer questions, and what its devices hold meanwhile.
Out: the programs with shapes and places of their arguments. Loops whose end the data
decide go round as often as they can: every response is as long as it may be.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from o1jax.loop.answer import Answerer
from o1jax.loop.batch_shapes import array, keys, prompts
from o1jax.loop.layout import Layout, decode_shardings, decoding, reshard
from o1jax.loop.planned import Plan, Shapes, rows_on
from o1jax.loop.rollouts import Programs
from o1jax.loop.searching import Searcher
from o1jax.parallel.sharding import DECODE_RULES, TRANSFORMER_RULES


class NotCovered(ValueError):
    """A stage whose programs are not known here; the message says why."""


class Program(NamedTuple):
    """One program, as it would be compiled."""

    stage: str
    name: str
    fn: Any  # jitted, with its donations
    arguments: tuple
    mesh: Mesh
    held: Mapping[str, Shapes] = {}  # what devices hold besides, by name
    trips: tuple[float, ...] = ()  # rounds of data-dependent loops, outermost first
    main: bool = True  # not a smaller variant of another

    @property
    def label(self) -> str:
        return f"{self.stage}: {self.name}"


def beside(held: Mapping[str, Shapes]) -> dict[str, Shapes]:
    """What is held but the policy's own parameters, which are an argument."""
    rest = {k: v for k, v in held.items() if k not in ("policy", "train state")}
    if (state := held.get("train state")) is not None:
        rest["moments"] = state.opt_state
        if "critic" in state.params:
            rest["critic"] = state.params["critic"]
    return rest


def sampling(
    run: Plan,
    stage: str,
    answer: Answerer,
    held: Mapping[str, Shapes],
    *,
    main: bool = True,
) -> Iterator[Program]:
    """Prefill and decoding with refill, one program; and what brings it parameters."""
    layout, call = decoding(run), answer.program
    yield from _reshard(run, stage, held)
    params = _to_decode(run, run.current_params())
    queue = rows_on(layout.mesh, (keys(call.chunk), prompts(call.chunk, call.length)))
    own = call.chunk // layout.shards
    rows, new = min(call.rows, own), run.experiment.sampler.max_new_tokens
    steps = math.ceil(own / rows) * new
    refill = run.experiment.sampler.refill_rows // layout.shards or max(1, rows // 16)
    trips = (float(steps), (own - rows) / refill / steps)
    held = held if layout.cut else beside(held)
    yield Program(
        stage,
        f"sample {call.chunk}",
        call.fn,
        (params, *queue),
        layout.mesh,
        held,
        trips,
        main,
    )


def searching(
    run: Plan,
    stage: str,
    search: Searcher,
    held: Mapping[str, Shapes],
    *,
    main: bool = True,
) -> Iterator[Program]:
    """Trees of a call's questions, grown together."""
    layout, call, config = decoding(run), search.program, search.config
    yield from _reshard(run, stage, held)
    params = _to_decode(run, search.given(run.current_params()))
    queue = rows_on(layout.mesh, (keys(call.chunk), prompts(call.chunk, call.length)))
    reward = None
    if config.reward:
        reward = _to_decode(run, run.reward_model(config.reward)[1].params)
    held = held if layout.cut else beside(held)
    tokens = float(config.steps.tokens)
    if config.method == "mcts":
        rounds = math.ceil(3 * config.budget * config.depth / config.mcts.leaves)
    else:
        rounds = config.depth
    yield Program(
        stage,
        f"search {call.chunk} by {config.method}, budget {config.budget}",
        call.fn,
        (params, *queue, reward),
        layout.mesh,
        held,
        (float(rounds), tokens),
        main,
    )


def labelling(
    run: Plan,
    stage: str,
    made: Programs,
    shape: tuple[int, int, int],
    asked: tuple[int, int],
    held: Mapping[str, Shapes],
) -> Iterator[Program]:
    """Traces read once, and continuations of places of each.

    shape: of the traces of a call, their tokens, and the most steps of any. asked: how
    many places of a trace a call asks for, and continuations of a place; in the worst
    case no two of these begin alike.
    """
    layout, (rows, width, steps), (places, count) = decoding(run), shape, asked
    yield from _reshard(run, stage, held)
    params = _to_decode(run, run.current_params())
    params = _lying(layout, jax.eval_shape(run.policy.unstack, params))
    held = held if layout.cut else beside(held)
    on = partial(rows_on, layout.mesh)
    text = on((array(rows, width), array(rows, steps)))
    yield Program(
        stage,
        f"read {rows} traces",
        made.read,
        (params, text),
        layout.mesh,
        held,
        main=True,
    )
    prefixes = on(jax.eval_shape(made.read, params, text))
    of_places = array(rows, places), array(rows, places), keys(rows)
    own = rows // layout.shards
    queue = own * places * (1 if made.together else count)
    each = min(made.rows or own * count, queue)
    tokens = run.experiment.sampler.max_new_tokens * (count if made.together else 1)
    reads = math.ceil(queue / each) * tokens
    yield Program(
        stage,
        f"continue {rows} x {places} x {count}",
        jax.jit(partial(made.draw, count=count)),
        (params, prefixes, *on(of_places)),
        layout.mesh,
        held,
        (float(reads), (queue - each) / max(1, each // 16) / reads),
    )


def _reshard(run: Plan, stage: str, held: Mapping[str, Shapes]) -> Iterator[Program]:
    layout = decoding(run)
    if layout.cut:
        params = run.current_params()
        fn = reshard(run.policy_config, params, run.mesh, layout.mesh)
        yield Program(stage, "reshard", fn, (params,), layout.mesh, beside(held))


def _to_decode(run: Plan, params: Shapes) -> Shapes:
    """Shapes as the layout places them."""
    layout = decoding(run)
    if layout.cut:
        fn = reshard(run.policy_config, params, run.mesh, layout.mesh)
    elif run.policy_config.decode_weights is None:
        return params
    else:
        fn = layout.place
    return _lying(layout, jax.eval_shape(fn, params))


def _lying(layout: Layout, params: Shapes) -> Shapes:
    """Parameters to decode with, with their places."""
    rules = DECODE_RULES if layout.cut else TRANSFORMER_RULES
    put = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    places = decode_shardings(params, layout.mesh, rules)
    return jax.tree.map(put, params, places)
