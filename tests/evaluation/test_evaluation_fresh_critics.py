"""What fresh critics find of a run; critics that see what they do; how far its contrast is off."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import contrast_points, critic_inputs, fresh_critics

import avb
from avb.critics import ResidualCritic


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = avb.RunConfig(
        data="digits",
        method="avb_adaptive",
        latent_dim=2,
        width=40,
        fit=avb.FitConfig(epochs=2, kl_warmup=0.0),
    )
    avb.train_run(config, folder)
    return folder


def test_both_kinds_of_fresh_critic_judge_one_run(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fresh_critics, "RESULTS", tmp_path)
    config = fresh_critics.Config(run_dir, num_data=48, steps=20)
    fresh_critics.main(config)
    found = json.loads(config.path.read_text())
    run = avb.load_run(run_dir)
    data = run.held_out("validation")[:48]
    own = avb.critic_elbo(run.method, data, key=jax.random.key(2)).mean
    for one in found.values():
        assert len(one["bound"]) == 48
        assert 0.3 < one["accuracy"] < 0.7
        # After two epochs the posterior is nearly Gaussian, and so is what both find.
        assert np.mean(one["bound"]) == pytest.approx(own, abs=0.3)
    assert f"critic of training {own:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize("inputs", critic_inputs.INPUTS)
def test_a_critic_that_sees_something_else_starts_as_the_same(inputs, key):
    method = avb.avb_adaptive(avb.Architecture((8, 8), latent_dim=2, width=40), key=key)
    other = critic_inputs.with_inputs(method, inputs, key)
    old, new = method.critic, other.critic
    assert isinstance(old, ResidualCritic)
    assert isinstance(new, ResidualCritic)
    assert (new.quadratic is not None) == ("forms" in inputs)
    assert new.width == old.width
    assert len(new.blocks) == len(old.blocks)
    features, outputs = jnp.linspace(-1.0, 1.0, 40), int(new.datum.out_features)
    plain = eqx.nn.Linear(40, outputs, key=jax.random.split(key, 6)[0])
    datum = jnp.zeros((8, 8))
    # Divided features and multiplied weights cancel, but in the gradient.
    np.testing.assert_allclose(new.features(datum, features), plain(features), atol=1e-5)
    slope = jax.grad(lambda critic: jnp.sum(critic.features(datum, features)))(new)
    size = jnp.linalg.norm(slope.datum.weight) / jnp.linalg.norm(features) / outputs**0.5
    assert float(size) == pytest.approx(40**-0.5 if "/ √f" in inputs else 1.0)


def test_a_nearly_gaussian_posterior_needs_no_more_points(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(contrast_points, "RESULTS", tmp_path)
    config = contrast_points.Config(run_dir)
    contrast_points.main(config)
    found = json.loads(config.path.read_text())["found"]
    assert [one["points"] for one in found[::3]] == [32, 64, 128, 256]
    # Of a posterior that is nearly Gaussian, no more than the noise of the moments themselves.
    assert all(0.0 < one["mean"] < 0.05 for one in found)
