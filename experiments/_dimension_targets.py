"""Targets of any dimension whose moments, log Z and draws are exact."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special

LOG_2PI = math.log(2 * math.pi)
DEGREES = 5.0
CORRELATION = 0.9
# Of the mean of all groups, and of the noise of each datum.
MEAN_SCALE, NOISE = 2.0, 1.0
GRID = np.linspace(-8.0, 5.0, 2601)


@dataclasses.dataclass(frozen=True)
class Exact:
    """A log density and all that is known of it.

    Attributes:
        log_density: Of one vector of shape ``(d,)``.
        log_z: Its log integral.
        mean: Shape ``(d,)``.
        covariance: Shape ``(d, d)``.
        draw: From a generator and a number to draws of shape ``(n, d)``.
    """

    log_density: Callable
    log_z: float
    mean: np.ndarray
    covariance: np.ndarray
    draw: Callable[[np.random.Generator, int], np.ndarray]


def _scale_matrix(dim: int) -> np.ndarray:
    """Scales from 0.1 to 10, neighbours correlated by 0.9."""
    scales = np.geomspace(0.1, 10.0, dim)
    return scipy.linalg.toeplitz(CORRELATION ** np.arange(dim)) * np.outer(scales, scales)


def _whitening(matrix: np.ndarray) -> tuple[np.ndarray, Callable, float]:
    """Cholesky factor, squared length in its units, and log determinant of the matrix."""
    factor = np.linalg.cholesky(matrix)
    inverse = jnp.asarray(np.linalg.inv(factor), jnp.float32)
    log_det = 2.0 * float(np.sum(np.log(np.diag(factor))))
    return factor, lambda z: jnp.sum((inverse @ z) ** 2), log_det


def gaussian(dim: int) -> Exact:
    """N(0, Σ), not normalised."""
    matrix = _scale_matrix(dim)
    factor, square, log_det = _whitening(matrix)
    return Exact(
        lambda z: -0.5 * square(z),
        0.5 * (dim * LOG_2PI + log_det),
        np.zeros(dim),
        matrix,
        lambda random, n: random.standard_normal((n, dim)) @ factor.T,
    )


def student(dim: int) -> Exact:
    """Multivariate Student-t of five degrees of freedom with scale matrix Σ, not normalised."""
    matrix = _scale_matrix(dim)
    factor, square, log_det = _whitening(matrix)

    def draw(random: np.random.Generator, n: int) -> np.ndarray:
        shrink = np.sqrt(random.chisquare(DEGREES, (n, 1)) / DEGREES)
        return random.standard_normal((n, dim)) @ factor.T / shrink

    log_z = (
        scipy.special.gammaln(0.5 * DEGREES)
        - scipy.special.gammaln(0.5 * (DEGREES + dim))
        + 0.5 * dim * math.log(DEGREES * math.pi)
        + 0.5 * log_det
    )
    return Exact(
        lambda z: -0.5 * (DEGREES + dim) * jnp.log1p(square(z) / DEGREES),
        float(log_z),
        np.zeros(dim),
        matrix * DEGREES / (DEGREES - 2.0),
        draw,
    )


def hierarchical(dim: int, *, centred: bool) -> Exact:
    """Groups θ_i ~ N(μ, τ²), y_i ~ N(θ_i, 1), with μ ~ N(0, 2²) and v = log τ ~ N(0, 1).

    The vector is v, μ and, of d − 2 groups, θ_i (centred) or (θ_i − μ) / τ. Given v all else is
    Gaussian, so that one-dimensional quadrature over v gives every moment.
    """
    groups = dim - 2
    y = np.random.default_rng(dim).normal(0.0, math.sqrt(1.0 + NOISE**2), groups)
    data = jnp.asarray(y, jnp.float32)

    def log_density(z):
        v, mean, rest = z[0], z[1], z[2:]
        tau = jnp.exp(v)
        theta = rest if centred else mean + tau * rest
        eta = (rest - mean) / tau if centred else rest
        prior = -0.5 * v**2 - 0.5 * (mean / MEAN_SCALE) ** 2 - math.log(MEAN_SCALE) - LOG_2PI
        inner = -0.5 * jnp.sum(eta**2) - 0.5 * groups * LOG_2PI - (groups * v if centred else 0.0)
        return prior + inner - 0.5 * jnp.sum((data - theta) ** 2) - 0.5 * groups * LOG_2PI

    total = np.exp(2 * GRID) + NOISE**2
    precision = MEAN_SCALE**-2 + groups / total
    squares = np.sum(y**2) / total - (np.sum(y) / total) ** 2 / precision
    log_dets = groups * np.log(total) + np.log(MEAN_SCALE**2 * precision)
    logs = -0.5 * (squares + log_dets + groups * LOG_2PI) - 0.5 * GRID**2 - 0.5 * LOG_2PI
    total_weight = np.logaddexp.reduce(logs)
    log_z = float(total_weight + math.log(GRID[1] - GRID[0]))
    weights = np.exp(logs - total_weight)
    moments = _given_scale(y, total, precision, centred=centred)
    mean, covariance = _mixed(weights, *moments)

    def draw(random: np.random.Generator, n: int) -> np.ndarray:
        which = random.choice(len(GRID), n, p=weights)
        middle, spread, offset, slope, width = (part[which] for part in moments)
        mu = middle + np.sqrt(spread) * random.standard_normal(n)
        noise = np.sqrt(width)[:, None] * random.standard_normal((n, groups))
        v = GRID[which] + (GRID[1] - GRID[0]) * random.uniform(-0.5, 0.5, n)
        return np.column_stack([v, mu, offset + slope[:, None] * mu[:, None] + noise])

    return Exact(log_density, log_z, mean, covariance, draw)


def _given_scale(y: np.ndarray, total: np.ndarray, precision: np.ndarray, *, centred: bool):
    """Given v: mean and variance of μ; given μ too, offset, slope in μ and variance of the rest."""
    variance = np.exp(2 * GRID)
    middle = np.sum(y) / total / precision
    if centred:
        offset, slope = variance[:, None] * y / total[:, None], 1.0 / total
        return middle, 1.0 / precision, offset, slope, variance / total
    tau = np.exp(GRID)
    return middle, 1.0 / precision, tau[:, None] * y / total[:, None], -tau / total, 1.0 / total


def _mixed(weights, middle, spread, offset, slope, width) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance over v, from those given v."""
    means = np.column_stack([GRID, middle, offset + (slope * middle)[:, None]])
    mean = weights @ means
    centred = means - mean
    covariance = (weights[:, None] * centred).T @ centred
    covariance[1, 1] += weights @ spread
    covariance[1, 2:] += weights @ (slope * spread)
    covariance[2:, 1] += weights @ (slope * spread)
    covariance[2:, 2:] += weights @ (slope**2 * spread)
    covariance[2:, 2:] += weights @ width * np.eye(offset.shape[1])
    return mean, covariance


TARGETS: dict[str, Callable[[int], Exact]] = {
    "correlated Gaussian": gaussian,
    "Student-t, 5 degrees": student,
    "hierarchical, non-centred": lambda dim: hierarchical(dim, centred=False),
    "hierarchical, centred": lambda dim: hierarchical(dim, centred=True),
}
