"""Pictures of bounds, weights and posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb import ConfigError
from avb.evaluation import Estimate
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.posteriors import GaussianPosterior, ImplicitPosterior
from avb.report import draw_annealing, draw_bracket, draw_posterior_grid, draw_weights
from avb.report._posterior_grid import _exact

PNG = b"\x89PNG"
NOISE = 0.5


def bounds(kind: str, *means: float) -> list[Estimate]:
    error = np.full(3, 0.1)
    return [Estimate("ELBO", kind, "by hand", np.full(3, mean), error, "") for mean in means]


LOWER, UPPER = bounds("lower bound", -3.0, -2.0), bounds("upper bound", -1.0, -1.5)


def weighted(**weights: np.ndarray) -> Estimate:
    return Estimate("log p(x)", "lower bound", "by hand", np.zeros(4), np.zeros(4), "d", **weights)


def double(z):
    return 2.0 * z[None, :]


def model(dim: int) -> LatentVariableModel:
    """x = 2 z + noise in each dimension."""
    return LatentVariableModel(standard_normal(dim), double, FixedNormal(NOISE), (dim,))


def test_bracket_is_drawn(tmp_path):
    draw_bracket(tmp_path / "a.png", [16, 4], LOWER, UPPER)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(("upper", "truth"), [(None, None), (UPPER, -1.7)])
def test_annealing_is_drawn(upper, truth, tmp_path):
    draw_annealing(tmp_path / "a.png", [10, 100], LOWER, upper, truth)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("k", [[0.1, 0.2, 0.3, 0.4], [0.1, 0.8, 1.5, 0.2]])
def test_weights_are_drawn(k, tmp_path):
    effective = np.array([90.0, 80.0, 1.2, 50.0])
    draw_weights(tmp_path / "a.png", weighted(pareto_k=np.array(k), effective=effective))
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("kind", [GaussianPosterior, ImplicitPosterior])
def test_posteriors_are_drawn(kind, tmp_path, key):
    posterior = kind(jnp.ravel, data_shape=(2,), latent_dim=2, key=key)
    data = np.array([[0.0, 0.0], [1.0, -2.0]])
    draw_posterior_grid(tmp_path / "a.png", model(2), posterior, data, key)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_evidence_of_the_grid_is_exact():
    """Independent dimensions: x_j ~ N(0, 4 + noise²). The draws stand far from the posterior."""
    x = np.array([1.0, -2.0], np.float32)
    variance = 4.0 + NOISE**2
    expected = -0.5 * np.sum(x**2) / variance - np.log(2.0 * np.pi * variance)
    draws = 3.0 + np.random.default_rng(0).normal(size=(50, 2))
    np.testing.assert_allclose(_exact(model(2), x, draws).log_mass, expected, atol=1e-4)


def test_what_cannot_be_drawn_is_refused(tmp_path, key):
    path = tmp_path / "a.png"
    posterior = GaussianPosterior(jnp.ravel, data_shape=(3,), latent_dim=3, key=jax.random.key(0))

    def message(draw, *arguments) -> str:
        with pytest.raises(ConfigError) as caught:
            draw(path, *arguments)
        assert not path.exists()
        return str(caught.value)

    assert message(draw_bracket, [4, 16, 64], LOWER, UPPER) == (
        "picture of the bracket: expected one estimate for each of 3 budgets, at least one, "
        "got 2 and 2"
    )
    assert message(draw_annealing, [0, 10], LOWER) == (
        "picture of annealing: expected positive budgets, got 0"
    )
    assert message(draw_weights, weighted()) == (
        "picture of weights: expected an estimate with pareto_k and effective, as "
        "importance_bound gives, got one by by hand"
    )
    assert message(draw_posterior_grid, model(3), posterior, np.zeros((1, 3)), key) == (
        "picture of posteriors: expected a model with 2 latent dimensions, got 3"
    )
    assert message(draw_posterior_grid, model(2), posterior, np.zeros((6, 2)), key) == (
        "picture of posteriors: expected at most 5 data, got 6; pass data[:5]"
    )
