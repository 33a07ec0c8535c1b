"""Texts of compiled programs, written by hand: what is sent and what memory moves."""

from types import SimpleNamespace

import numpy as np
import pytest

from o1jax.aot.collectives import collectives, groups
from o1jax.aot.hlo import parse, sizes
from o1jax.aot.traffic import traffic

# data 2 x fsdp 4: device 4 d + f.
MESH = SimpleNamespace(
    devices=np.arange(8).reshape(2, 4), size=8, axis_names=("data", "fsdp")
)
BY_FSDP = "replica_groups=[2,4]<=[8]"
BY_DATA = "replica_groups=[4,2]<=[2,4]T(1,0)"

LOOP = f"""HloModule step

%body (p: (s32[], f32[16])) -> (s32[], f32[16]) {{
  %p = (s32[], f32[16]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[16]{{0:T(1024)}} get-tuple-element(%p), index=1
  %w = bf16[64]{{0:T(128)S(1)}} all-gather(%x), {BY_FSDP}, dimensions={{0}}
  %y = f32[16]{{0}} all-reduce(%x), {BY_DATA}, to_apply=%add
  ROOT %t = (s32[], f32[16]{{0}}) tuple(%i, %y)
}}

%until (p: (s32[], f32[16])) -> pred[] {{
  %p = (s32[], f32[16]{{0}}) parameter(0)
  %end = s32[] constant(5)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %end), direction=LT
}}

ENTRY %main (a: f32[16]) -> f32[16] {{
  %a = f32[16]{{0}} parameter(0)
  %begin = s32[] constant(2)
  %start = (s32[], f32[16]{{0}}) tuple(%begin, %a)
  %loop = (s32[], f32[16]{{0}}) while(%start), condition=%until, body=%body
  ROOT %out = f32[16]{{0}} get-tuple-element(%loop), index=1
}}
"""


def sent(text, **options):
    found = collectives(parse(text), MESH, **options)
    return [(c.kind, c.axes, c.sent, c.times) for c in found]


def test_a_loop_from_2_to_5_sends_three_times():
    gather = 64 * 2 * 3 / 4  # bf16, of which a device has a quarter
    reduce = 2 * 16 * 4 * 1 / 2  # f32, twice round a ring of two
    assert sent(LOOP) == [
        ("all-gather", ("fsdp",), gather, 3),
        ("all-reduce", ("data",), reduce, 3),
    ]


def test_a_kernels_metadata_may_begin_a_line_with_braces():
    kernel = """  %k = f32[16]{0} custom-call(%x), custom_call_target="kernel",
backend_config={"xprof_metadata":"{
}}, metadata={op_name="splash"}
  %y ="""
    assert sent(LOOP.replace("  %y =", kernel)) == sent(LOOP)


def test_a_loop_that_the_data_end_goes_round_as_told():
    text = LOOP.replace("constant(5)", "parameter(1)")
    assert [times for *_, times in sent(text)] == [1, 1]
    assert [times for *_, times in sent(text, unknown=(7.0,))] == [7, 7]


def test_loops_inside_each_other_have_rounds_of_their_own():
    inner = LOOP.replace("constant(5)", "parameter(1)")
    outer = inner.replace("ENTRY %main", "%middle").replace("%out =", "%res =")
    text = outer + (
        "ENTRY %top (a: (f32[16])) -> f32[16] {\n"
        "  %a = (f32[16]{0}) parameter(0)\n"
        "  ROOT %w = (f32[16]{0}) while(%a), condition=%until, body=%middle\n}\n"
    )
    assert [times for *_, times in sent(text, unknown=(2.0, 3.0))] == [6, 6]


@pytest.mark.parametrize(
    "line, expected",
    [
        # A device keeps a fourth of 64 f32: it sends the other three.
        ("f32[16]{0} reduce-scatter(%a)", ("reduce-scatter", 64 * 3)),
        ("f32[64]{0} all-to-all(%a)", ("all-to-all", 256 * 3 / 4)),
        (
            "(f32[16]{0}, f32[64]{0}) all-gather-start(%a)",
            ("all-gather", 256 * 3 / 4),
        ),
        ("(f32[8]{0}, bf16[8]{0}) all-reduce(%a, %b)", ("all-reduce", 48 * 2 * 3 / 4)),
    ],
)
def test_bytes_of_each_kind(line, expected):
    text = f"ENTRY %m (a: f32[64]) -> f32[64] {{\n  ROOT %r = {line}, {BY_FSDP}\n}}\n"
    ((kind, axes, size, times),) = sent(text)
    assert (kind, size) == expected
    assert (axes, times) == (("fsdp",), 1)


