"""Runs side by side against runs by themselves, and the pieces of the grid over critics."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import _grid, _grid_problems, _grid_report
from experiments._seeds import one_of, start_runs, stretches, train_runs
from experiments.cost import time_to

from avb import Architecture, FitConfig, avb_adaptive
from avb.training import DeviceData, Rates, init, run
from avb.training._step import Inputs

CONFIG = FitConfig(epochs=4, batch_size=16, max_skipped=3)
RATES = (5e-4, 4e-3, 4e-3)


def make(key, scale=1.0):
    method = avb_adaptive(Architecture((6,), latent_dim=2, width=8, depth=1), key=key)
    return eqx.tree_at(lambda m: m.critic.output.bias, method, replace_fn=lambda b: b * scale)


def leaves(method) -> np.ndarray:
    arrays = jax.tree.leaves(eqx.filter(method, eqx.is_inexact_array))
    return np.concatenate([np.ravel(leaf) for leaf in arrays])


@pytest.fixture(scope="module")
def data():
    raw = np.random.default_rng(0).integers(0, 256, (40, 6)).astype(np.uint8)
    return DeviceData(raw, "binarise", CONFIG.batch_size)


@pytest.fixture(scope="module")
def side_by_side(data):
    """Two sound runs of one seed at two critic rates, and one that is broken from the start."""
    keys = jnp.stack([jax.random.key(3)] * 3)
    states = start_runs(make, keys, data, CONFIG, jnp.asarray([1.0, 1.0, jnp.nan]))
    rates = Rates(jnp.full(3, CONFIG.learning_rate), jnp.asarray(RATES))
    return train_runs(states, data, CONFIG, rates=rates)


def test_a_run_beside_others_is_the_run_by_itself(data, side_by_side):
    states, _ = side_by_side
    config = dataclasses.replace(CONFIG, critic_learning_rate=RATES[0])
    key_method, key_run = jax.random.split(jax.random.key(3))
    state = init(make(key_method), data, config, key=key_run)
    steps = jnp.asarray(CONFIG.epochs * data.steps_per_epoch, jnp.int32)
    alone = run(Inputs(data, config, steps), state)
    beside, other = one_of(states, 0), one_of(states, 1)
    assert int(beside.step) == int(alone.step)
    assert np.array_equal(beside.order, alone.order)
    # Adam takes a step of up to the rate from any gradient, however small its rounding error.
    distance = np.abs(leaves(beside.method) - leaves(alone.method)).max()
    assert distance < 0.02 * CONFIG.learning_rate
    assert np.abs(leaves(beside.method) - leaves(other.method)).max() > 2 * CONFIG.learning_rate


def test_a_run_that_gives_up_is_told_apart(side_by_side):
    states, gave_up = side_by_side
    assert gave_up.tolist() == [False, False, True]
    assert states.faults.in_a_row.tolist() == [0, 0, 8]


@pytest.mark.parametrize("total", [1, 9, 10, 25, 900])
def test_stretches_cover_all_steps(total):
    covered = [step for start, stop in stretches(total) for step in range(start, stop)]
    assert covered == list(range(total))


@pytest.mark.parametrize("number", range(5))
def test_chosen_objective_is_that_objective(key, number):
    on_q, on_r = 2.0 * jax.random.normal(key, (7,)), jax.random.normal(key, (7, 3))
    chosen = _grid.Chosen(jnp.asarray(number))
    known = list(_grid.OBJECTIVES.values())[number]
    np.testing.assert_allclose(chosen.loss(on_q, on_r), known.loss(on_q, on_r), rtol=1e-6)
    np.testing.assert_allclose(chosen.offset(on_r), known.offset(on_r), rtol=1e-6, atol=1e-7)
    slope, expected = (jax.grad(objective.loss)(on_q, on_r) for objective in (chosen, known))
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_chosen_objective_ignores_where_others_overflow():
    on_q, on_r = jnp.asarray([200.0]), jnp.asarray([[200.0]])
    chosen = _grid.Chosen(jnp.asarray(list(_grid.OBJECTIVES).index("logistic")))
    assert np.isinf(_grid.OBJECTIVES["KL dual"].loss(on_q, on_r))
    value, slope = jax.value_and_grad(chosen.loss, argnums=1)(on_q, on_r)
    assert np.isfinite(value)
    np.testing.assert_allclose(slope, 1.0)


def test_divergence_over_cells_is_that_of_gaussians():
    rng = np.random.default_rng(0)
    white = rng.standard_normal((2**18, 2))
    mean, scale = np.array([0.3, -0.2]), np.array([0.8, 1.2])
    exact = np.sum(0.5 * (scale**2 + mean**2 - 1.0) - np.log(scale))
    log_ratio = -0.5 * white**2 - np.log(scale) + 0.5 * (mean + scale * white) ** 2
    error = np.std(log_ratio.sum(axis=1)) / np.sqrt(len(white))
    found = _grid_problems.divergence_from_normal(mean + scale * white)
    # Cells of a fifth of a standard deviation lose 1% of it.
    assert -0.01 * exact - 4 * error < found - exact < 4 * error
    assert abs(_grid_problems.divergence_from_normal(white)) < 1e-3


def test_straightened_banana_is_a_standard_normal(key):
    z = 2.0 * jax.random.normal(key, (50, 2))
    bent = (z[:, 1] - 0.5 * (z[:, 0] ** 2 - 4.0)) / 0.5
    u = jnp.stack([z[:, 0] / 2.0, bent], axis=1)
    log_normal = jnp.sum(jax.scipy.stats.norm.logpdf(u), axis=1)
    method = _grid_problems.banana_base(key)
    log_joint = jax.vmap(lambda z: method.model.log_joint(jnp.zeros(1), z))(z)
    np.testing.assert_allclose(log_joint, log_normal, rtol=1e-4, atol=1e-3)


def test_grid_holds_the_default_and_each_change_of_it_once():
    default = _grid_problems.PROBLEMS["digits"].default
    found = _grid.programs(default)
    cells = [cell for group in found.values() for cell in group]
    assert (len(found), len(cells), len(set(cells))) == (6, 42, 42)
    assert default in cells
    assert not [name for name, change in _grid_report.settings() if change(default) not in cells]


def test_summary_counts_failures_below_the_best_cell():
    problem = _grid_problems.PROBLEMS["digits"]

    def of(*qualities):
        return [{"quality": quality, "gave_up": False} for quality in qualities]

    other = problem.default._replace(rate=2.0)
    worst = problem.default._replace(rate=4.0)
    runs = {problem.default: of(-20.0, -20.2), other: of(-19.9, -21.0), worst: of(-20.0, -20.0)}
    runs[worst][0]["gave_up"] = True
    summary = _grid_report.Summary.of(problem, runs)
    assert summary.best == problem.default
    assert summary.failed == {problem.default: 0, other: 0, worst: 1}
    assert summary.below(other) == pytest.approx(0.35)
    assert summary.share() == pytest.approx(5 / 6)
    assert summary.below(worst) == np.inf


def test_time_to_a_level_is_interpolated():
    curve = [[1, 1.0, -30.0], [2, 2.0, -20.0], [3, 3.0, -22.0]]
    assert time_to(curve, -25.0) == pytest.approx(1.5)
    assert time_to(curve, -40.0) == 1.0
    assert time_to(curve, -10.0) is None
