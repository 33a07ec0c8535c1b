"""FLOPs of a function, counted on its jaxpr with the trip counts of its loops.

In: a function and example arguments or their shapes; nothing is run. Out: a FlopCount.
XLA's cost_analysis counts the body of a loop once and per device, so the traced program
is walked instead, after dead code is removed; tests hold it against XLA on an unrolled
model.

Convention. A matrix product or convolution of M, K and N is 2MKN ("matmul"). Everything
else that computes is 1 FLOP ("other") an output element, transcendentals too, and 1 an
input element for reductions; a sort of n is n log2 n. Moving, casting and indexing data
is free. `cond` costs its dearest branch, what `shard_map` holds is paid by every shard,
and a Pallas kernel costs what it declares, else its body times its grid.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.interpreters.partial_eval import dce_jaxpr


class Loop(NamedTuple):
    """A `while` loop met on the way."""

    path: str  # where it is, e.g. "decode/while.0"
    trips: float  # the count used
    how: str  # exact: derived | bound: at most | given | unknown: one trip counted
    bound: int | None  # the most trips that its condition allows, if derivable
    flops_per_trip: float


class FlopCount(NamedTuple):
    """FLOPs of one call of a function."""

    matmul: float = 0
    other: float = 0
    loops: tuple[Loop, ...] = ()
    unknown: tuple[str, ...] = ()  # primitives that no rule counts; they cost 0 here
    conds: tuple[str, ...] = ()  # where branches differ in cost; the dearest is counted

    @property
    def flops(self) -> float:
        """Both kinds together."""
        return self.matmul + self.other

    @property
    def exact(self) -> bool:
        """True if no loop or branch was bounded or guessed and nothing is unknown."""
        known = all(loop.how in ("exact", "given") for loop in self.loops)
        return known and not self.unknown and not self.conds

    def plus(self, other: "FlopCount", times: float = 1) -> "FlopCount":
        """This and `times` the other. A loop or name met twice is listed once."""
        matmul = self.matmul + times * other.matmul
        rest = self.other + times * other.other
        lists = (tuple(dict.fromkeys(a + b)) for a, b in zip(self[2:], other[2:]))
        return FlopCount(matmul, rest, *lists)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# One an element of the outputs.
_ELEMENTWISE = _names("""
    add add_any sub mul div rem neg abs sign floor ceil round max min clamp pow
    integer_pow square one_minus_square sqrt rsqrt cbrt exp exp2 expm1 log log2
    log1p logistic sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh
    erf erfc erf_inv lgamma digamma nextafter is_finite and or xor not eq ne lt le
    gt ge eq_to lt_to le_to shift_left shift_right_logical shift_right_arithmetic
    population_count clz select_n cumsum cumprod cummax cummin cumlogsumexp random_bits
    threefry2x32 rng_bit_generator psum psum_invariant pmax pmin reduce_scatter mulhi
""")
# One an input element (of the first operand, which alone carries the numbers).
_REDUCTIONS = _names("""
    reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor
    argmax argmin top_k approx_top_k
""")
# One an element of the updates.
_SCATTERS = _names("scatter-add scatter-sub scatter-mul scatter-min scatter-max")
_FREE = _names("""
    broadcast_in_dim reshape transpose squeeze expand_dims rev slice dynamic_slice
    dynamic_update_slice gather scatter concatenate pad iota copy copy_p split
    convert_element_type bitcast_convert_type reduce_precision stop_gradient
    device_put sharding_constraint reshard layout_constraint optimization_barrier
    name pvary pbroadcast all_gather all_gather_invariant all_to_all ppermute
    axis_index random_seed random_wrap random_unwrap random_fold_in random_split
    random_clone real imag get swap addupdate new_ref empty empty2 freeze unstack
    debug_callback debug_print program_id num_programs create_token after_all tile
    to_edtype from_edtype zeros_like broadcast_to
""")
_CALLS = _names("""
    jit pjit closed_call core_call call remat remat2 checkpoint remat_opt run_state
    custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr custom_vmap_call composite
