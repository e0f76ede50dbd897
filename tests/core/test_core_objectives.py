"""Objectives on a discrete pair of densities, where every expectation is an exact sum.

A loss takes equally weighted draws, so the pair is made of multiples of 1/COUNT: the draws
are the atoms, each repeated as often as its probability says.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avb.objectives import (
    AbstractObjective,
    DonskerVaradhan,
    KLDual,
    LeastSquares,
    Logistic,
    WeightedLogistic,
)

COUNT = 20
ON_Q = np.repeat(np.arange(5), [8, 5, 4, 2, 1])
ON_R = np.repeat(np.arange(5), [2, 3, 5, 4, 6])
TRUTH = jnp.log(jnp.array([8, 5, 4, 2, 1]) / jnp.array([2.0, 3.0, 5.0, 4.0, 6.0]))
LOG_Q = jnp.log(jnp.array([8, 5, 4, 2, 1]) / float(COUNT))
LOG_R = LOG_Q - TRUTH

OBJECTIVES: dict[str, AbstractObjective] = {
    "kl dual": KLDual(),
    "logistic": Logistic(),
    "weighted logistic": WeightedLogistic(),
    "donsker-varadhan": DonskerVaradhan(),
    "least squares": LeastSquares(),
}
each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def loss(objective: AbstractObjective, critic: jax.Array, draws: int = 1) -> jax.Array:
    """The exact loss of a critic given by its values at the five atoms."""
    on_contrast = jnp.tile(critic[ON_R][:, None], (1, draws))
    return objective.loss(critic[ON_Q], on_contrast)


def literal(on_posterior: jax.Array) -> jax.Array:
    """The objective as often written, both expectations under q."""
    return jnp.mean(jnp.exp(on_posterior) - on_posterior)


def minimised(function, start: jax.Array) -> jax.Array:
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(function)

    @jax.jit
    def step(x, state):
        value, slope = value_and_grad(x, state=state)
        updates, state = solver.update(slope, state, x, value=value, grad=slope, value_fn=function)
        return optax.apply_updates(x, updates), state

    x, state = start, solver.init(start)
    for _ in range(60):
        x, state = step(x, state)
    return x


@each_objective
@pytest.mark.parametrize("draws", [1, 3])
def test_gradient_vanishes_at_the_log_ratio(objective, draws):
    slope = jax.grad(lambda critic: loss(objective, critic, draws))(TRUTH)
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


@each_objective
@pytest.mark.parametrize("draws", [1, 3])
def test_loss_is_lowest_at_the_log_ratio(objective, draws, key):
    directions = jax.random.normal(key, (32, 5))
    if isinstance(objective, DonskerVaradhan):
        # Along a constant its loss is level.
        directions = directions - jnp.mean(directions, axis=1, keepdims=True)
    lowest = loss(objective, TRUTH, draws)
    for size in (0.1, 1.0):
        others = jax.vmap(lambda u, s=size: loss(objective, TRUTH + s * u, draws))(directions)
        assert jnp.all(others > lowest)


@each_objective
def test_minimiser_is_the_log_ratio_after_the_offset(objective):
    critic = minimised(lambda critic: loss(objective, critic), jnp.zeros(5))
    critic = critic - objective.offset(critic[ON_R][:, None])
    np.testing.assert_allclose(critic, TRUTH, atol=2e-3)


@pytest.mark.parametrize("constant", [-2.0, 0.0, 5.0])
def test_donsker_varadhan_offset_is_the_constant(constant):
    objective, critic = DonskerVaradhan(), TRUTH + constant
    np.testing.assert_allclose(objective.offset(critic[ON_R][:, None]), constant, atol=1e-6)
    np.testing.assert_allclose(loss(objective, critic), loss(objective, TRUTH), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "donsker-varadhan"])
def test_other_offsets_are_zero(name):
    assert OBJECTIVES[name].offset(jnp.full((4, 3), 7.0)) == 0


def test_donsker_varadhan_is_minus_the_divergence_at_the_log_ratio():
    divergence = jnp.sum(jnp.exp(LOG_Q) * TRUTH)
    np.testing.assert_allclose(loss(DonskerVaradhan(), TRUTH), -divergence, rtol=1e-5)


def test_donsker_varadhan_does_not_overflow():
    values = jnp.array([[500.0, 400.0]])
    assert jnp.isfinite(DonskerVaradhan().loss(jnp.array([500.0]), values))


def test_weighted_logistic_with_one_draw_is_logistic(key):
    critic = jax.random.normal(key, (5,))
    value, slope = jax.value_and_grad(lambda critic: loss(WeightedLogistic(), critic))(critic)
    expected = jax.value_and_grad(lambda critic: loss(Logistic(), critic))(critic)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-6)


def test_weighted_logistic_tends_to_the_kl_dual():
    critic = TRUTH + jnp.array([0.5, -0.3, 0.2, 1.0, -0.7])
    limit = jax.grad(lambda critic: loss(KLDual(), critic))(critic)

    def gap(draws: int) -> float:
        slope = jax.grad(lambda critic: loss(WeightedLogistic(), critic, draws))(critic)
        return float(jnp.linalg.norm(slope - limit))

    gaps = [gap(draws) for draws in (1, 10, 100, 1000, 5000)]
    assert gaps == sorted(gaps, reverse=True)
    # For large m the difference is proportional to 1/m.
    np.testing.assert_allclose(gaps[4], gaps[3] / 5, rtol=0.05)


def test_kl_dual_gives_log_density_minus_one():
    critic = minimised(lambda critic: loss(KLDual(), critic), jnp.zeros(5))
    values = KLDual().log_density_minus_one(critic, LOG_R)
    np.testing.assert_allclose(values, LOG_Q - 1.0, atol=2e-3)


def test_literal_objective_collapses_whatever_the_posterior_is():
    start = TRUTH
    critic = minimised(lambda critic: literal(critic[ON_Q]), start)
    np.testing.assert_allclose(critic, 0.0, atol=2e-3)
    assert literal(critic[ON_Q]) < literal(start[ON_Q])


@pytest.mark.parametrize("objective", [Logistic(), WeightedLogistic()])
def test_logistic_losses_are_finite_at_extreme_values(objective):
    for value in (-1e4, 1e4):
        on_posterior, on_contrast = jnp.full(3, value), jnp.full((3, 2), -value)
        slopes = jax.grad(objective.loss, (0, 1))(on_posterior, on_contrast)
        assert all(jnp.isfinite(slope).all() for slope in slopes)
