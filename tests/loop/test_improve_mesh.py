"""The loop on a mesh: the same responses, and what is learned from them is the same."""

import json

import jax
import numpy as np

from o1jax.loop.checkpoint_read import restore_params

# PPO with a critic of its own and a reference, paid for being short: what a policy that
# knows nothing yet can learn. Then adapters learn on.
EXPERIMENT = """
Experiment.task = @Chain()
Experiment.stages = [@Improve(), @lora/Improve()]
Chain.min_steps = 2
Chain.max_steps = 2
Chain.modulus = 5
PolicyConfig.vocab = 16
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
SamplerConfig.max_new_tokens = 6
SamplerConfig.rows = 8
Improve.rounds = 2
Improve.questions = 4
Improve.samples = 4
Improve.learner = @PolicyGradient()
Improve.critic = 'own'
Improve.minibatches = 2
Improve.microbatches = 2
PolicyGradient.signal = 'gae'
PolicyGradient.terms = (@Surrogate(), @Divergence(), @Critic())
PolicyGradient.reduction = 'token'
PolicyGradient.kl = @KLControl()
KLControl.coef = 0.1
OptimizerConfig.learning_rate = 0.01
OptimizerConfig.warmup_steps = 0
OptimizerConfig.schedule = 'constant'
OptimizerConfig.eps = 1e-3  # or a step would be random where a gradient is 0
Improve.optimizer = @OptimizerConfig()
Payment.overlong = 6
lora/Improve.name = 'lora'
lora/Improve.lora = @LoraConfig()
lora/Improve.learner = @lora/PolicyGradient()
lora/Improve.critic = 'shared'
lora/Improve.minibatches = 1
lora/PolicyGradient.signal = 'leave_one_out'
lora/PolicyGradient.terms = (@Surrogate(),)
LoraConfig.rank = 2
HeldOut.problems = 4
HeldOut.samples = 4
"""


def learned(workdir):
    """(metrics by round, parameters of each stage, the adapters) of a finished run."""
    read = (workdir / "metrics.jsonl").read_text().splitlines()
    folders = [
        *sorted((workdir / "checkpoints").iterdir()),
        workdir / "adapters/01-lora",
    ]
    params = [restore_params(folder).params for folder in folders]
    return [json.loads(line) for line in read], params


def test_a_mesh_improves_like_one_device(o1jax, tmp_path):
    file = tmp_path / "ppo.gin"
    file.write_text(EXPERIMENT)
    found = {}
    for name, devices, mesh in (
        ("one", 1, []),
        ("cube", 8, ["MeshConfig.fsdp=2", "MeshConfig.tensor=2"]),
    ):
        workdir = tmp_path / name
        options = [x for setting in mesh for x in ("--set", setting)]
        code, _, err = o1jax(
            "run", file, "--workdir", workdir, *options, devices=devices
        )
        assert code == 0, err
        found[name] = learned(workdir)
    (one, expected), (cube, params) = found.values()
    assert len(one) == len(cube)
    for a, b in zip(one, cube):
        assert a.keys() == b.keys()
        for key in a.keys() - {"time"}:
            np.testing.assert_allclose(
                b[key], a[key], rtol=1e-3, atol=1e-5, err_msg=key
            )
    for rounds in (one[:4], one[4:]):
        moved = max(m.get("improve_kl", 0) for m in rounds)
        assert moved > 1e-3  # the policy, in either stage
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        params,
        expected,
    )