""")

WhileTrips = float | Callable[[str, int | None], float]


def count_flops(
    fn: Callable[..., Any], *args: Any, while_trips: WhileTrips | None = None
) -> FlopCount:
    """FLOPs of `fn(*args)`, over all devices together. Nothing is run.

    `args` are arrays or ShapeDtypeStructs. The trips of a `while` are derived where its
    condition compares a counter with a constant. If that is only one of the conditions
    (`(t < 64) & any(active)`) it gives a bound, and the count is a bound too, unless
    `while_trips` says how many trips were made: a number for every such loop, or a
    function of (path, bound or None). Without a bound or `while_trips` one trip is
    counted. `FlopCount.loops` says which of these happened to each loop.
    """
    closed = jax.make_jaxpr(fn)(*args)
    jaxpr, _ = dce_jaxpr(closed.jaxpr, True, instantiate=True)
    known = {v: c for v, c in zip(jaxpr.constvars, closed.consts) if np.ndim(c) == 0}
    return _walk(jaxpr, known, "", while_trips)


def _walk(jaxpr: Any, known: dict, path: str, trips: WhileTrips | None) -> FlopCount:
    """The sum over a jaxpr's equations. `known` holds the constant scalars."""
    total = FlopCount()
    serial = 0
    for eqn in jaxpr.eqns:
        name, inner = eqn.primitive.name, list(_subjaxprs(eqn.params))
        values = [_value(v, known) for v in eqn.invars]
        if name == "convert_element_type" and values[0] is not None:
            known[eqn.outvars[0]] = values[0]
        if name == "while":
            here = f"{path}while.{serial}"
            serial += 1
            total = total.plus(_while(eqn, values, here, trips))
        elif name == "pallas_call" and eqn.params.get("cost_estimate") is not None:
            total = total.plus(FlopCount(matmul=eqn.params["cost_estimate"].flops))
        elif name in _CALLS or name in ("scan", "cond", "shard_map", "pallas_call"):
            below = f"{path}{eqn.params.get('name') or name}/"
            counts = []
            for sub in inner:
                given = values[-len(sub.invars) :] if name in _CALLS else []
                counts.append(_walk(sub, dict(zip(sub.invars, given)), below, trips))
            if name == "cond":
                dearest = max(counts, key=lambda c: c.flops)
                if any(count.flops != dearest.flops for count in counts):
                    dearest = dearest.plus(FlopCount(conds=(below[:-1],)))
                total = total.plus(dearest)
            for count in counts:  # of the other branches, only what they list
                total = total.plus(count, 0 if name == "cond" else _repeats(eqn))
        else:
            total = total.plus(_leaf(eqn, name))
    return total


