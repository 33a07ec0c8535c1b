"""An experiment's programs on 8 simulated devices, compiled and read as for a slice."""

import json

import jax
import pytest

from o1jax.aot import compile as compiling
from o1jax.aot.check import Checked
from o1jax.aot.chips import topology
from o1jax.aot.compile import check, device_bytes
from o1jax.aot.page import page
from o1jax.aot.text import lines
from o1jax.config import load
from o1jax.loop.planned import Plan
from o1jax.loop.programs import NotCovered, programs

TEXT = """
Experiment.stages = [@tune/Imitate(), @TrainReward(), @Improve(), @Compare()]
Experiment.decode = @decode/MeshConfig()
decode/MeshConfig.data = 4
decode/MeshConfig.fsdp = 1
decode/MeshConfig.tensor = 2
MeshConfig.data = 2
MeshConfig.fsdp = 4
PolicyConfig.vocab = 64
PolicyConfig.width = 32
PolicyConfig.heads = 2
PolicyConfig.ff = 64
tune/Imitate.name = 'tune'
tune/BatchConfig.rows = 16
tune/BatchConfig.length = 24
tune/Imitate.microbatches = 2
RewardModelConfig.readout = 'head'
TrainReward.rows = 16
TrainReward.optimizer = @reward/OptimizerConfig()
SamplerConfig.max_new_tokens = 8
Improve.questions = 8
Improve.samples = 4
Improve.minibatches = 2
Improve.critic = 'own'
Improve.payment = @Payment()
Payment.reward = 'reward'
PolicyGradient.signal = 'gae'
PolicyGradient.terms = (@Surrogate(), @Critic())
Compare.problems = 8
Compare.methods = [@Search()]
Compare.budgets = (2, 4)
Search.reward = 'reward'
Steps.tokens = 4
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    import o1jax.loop.experiment  # noqa: F401

    file = tmp_path_factory.mktemp("aot") / "tiny.gin"
    file.write_text(TEXT)
    run = Plan(load(file).experiment, jax.devices(), file.parent)
    listed = list(programs(run))
    assert not any(isinstance(p, NotCovered) for p in listed)
    return {p.label: p for p in listed}


@pytest.fixture(scope="module")
def reports(found, tmp_path_factory):
    """Of a few programs, compiled for the CPU in place of a slice."""
    patch = pytest.MonkeyPatch()
    patch.setenv("O1JAX_AOT_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(compiling, "libtpu_version", lambda: "none")
    some = ("tune: update", "tune: reshard", "improve: sample 32")
    yield {name: check("tiny.gin", found[name], topology("v5e:2x4")) for name in some}
    patch.undo()


def test_every_stage_names_its_programs(found):
    main = [name for name, program in found.items() if program.main]
    assert main == [
        "tune: update",
        "tune: reshard",
        "reward: sample 2000",
        "reward: update",
        "improve: sample 32",
        "improve: score by reward",
        "improve: reference",
        "improve: critic",
        "improve: update",
        "search: search 8 by mcts, budget 4",
    ]
    assert "search: search 8 by mcts, budget 2" in found  # a smaller variant


def test_adapters_labels_and_a_reward_model_that_learns_on(tmp_path):
    """Only what a run would compile besides; all is lowered, nothing compiled."""
    more = """