def test_a_permute_sends_what_it_has_to_a_neighbour():
    pairs = "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    start = "(f32[64]{0}, f32[64]{0}, u32[], u32[]) collective-permute-start(%a)"
    text = f"ENTRY %m (a: f32[64]) -> f32[64] {{\n  ROOT %r = {start}, {pairs}\n}}\n"
    assert sent(text) == [("collective-permute", ("fsdp",), 256, 1)]


def test_a_reduction_of_which_each_keeps_a_part_is_a_scatter():
    text = (
        "%all-reduce-scatter.1 (i: f32[64]) -> f32[16] {\n"
        "  %i = f32[64]{0} parameter(0)\n"
        f"  %r = f32[64]{{0}} all-reduce(%i), {BY_FSDP}, to_apply=%add\n"
        "  ROOT %s = f32[16]{0} dynamic-slice(%r, %k), dynamic_slice_sizes={16}\n}\n"
        "ENTRY %m (a: f32[64]) -> f32[16] {\n"
        "  %a = f32[64]{0} parameter(0)\n"
        "  ROOT %f = f32[16]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1"
        "\n}\n"
    )
    assert sent(text) == [("reduce-scatter", ("fsdp",), 256 * 3 / 4, 1)]


def test_a_gather_spread_over_fusions_counts_once():
    piece = (
        "%{name} (p: bf16[16]) -> bf16[64] {{\n"
        "  %p = bf16[16]{{0}} parameter(0)\n"
        "  %g = bf16[64]{{0}} all-gather(%p), channel_id=3, {by}, "
        'frontend_attributes={{chain_id="1"}}\n'
        '  ROOT %c = bf16[64]{{0}} custom-call(%g), custom_call_target="{what}"\n}}\n'
    )
    steps = ("AsyncCollectiveStart", "Other", "AsyncCollectiveDone")
    text = "".join(
        piece.format(name=f"f{i}", by=BY_FSDP, what=what)
        for i, what in enumerate(steps)
    )
    calls = "".join(
        f"  %x{i} = bf16[64]{{0}} fusion(%a), kind=kCustom, calls=%f{i}\n"
        for i in range(3)
    )
    text += f"ENTRY %m (a: bf16[16]) -> bf16[64] {{\n{calls}}}\n"
    assert sent(text) == [("all-gather", ("fsdp",), 128 * 3 / 4, 1)]


def test_branches_share_the_runs():
    text = LOOP.replace("ENTRY %main", "%loops") + (
        "%none (a: f32[16]) -> f32[16] {\n  ROOT %a = f32[16]{0} parameter(0)\n}\n"
        "ENTRY %m (a: f32[16]) -> f32[16] {\n"
        "  ROOT %c = f32[16]{0} conditional(%i, %a, %a), "
        "branch_computations={%loops, %none}\n}\n"
    )
    assert [times for *_, times in sent(text)] == [1.5, 1.5]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        (
            "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}",
            [[0, 2], [1, 3]],
        ),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("replica_groups={}", []),
    ],
)
def test_groups_in_every_notation(text, expected):
    assert [group.tolist() for group in groups(text)] == expected


def test_sizes_of_a_type():
    type_ = "(s32[]{:T(128)}, bf16[4,3]{1,0:T(8,128)(2,1)S(1)}, pred[7], s4[3])"
    assert sizes(type_) == [4, 24, 7, 2]
    assert sizes(type_, hbm_only=True) == [4, 0, 7, 2]


def test_memory_of_a_loop_with_a_slice_and_an_update_in_place():
    text = """
%part (p0: f32[8,100], p1: s32[]) -> f32[100] {
  %p0 = f32[8,100]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %s = f32[1,100]{1,0} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,100}
  ROOT %r = f32[100]{0} bitcast(%s)
}

%put (p0: f32[8,100], p1: f32[100], p2: s32[]) -> f32[8,100] {
  %p0 = f32[8,100]{1,0} parameter(0)
  %p1 = f32[100]{0} parameter(1)
  %p2 = s32[] parameter(2)
  %b = f32[1,100]{1,0} bitcast(%p1)
  ROOT %u = f32[8,100]{1,0} dynamic-update-slice(%p0, %b, %p2)
}

ENTRY %m (a: f32[8,100], i: s32[]) -> f32[8,100] {
  %a = f32[8,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %x = f32[100]{0} fusion(%a, %i), kind=kLoop, calls=%part
  %y = f32[100]{0:S(1)} negate(%x)
  ROOT %z = f32[8,100]{1,0} fusion(%a, %x, %i), kind=kLoop, calls=%put
}
"""
    take = 400 + 4 + 400  # a row and its number read, a row written
    negate = 400  # what it writes stays on the chip
    put = 400 + 4 + 400  # a row and its number read, a row written in place
    assert traffic(parse(text)) == take + negate + put