def _leaf(eqn: Any, name: str) -> FlopCount:
    """The cost of an equation without a program inside it."""
    sizes = [math.prod(getattr(v.aval, "shape", ())) for v in eqn.outvars]
    out = sizes[0] if sizes else 0
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        depth = math.prod(eqn.invars[0].aval.shape[i] for i in contract)
        return FlopCount(matmul=2 * out * depth)
    if name == "ragged_dot_general":  # each row of [M, K] meets one [K, N]
        return FlopCount(matmul=2 * out * eqn.invars[0].aval.shape[-1])
    if name == "conv_general_dilated":  # what falls on padding is counted too
        kernel = eqn.invars[1].aval.shape
        features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return FlopCount(matmul=2 * out * math.prod(kernel) // features)
    if name == "sort":
        n = eqn.invars[0].aval.shape[eqn.params["dimension"]]
        return FlopCount(other=out * math.ceil(math.log2(max(n, 1))))
    if name in _ELEMENTWISE:
        return FlopCount(other=sum(sizes))
    if name in _REDUCTIONS:
        return FlopCount(other=math.prod(eqn.invars[0].aval.shape))
    if name in _SCATTERS:
        return FlopCount(other=math.prod(eqn.invars[2].aval.shape))
    return FlopCount() if name in _FREE else FlopCount(unknown=(name,))


def _repeats(eqn: Any) -> int:
    """How often the program inside an equation runs."""
    if eqn.primitive.name == "scan":
        return eqn.params["length"]
    if eqn.primitive.name == "shard_map":
        mesh, axes = eqn.params["mesh"], eqn.params["newly_manual_axes"]
        return math.prod(mesh.shape[axis] for axis in axes)
    if eqn.primitive.name == "pallas_call":
        return math.prod(eqn.params["grid_mapping"].grid)
    return 1


def _while(eqn: Any, values: list, path: str, trips: WhileTrips | None) -> FlopCount:
    """The body times its trips, and the condition once more than that."""
    cond, body = eqn.params["cond_jaxpr"].jaxpr, eqn.params["body_jaxpr"].jaxpr
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    start = values[n_cond + n_body :]
    bound, exact = _bound(cond, body, n_cond, n_body, values)
    if exact:
        used, how = bound, "exact"
    elif trips is not None:
        used, how = trips(path, bound) if callable(trips) else trips, "given"
        if bound is not None:
            used = min(used, bound)
    elif bound is not None:
        used, how = bound, "bound"
    else:
        used, how = 1, "unknown"
    nothing = [None] * len(start)  # the carry changes from trip to trip
    in_body = dict(zip(body.invars, values[n_cond : n_cond + n_body] + nothing))
    in_cond = dict(zip(cond.invars, values[:n_cond] + nothing))
    body_cost = _walk(body, in_body, path + "/", trips)
    cond_cost = _walk(cond, in_cond, path + "/cond/", trips)
    loop = Loop(path, used, how, bound, body_cost.flops + cond_cost.flops)
    total = FlopCount(loops=(loop,)).plus(body_cost, used)
    return total.plus(cond_cost, used + 1)


def _bound(
    cond: Any, body: Any, n_cond: int, n_body: int, values: list
) -> tuple[int | None, bool]:
    """The most trips a while's condition allows, and whether it makes exactly these.

    Understood are `counter < constant` (also <=, >, >=, and the sides exchanged) where
    the body adds a constant to the counter, and conjunctions of such with anything.
    """
    made_by = {v: e for e in cond.eqns for v in e.outvars}
    steps = {v: e for e in body.eqns for v in e.outvars}
    consts = dict(zip(cond.invars, values[:n_cond]))
    start = values[n_cond + n_body :]

    def carry(var: Any) -> int | None:
        """Which part of the carry a variable of the condition is."""
        here = not isinstance(var, Literal) and var in cond.invars[n_cond:]
        return cond.invars.index(var) - n_cond if here else None

    def step(i: int) -> Any:
        """What the body adds to part i of the carry; 0 for nothing, None if unclear."""
        before, after = body.invars[n_body + i], body.outvars[i]
        if after is before:
            return 0
        eqn = None if isinstance(after, Literal) else steps.get(after)
        if eqn is None or eqn.primitive.name not in ("add", "sub"):
            return None
        known = dict(zip(body.invars, values[n_cond : n_cond + n_body]))
        left, right = eqn.invars
        if eqn.primitive.name == "add" and right is before:
            left, right = right, left
        by = _value(right, known) if left is before else None
        return -by if by is not None and eqn.primitive.name == "sub" else by

    def limit(var: Any) -> Any:
        """The value of the side of a comparison that doesn't change, or None."""
        i = carry(var)
        if i is not None:
            return start[i] if step(i) == 0 else None
        return _value(var, consts)

    def trips(var: Any) -> tuple[int | None, bool]:
        eqn = None if isinstance(var, Literal) else made_by.get(var)
        name = eqn.primitive.name if eqn else ""
        if name == "convert_element_type":
            return trips(eqn.invars[0])
        if name == "and":
            (left, left_exact), (right, right_exact) = map(trips, eqn.invars)
            some = [n for n in (left, right) if n is not None]
            return (min(some) if some else None), left_exact and right_exact
        if name not in ("lt", "le", "gt", "ge"):
            return None, False
        small, large = eqn.invars if name in ("lt", "le") else eqn.invars[::-1]
        for counter, other, sign in ((small, large, 1), (large, small, -1)):
            i, end = carry(counter), limit(other)
            if i is None or end is None or start[i] is None:
                continue
            by = step(i)
            if by is not None and by * sign > 0:
                distance = sign * (end - start[i]) + (name in ("le", "ge"))
                return max(0, math.ceil(distance / abs(by))), True
        return None, False

    return trips(cond.outvars[0])


def _value(var: Any, known: Mapping) -> Any:
    """The value of a constant scalar integer, else None."""
    value = var.val if isinstance(var, Literal) else known.get(var)
    if value is None or isinstance(value, jax.core.Tracer) or np.ndim(value):
        return None
    dtype = getattr(value, "dtype", np.result_type(type(value)))
    return int(value) if jnp.issubdtype(dtype, jnp.integer) else None


def _subjaxprs(params: Mapping) -> Iterator[Any]:
    """The programs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)  # a ClosedJaxpr holds its Jaxpr
            if hasattr(item, "eqns") and hasattr(item, "invars"):
                yield item
