"""Chips, slices, the roofline and the least that a step must send, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from o1jax.aot.chips import CHIPS, GIB, topology
from o1jax.aot.minimum import least_sent
from o1jax.aot.roofline import dimensions, roofline
from o1jax.config import ConfigError
from o1jax.policy.policy import PolicyConfig

V5E = CHIPS["v5e"]


def test_what_bounds_a_program():
    # 197e12 FLOPs are a second; half of a second of memory; a gather over one
    # dimension of the torus has two of the four links: 100 GB a second.
    line = roofline(V5E, flops=197e12, memory_bytes=819e9 / 2, sent=[(25e9, 1)])
    assert line == pytest.approx((1.0, 0.5, 0.25))
    assert (line.bound, line.seconds) == ("compute", 1.0)
    wide = roofline(V5E, flops=0, memory_bytes=0, sent=[(25e9, 1), (400e9, 2)])
    assert wide.interconnect == pytest.approx(0.25 + 400 / 200)
    assert wide.bound == "interconnect"
    # Two devices of libtpu's share a v4 chip.
    half = roofline(CHIPS["v4"], flops=275e12 / 2, memory_bytes=0.6e12, sent=())
    assert half == pytest.approx((1.0, 1.0, 0.0))


def test_dimensions_of_the_torus_that_an_axis_spans():
    chips = [SimpleNamespace(coords=(x, y, 0)) for x in range(4) for y in range(2)]
    names = ("data", "fsdp")
    rows = SimpleNamespace(devices=np.reshape(chips, (4, 2)), axis_names=names)
    assert dimensions(rows, ("fsdp",)) == dimensions(rows, ("data",)) == 1
    assert dimensions(rows, names) == 2
    flat = SimpleNamespace(devices=np.reshape(chips, (1, 8)), axis_names=names)
    assert dimensions(flat, ("fsdp",)) == 2


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_chips_are_plausible(chip):
    assert 8 * GIB < chip.hbm_bytes * chip.devices < 128 * GIB
    assert 1e14 < chip.flops < 1e15
    # FLOPs that a byte of memory must be worth, and bytes of memory one of a link.
    assert 100 < chip.flops / chip.hbm_rate < 1000
    assert 1 < chip.hbm_rate / (chip.links * chip.link_rate) < 10
    assert chip.links == 2 * chip.dimensions
    assert chip.source.startswith("https://")


def test_a_slice_by_its_name():
    found = topology("v5p:4x4x8")
    assert (found.name, found.chips, found.chip) == ("v5p:4x4x8", 128, CHIPS["v5p"])


@pytest.mark.parametrize(
    "text, reason",
    [
        ("v5x:4x4", "unknown chip 'v5x'; did you mean"),
        ("v5e", "write it like v5e:16x16"),
        ("v5e:4x", "write it like v5e:16x16"),
        ("v5e:0x4", "write it like v5e:16x16"),
        ("v5e:4x4x4", "torus of 2 dimensions"),
        ("v6e:32x32", "1024 chips; a slice of v6e has 256 at most"),
    ],
)
def test_no_such_slice(text, reason):
    with pytest.raises(ConfigError, match=f"^topology '{text}'.*") as error:
        topology(text)
    assert reason in str(error.value)


def test_the_least_of_a_step_by_hand():
    # One layer: q, k, v, o are 4 x 4 each, gate, up and down 4 x 8; 10 words.
    policy = PolicyConfig(vocab=10, width=4, layers=1, heads=2, ff=8)
    matrices, table = 4 * 16 + 3 * 32, 40
    # Two devices, each with 3 tokens: half of all is another's.
    gathered = (3 * matrices + 2 * table + 2 * 3 * 4) / 2
    found = least_sent(policy, data=1, fsdp=2, tokens=3)
    assert found == 2 * gathered
    # Copied twice: half of each device's half is summed twice.
    copies = 2 * (matrices + 2 * table) / 2 / 2
    assert least_sent(policy, data=2, fsdp=2, tokens=3) == 2 * (gathered + copies)


def test_the_least_at_7b_on_256_chips():
    policy = PolicyConfig(vocab=32_000, width=4096, layers=32, heads=32, ff=11_008)
    # 6.476e9 numbers in layers, 0.131e9 in each table, 2,048 tokens: 15/16 of
    # 2 x (3 x 6.476 + 2 x 0.131 + 0.017)e9, and 2 x 2 x 6.738e9 / 16 x 15/16.
    found = least_sent(policy, data=16, fsdp=16, tokens=2048)
    assert found == pytest.approx((36.954 + 1.579) * 1e9, rel=1e-3)
