"""Models whose evidence is known, with posteriors that are right and wrong on purpose."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.special
from jaxtyping import Array, Float

from avb._types import Datum, Features, Key, Latent
from avb.densities import DiagonalGaussian, FullGaussian
from avb.models import Bernoulli, FixedNormal, LatentVariableModel, PixelNormal, Poisson
from avb.models._latent import standard_normal
from avb.nets import MLPDecoder
from avb.posteriors import AbstractPosterior, AbstractTractablePosterior

WRONG = ("exact", "narrow", "shifted", "diagonal")


class KnownPosterior(AbstractTractablePosterior):
    """A Gaussian whose mean and Cholesky factor a function of the datum gives, flattened.

    Args:
        encoder: From one datum to ``d + d²`` numbers.
        latent_dim: d.
    """

    encoder: Callable
    latent_dim: int = eqx.field(static=True)

    def density(self, features: Features) -> FullGaussian:
        dim = self.latent_dim
        return FullGaussian(features[:dim], features[dim:].reshape(dim, dim))

    def frame(self, features: Features) -> DiagonalGaussian:
        gaussian = self.density(features)
        log_scale = 0.5 * jnp.log(jnp.sum(gaussian.scale_tril**2, axis=1))
        return DiagonalGaussian(gaussian.loc, log_scale)

    def draw(self, features: Features, key: Key) -> Latent:
        return self.density(features).sample(key)


class AffineMoments(eqx.Module):
    """Mean G x + c, and one Cholesky factor for all data."""

    gain: Float[Array, "d x"]
    offset: Float[Array, " d"]
    scale_tril: Float[Array, "d d"]

    def __call__(self, x: Datum) -> Features:
        return jnp.concatenate([self.gain @ x + self.offset, jnp.ravel(self.scale_tril)])


class AffineDecoder(eqx.Module):
    """The mean W z + b of a linear-Gaussian model."""

    weight: Float[Array, "x d"]
    bias: Float[Array, " x"]

    def __call__(self, z: Latent) -> Float[Array, "1 x"]:
        return (self.weight @ z + self.bias)[None, :]


@dataclasses.dataclass(frozen=True)
class Known:
    """A model, posteriors of it by name, and its evidence.

    Attributes:
        model: p(x, z).
        posteriors: By what is wrong with them.
        log_evidence: From data to log p(x) of each, in float64.
    """

    model: LatentVariableModel
    posteriors: dict[str, AbstractPosterior]
    log_evidence: Callable[[np.ndarray], np.ndarray]


def variants(covariance: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A shift of the mean and a Cholesky factor for each way of being wrong.

    Half as wide; off by one marginal standard deviation in every coordinate; the best
    mean-field Gaussian, whose variances are the inverses of the precision's diagonal.
    """
    tril = np.linalg.cholesky(covariance)
    scale = np.sqrt(np.diag(covariance))
    diagonal = np.diag(1.0 / np.sqrt(np.diag(np.linalg.inv(covariance))))
    zero = np.zeros(len(covariance))
    return {
        "exact": (zero, tril),
        "narrow": (zero, 0.5 * tril),
        "shifted": (scale, tril),
        "diagonal": (zero, diagonal),
    }


def linear_gaussian(dim: int, data_dim: int, *, factors: bool = False, seed: int = 0) -> Known:
    """Probabilistic principal components, or factor analysis with a noise for each element."""
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(data_dim, dim)) / np.sqrt(dim)).astype(np.float32)
    bias = rng.normal(size=data_dim).astype(np.float32)
    likelihood: FixedNormal | PixelNormal = FixedNormal(0.5)
    noise = np.full(data_dim, 0.5)
    if factors:
        raw = rng.normal(-0.7, 0.4, size=data_dim).astype(np.float32)
        pixel = PixelNormal((data_dim,))
        likelihood = eqx.tree_at(lambda p: p.raw_scale, pixel, jnp.asarray(raw))
        noise = np.asarray(likelihood.distribution(jnp.zeros((1, data_dim))).scale, np.float64)
    model = LatentVariableModel(
        standard_normal(dim),
        AffineDecoder(jnp.asarray(weight), jnp.asarray(bias)),
        likelihood,
        (data_dim,),
    )
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    scaled = weight / noise[:, None] ** 2
    covariance = np.linalg.inv(np.eye(dim) + weight.T @ scaled)
    gain = covariance @ scaled.T
    marginal = weight @ weight.T + np.diag(noise**2)
    log_det = np.linalg.slogdet(2.0 * np.pi * marginal)[1]

    def log_evidence(x: np.ndarray) -> np.ndarray:
        centred = np.asarray(x, np.float64) - bias
        return -0.5 * (np.sum(centred * np.linalg.solve(marginal, centred.T).T, axis=1) + log_det)

    def posterior(shift: np.ndarray, tril: np.ndarray) -> KnownPosterior:
        arrays = (gain, shift - gain @ bias, tril)
        return KnownPosterior(AffineMoments(*(jnp.asarray(a, jnp.float32) for a in arrays)), dim)

    named = {name: posterior(*made) for name, made in variants(covariance).items()}
    return Known(model, named, log_evidence)