Improve.lora = @LoraConfig()
LoraConfig.rank = 2
Labels.source = 'rollouts'
Labels.rollouts = 3
Payment.refresh_every = 2
"""
    file = tmp_path / "more.gin"
    file.write_text(TEXT + more)
    run = Plan(load(file).experiment, jax.devices(), tmp_path)
    found = {p.label: p for p in programs(run) if p.main}
    assert {
        "reward: read 256 traces",
        "reward: continue 256 x 16 x 3",
        "improve: merge adapters",
        "improve: update of reward",
    } < set(found)
    # The base is an argument that the update leaves as it is, and the reference too.
    update = found["improve: update"]
    (state, _, base), first = update.arguments, run.current_params()
    assert set(update.held) == {"reward model"}
    assert device_bytes(base) == device_bytes(first)
    numbers = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert numbers(state.params) < 0.4 * numbers(first)  # of rank 2, and two networks
    # Keys and values of a call's traces: 256 rows over 4 shards, 2 layers, 2 heads.
    prefixes = found["reward: continue 256 x 16 x 3"].arguments[1]
    assert all(x.sharding.shard_shape(x.shape)[0] == 64 for x in (*prefixes.k,))
    for name in ("reward: continue 256 x 16 x 3", "improve: update", "improve: critic"):
        found[name].fn.lower(*found[name].arguments)


def test_a_trunk_that_stays_reads_once(tmp_path):
    """Its update sees 16 texts as numbers, 32 a step, and trains the head alone."""
    file = tmp_path / "frozen.gin"
    file.write_text(TEXT + "RewardModelConfig.trunk = 'frozen'\n")
    run = Plan(load(file).experiment, jax.devices(), tmp_path)
    found = {p.label: p for p in programs(run) if p.stage == "reward"}
    assert set(found) == {"reward: sample 2000", "reward: read", "reward: update"}
    state, rows = found["reward: update"].arguments
    texts, steps, width = rows.reading.state.shape
    assert (texts, width) == (16, 32) and set(state.params) == {"readout"}
    assert found["reward: read"].arguments[5].shape[1] == steps
    for program in (found["reward: read"], found["reward: update"]):
        program.fn.lower(*program.arguments)


def test_what_devices_hold_beside_a_program(found):
    update, sample = found["improve: update"], found["improve: sample 32"]
    state = update.arguments[0]
    assert set(update.held) == {"reference", "reward model"}
    assert set(sample.held) == {"train state", "reference", "reward model"}
    # Two networks and two moments of each; keys and counters are a few bytes.
    reference = device_bytes(update.held["reference"])
    assert device_bytes(state) == pytest.approx(6 * reference, rel=1e-2)
    # Eight requests a shard, all answered at once, of eight tokens at most.
    assert sample.trips == (8.0, 0.0)


def test_a_state_is_cut_and_updated_in_place(found, reports):
    program, report = found["tune: update"], reports["tune: update"]
    state, batch = program.arguments
    assert report.fits
    assert report.arguments == pytest.approx(device_bytes((state, batch)), rel=0.01)
    # All but the metrics is written where the old state was.
    assert report.outputs - report.aliased < 1000
    assert report.peak >= report.arguments + report.temporaries
    assert set(report.sent) >= {"data", "fsdp"}
    assert report.exact and report.flops > 0


def test_moving_to_decode_sends_each_matrix_once(found, reports):
    report = reports["tune: reshard"]
    program = found["tune: reshard"]
    assert set(program.held) == {"moments"}
    # In bf16, of which a device gets half of each matrix from three others, or all.
    matrices = sum(x.size for x in jax.tree.leaves(program.arguments))
    assert sum(report.sent.values()) < 2 * 4 * matrices
    assert report.flops == 0


def test_what_is_sent_for_each_token(reports):
    report = reports["improve: sample 32"]
    # Only the two devices that share the matrices talk to each other, but for a few
    # counts at the end.
    assert set(report.sent) == {"data", "tensor"}
    assert report.sent["tensor"] > 100 * report.sent["data"] and not report.exact


def test_kept_once_compiled(found, reports, monkeypatch):
    class Never:
        def compile(self):
            raise AssertionError("it is compiled already")

    lowered = found["tune: reshard"].fn.lower(*found["tune: reshard"].arguments)
    assert compiling._compile(lowered, topology("v5e:2x4")).from_cache


def test_too_small_a_chip_names_the_largest_arrays(found, reports):
    small = topology("v5e:2x4")
    chip = type(small.chip)(**{**vars(small.chip), "hbm_bytes": 1000.0})
    report = check("tiny.gin", found["tune: update"], type(small)(chip, small.shape))
    assert (report.fits is False and report.from_cache is False) or report.from_cache
    text = "\n".join(lines(report))
    assert "DOES NOT FIT" in text and "argument" in text
    sizes = [size for _, size in report.largest]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1000
    checked = Checked("a<b>.gin", "T", "v5e:2x4", "data 2", 10, 2, [report], ["a note"])
    assert not checked.fits
    assert "it does not fit" in page([checked]) and "a<b>" not in page([checked])
    assert json.loads(json.dumps(checked.to_json()))["reports"][0]["fits"] is False


def test_libtpu_names_what_is_too_large():
    error = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.
  Largest program allocations in hbm:

  1. Size: 512.00M
     Operator: op_name="jit(f)/mul"
     Shape: f32[128,1024,1024]{2,1,0:T(8,128)}
     ==========================

  2. Size: 1.50G
     Operator: op_name="jit(f)/dot"
     Shape: bf16[768,1024,1024]{2,1,0}
     ==========================
"""
    assert compiling._allocations(error) == [
        ("bf16[768,1024,1024]{2,1,0} jit(f)/dot", 1.5 * 2**30),
        ("f32[128,1024,1024]{2,1,0:T(8,128)} jit(f)/mul", 2**29),
    ]


def test_a_batch_that_the_mesh_cannot_share(tmp_path):
    file = tmp_path / "odd.gin"
    text = TEXT.replace("tune/BatchConfig.rows = 16", "tune/BatchConfig.rows = 12")
    file.write_text(text)
    run = Plan(load(file).experiment, jax.devices(), tmp_path)
    with pytest.raises(ValueError, match="12 rows of a batch do not divide by 8"):
        list(programs(run))
