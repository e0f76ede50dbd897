"""Runs that start from the networks of another."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from test_runs_helpers import TINY

import avb
from avb import ConfigError, FitConfig, Outcome, RunError
from avb.report import draw_run
from avb.runs import RunConfig, load_run, resume_run, train_run
from avb.training import _prior

# So small that no parameter moves.
STILL = FitConfig(epochs=1, learning_rate=1e-30, critic_learning_rate=1e-30)


def parameters(method) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(method, eqx.is_inexact_array))]


def expect_same(method, other):
    ours, theirs = parameters(method), parameters(other)
    assert len(ours) == len(theirs) > 0
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(left, right)


def longer(start: Path, **changes) -> RunConfig:
    return dataclasses.replace(TINY, start_from=str(start), **changes)


@pytest.mark.parametrize("method", ["avb_adaptive", "flow_vae"])
def test_both_players_start_where_the_other_run_ended(method: str, tmp_path: Path):
    config = dataclasses.replace(TINY, method=method, latent_dim=5, fit=FitConfig(epochs=1))
    train_run(config, tmp_path / "first")
    second = dataclasses.replace(
        config, start_from=str(tmp_path / "first"), seed=1, importance_samples=5, fit=STILL
    )
    train_run(second, tmp_path / "second")
    ours, theirs = (load_run(tmp_path / name).method for name in ("first", "second"))
    expect_same(ours, theirs)
    # The posterior itself too: a flow has permutations of another seed, which are not trained.
    x, key = np.ones((8, 8), np.float32), jax.random.key(0)
    draws, others = (each.posterior.sample(key, x, (20,)) for each in (ours, theirs))
    np.testing.assert_array_equal(draws, others)


def test_what_it_starts_from_is_recorded(trained: Path, tmp_path: Path):
    train_run(longer(trained, fit=STILL), tmp_path / "run")
    document = json.loads((tmp_path / "run" / "config.json").read_text())
    assert document["config"]["start_from"] == str(trained)
    assert document["start_step"] == 117
    assert load_run(tmp_path / "run").record.start_step == 117


@pytest.mark.parametrize(("given", "expected"), [(None, 0.0), (2.0, 2.0)])
def test_no_kl_warmup_unless_one_is_given(trained: Path, given: float | None, expected: float):
    fit = FitConfig(epochs=10, kl_warmup=given)
    assert longer(trained, fit=fit).settled().fit.kl_warmup_epochs == expected
    assert dataclasses.replace(TINY, fit=fit).settled().fit.kl_warmup == given


def test_resumes_bit_for_bit_without_the_run_it_started_from(trained: Path, tmp_path: Path):
    config = longer(Path(shutil.copytree(trained, tmp_path / "start")))
    whole = train_run(config, tmp_path / "whole")
    stopped = train_run(config, tmp_path / "run", on_progress=lambda _: True)
    assert stopped.outcome is Outcome.STOPPED
    shutil.rmtree(tmp_path / "start")
    expect_same(resume_run(tmp_path / "run").method, whole.method)


@pytest.fixture(scope="module")
def with_flow(trained: Path, tmp_path_factory) -> Path:
    """A run with a flow for its prior, from one with N(0, I)."""
    folder = tmp_path_factory.mktemp("runs") / "flow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_prior, "STEPS", 300)
        train_run(longer(trained, prior="flow", fit=STILL), folder)
    return folder


def test_a_flow_is_fitted_to_the_posterior_of_the_run_to_start_from(trained: Path, with_flow: Path):
    first, second = load_run(trained), load_run(with_flow)
    ours, theirs = second.method, first.method
    expect_same((ours.model.decoder, ours.posterior), (theirs.model.decoder, theirs.posterior))
    data, key = first.held_out("train"), jax.random.key(0)
    better, worse = (avb.elbo(each.model, each.posterior, data, key=key) for each in (ours, theirs))
    gain, error = second.record.prior_gain
    assert 0 < error < 0.2
    assert better.mean - worse.mean == pytest.approx(gain, abs=4 * error)
    assert gain > 0.2


def test_a_run_with_hamiltonian_transitions_resumes_bit_for_bit(trained: Path, tmp_path: Path):
    config = longer(trained, hmc_transitions=2)
    whole = train_run(config, tmp_path / "whole")
    stopped = train_run(config, tmp_path / "run", on_progress=lambda _: True)
    assert stopped.outcome is Outcome.STOPPED
    resumed = resume_run(tmp_path / "run")
    expect_same(resumed.method, whole.method)
    assert resumed.state.chains.log_step_size == whole.state.chains.log_step_size
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert 0 < json.loads(rows[-1])["hmc_acceptance"] <= 1
    assert load_run(tmp_path / "run").method.hmc_transitions == 2


def test_a_flow_is_fitted_anew_where_there_is_one(with_flow: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(_prior, "STEPS", 300)
    config = load_run(with_flow).record.config
    config = dataclasses.replace(config, start_from=str(with_flow), seed=1)
    train_run(config, tmp_path / "run")
    ours, theirs = (load_run(folder) for folder in (tmp_path / "run", with_flow))
    expect_same(ours.method.posterior, theirs.method.posterior)
    assert abs(ours.record.prior_gain[0]) < 0.1
    z = np.ones((3, 2), np.float32)
    assert np.all(ours.method.model.prior.log_prob(z) != theirs.method.model.prior.log_prob(z))


def test_a_flow_is_kept_as_it_is(with_flow: Path, tmp_path: Path):
    config = longer(with_flow, prior="kept")
    train_run(config, tmp_path / "run")
    ours, theirs = (load_run(folder) for folder in (tmp_path / "run", with_flow))
    expect_same(ours.method.model.prior, theirs.method.model.prior)
    assert ours.record.prior_gain is None
    train_run(longer(tmp_path / "run", prior="kept"), tmp_path / "again")
    expect_same(load_run(tmp_path / "again").method.model.prior, theirs.method.model.prior)


def test_no_flow_to_keep(trained: Path, tmp_path: Path):
    message = (
        f"start_from: {trained} has other networks (prior: expected flow, got normal): start "
        "from a run of the same method and networks, or train one with its settings"
    )
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        train_run(longer(trained, prior="kept"), tmp_path / "run")


def test_a_run_without_a_flow_does_not_start_from_one_with_it(with_flow: Path, tmp_path: Path):
    message = (
        f"start_from: {with_flow} has other networks (prior: expected normal, got flow): start "
        "from a run of the same method and networks, or train one with its settings"
    )
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        train_run(longer(with_flow, fit=STILL), tmp_path / "run")


def test_an_unknown_prior_is_refused(trained: Path):
    message = "prior: expected one of normal, flow, kept, got 'vamp'"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        longer(trained, prior="vamp")


def test_a_run_with_a_flow_resumes_bit_for_bit_and_draws_the_flow(
    trained: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(_prior, "STEPS", 20)
    config = longer(trained, prior="flow")
    whole = train_run(config, tmp_path / "whole")
    stopped = train_run(config, tmp_path / "run", on_progress=lambda _: True)
    assert stopped.outcome is Outcome.STOPPED
    expect_same(resume_run(tmp_path / "run").method, whole.method)
    expect_same(whole.method.model.prior, stopped.method.model.prior)
    draw_run(load_run(tmp_path / "run"))
    assert (tmp_path / "run" / "latent.png").exists()


def test_other_networks_are_refused(trained: Path, tmp_path: Path):
    message = (
        f"start_from: {trained} has other networks (latent_dim: expected 3, got 2; width: expected "
        "9, got 8): start from a run of the same method and networks, or train one with its "
        "settings"
    )
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        train_run(longer(trained, latent_dim=3, width=9), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_run_to_start_from(tmp_path: Path):
    message = f"{tmp_path / 'none'} is no folder: expected a run that 'avb train' began"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        train_run(longer(tmp_path / "none"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