class LogRateMoments(eqx.Module):
    """A Gaussian with the mode of the log rates' posterior and the curvature there, widened."""

    counts: int = eqx.field(static=True)
    shape: float = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __call__(self, x: Datum) -> Features:
        total = self.shape + jnp.sum(x.reshape(-1, self.counts), axis=1)
        scale = jnp.diag(1.0 / jnp.sqrt(total))
        return jnp.concatenate([jnp.log(total / (self.rate + self.counts)), jnp.ravel(scale)])


def gamma_poisson(dim: int = 2, counts: int = 3) -> Known:
    """Counts with conjugate gamma rates, in the logs of the rates: a skewed posterior."""
    shape, rate = 1.5, 0.5
    log_gamma = dist.TransformedDistribution(
        dist.Gamma(shape, rate), dist.transforms.ExpTransform().inv
    )
    prior = log_gamma.expand((dim,)).to_event(1)

    def decoder(z: Latent) -> Float[Array, "1 x"]:
        return jnp.repeat(z, counts)[None, :]

    model = LatentVariableModel(prior, decoder, Poisson(), (dim * counts,))

    def log_evidence(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64)
        total = shape + x.reshape(len(x), dim, counts).sum(axis=2)
        gammaln = scipy.special.gammaln
        each = shape * np.log(rate) - gammaln(shape) + gammaln(total)
        each = each - total * np.log(rate + counts)
        return each.sum(axis=1) - gammaln(x + 1.0).sum(axis=1)

    posterior = KnownPosterior(LogRateMoments(counts, shape, rate), dim)
    return Known(model, {"mode and curvature": posterior}, log_evidence)


class GridMoments(eqx.Module):
    """Mean and covariance of p(z|x) on a coarse grid, for a 2-d latent vector."""

    model: LatentVariableModel
    size: int = eqx.field(static=True, default=61)
    reach: float = eqx.field(static=True, default=5.0)

    def __call__(self, x: Datum) -> Features:
        line = jnp.linspace(-self.reach, self.reach, self.size)
        grid = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
        weights = jax.nn.softmax(jax.vmap(self.model.log_joint, (None, 0))(x, grid))
        mean = weights @ grid
        centred = grid - mean[None, :]
        covariance = (weights[:, None] * centred).T @ centred + 1e-3 * jnp.eye(2)
        return jnp.concatenate([mean, jnp.ravel(jnp.linalg.cholesky(covariance))])


def grid_log_evidence(
    model: LatentVariableModel, x: np.ndarray, *, size: int = 601, reach: float = 7.0
) -> np.ndarray:
    """Log ∫ p(x, z) dz of each row over a 2-d grid; the sums are taken in float64."""
    line = np.linspace(-reach, reach, size)
    cell = 2.0 * np.log(line[1] - line[0])
    rows = jnp.stack([jnp.full(size, 0.0), jnp.asarray(line, jnp.float32)], axis=1)

    @jax.jit
    def of_row(x: Datum, first: Array) -> Array:
        grid = rows + jnp.stack([first, jnp.zeros(())])[None, :]
        return jax.vmap(model.log_joint, (None, 0))(x, grid)

    sweep = jax.jit(lambda x: jax.lax.map(lambda first: of_row(x, first), rows[:, 1]))
    return np.array(
        [scipy.special.logsumexp(np.asarray(sweep(one), np.float64)) + cell for one in x]
    )


def nonlinear(likelihood: str, *, data_dim: int = 20, seed: int = 0) -> Known:
    """A 2-d latent vector through a random network, with several modes for some data."""
    made = Bernoulli() if likelihood == "bernoulli" else FixedNormal(0.5)
    decoder = MLPDecoder(2, (1, data_dim), width=16, depth=2, key=jax.random.key(seed))
    # Random networks are nearly linear; larger first weights bend this one.
    decoder = eqx.tree_at(
        lambda d: [layer.weight for layer in d.layers.layers],
        decoder,
        [3.0 * layer.weight for layer in decoder.layers.layers],
    )
    model = LatentVariableModel(standard_normal(2), decoder, made, (data_dim,))
    posteriors: dict[str, AbstractPosterior] = {
        "grid moments": KnownPosterior(GridMoments(model), 2),
        "prior": KnownPosterior(
            AffineMoments(jnp.zeros((2, data_dim)), jnp.zeros(2), jnp.eye(2)), 2
        ),
    }
    return Known(model, posteriors, lambda x: grid_log_evidence(model, x))
