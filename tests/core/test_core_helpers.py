"""Closed forms that several tests of the core compare with."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from avb._types import Latent
from avb.densities._scale import LOG_SCALE_MAX, LOG_SCALE_MIN, MAX_SHIFT
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.posteriors import FullGaussianPosterior, SemiImplicitPosterior

DATA_DIM, LATENT_DIM, NOISE = 3, 2, 0.6


def assert_same_bits(first: PyTree, second: PyTree) -> None:
    """The same leaves, bit for bit."""
    assert eqx.tree_equal(first, second), "the two trees differ"


def all_finite(tree: PyTree) -> bool:
    """Whether every inexact leaf is finite."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return all(np.isfinite(leaf).all() for leaf in leaves)


class AffineDecoder(eqx.Module):
    """The mean W z + b, in the shape of a likelihood's one parameter."""

    linear: eqx.nn.Linear

    def __call__(self, z: Latent) -> Float[Array, "1 x"]:
        return self.linear(z)[None, :]


def affine(weight: np.ndarray, bias: np.ndarray) -> eqx.nn.Linear:
    """A linear layer with given weights."""
    weight, bias = jnp.asarray(weight, jnp.float32), jnp.asarray(bias, jnp.float32)
    layer = eqx.nn.Linear(weight.shape[1], weight.shape[0], key=jax.random.key(0))
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, bias))


def raw_of_scale(scale: np.ndarray) -> np.ndarray:
    """What ``bounded_scale`` turns into the given scale."""

    def inverse_softplus(y: np.ndarray) -> np.ndarray:
        return np.log(np.expm1(y))

    lifted = LOG_SCALE_MAX - inverse_softplus(LOG_SCALE_MAX - np.log(scale))
    return LOG_SCALE_MIN + inverse_softplus(lifted - LOG_SCALE_MIN)


class Gaussians(eqx.Module):
    """Probabilistic principal components: x = W z + b + σ e, everything known exactly."""

    weight: np.ndarray
    bias: np.ndarray

    def model(self) -> LatentVariableModel:
        decoder = AffineDecoder(affine(self.weight, self.bias))
        likelihood = FixedNormal(NOISE)
        return LatentVariableModel(standard_normal(LATENT_DIM), decoder, likelihood, (DATA_DIM,))

    def posterior_map(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gain G, offset c and covariance of p(z|x) = N(G x + c, Σ)."""
        covariance = np.linalg.inv(np.eye(LATENT_DIM) + self.weight.T @ self.weight / NOISE**2)
        gain = covariance @ self.weight.T / NOISE**2
        return gain, -gain @ self.bias, covariance

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        """log p(x) of each row."""
        covariance = self.weight @ self.weight.T + NOISE**2 * np.eye(DATA_DIM)
        centred = x - self.bias
        squared = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
        return -0.5 * (squared + np.linalg.slogdet(2.0 * np.pi * covariance)[1])

    def elbo(self, x: np.ndarray, loc: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """The ELBO of each row for q(z|x) = N(loc, covariance): log p(x) − KL(q‖p(z|x))."""
        gain, offset, true = self.posterior_map()
        precision = np.linalg.inv(true)
        gap = loc - (x @ gain.T + offset)
        squared = np.einsum("ni,ij,nj->n", gap, precision, gap)
        log_dets = np.linalg.slogdet(true)[1] - np.linalg.slogdet(covariance)[1]
        divergence = 0.5 * (np.trace(precision @ covariance) - LATENT_DIM + squared + log_dets)
        return self.log_evidence(x) - divergence


GAUSSIANS = Gaussians(
    np.array([[1.0, 0.3], [-0.4, 0.8], [0.5, 0.5]]),
    np.array([0.2, -0.1, 0.4]),
)


def data(count: int = 6, *, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Draws from the linear-Gaussian model, or with latent vectors off their prior."""
    rng = np.random.default_rng(0)
    z = mean + scale * rng.normal(size=(count, LATENT_DIM))
    noise = NOISE * rng.normal(size=(count, DATA_DIM))
    return (z @ GAUSSIANS.weight.T + GAUSSIANS.bias + noise).astype(np.float32)


def aggregate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the aggregate posterior, a Gaussian as the data are."""
    gain, offset, covariance = GAUSSIANS.posterior_map()
    x = x.astype(np.float64)
    return gain @ x.mean(0) + offset, covariance + gain @ np.cov(x.T) @ gain.T


def divergence_from_prior(mean: np.ndarray, covariance: np.ndarray) -> float:
    """KL(N(mean, covariance) ‖ N(0, I))."""
    log_det = np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(covariance) + mean @ mean - len(mean) - log_det)


def exact_posterior() -> FullGaussianPosterior:
    """p(z|x) itself, as a posterior of the library."""
    gain, offset, covariance = GAUSSIANS.posterior_map()
    tril = np.linalg.cholesky(covariance)
    scale = np.diag(tril)
    lower = (tril / scale[:, None])[np.tril_indices(LATENT_DIM, -1)]
    constants = np.concatenate([raw_of_scale(scale), lower])
    weight = np.concatenate([gain, np.zeros((len(constants), DATA_DIM))])
    posterior = FullGaussianPosterior(
        jnp.ravel, data_shape=(DATA_DIM,), latent_dim=LATENT_DIM, key=jax.random.key(0)
    )
    head = affine(weight, np.concatenate([offset, constants]))
    return eqx.tree_at(lambda p: p.head, posterior, head)


MIXING = np.array([[0.5, 0.0, 0.2], [-0.3, 0.4, 0.0]])
CONDITIONAL_SCALE = 0.5
# Shifts are bounded in units of the frame's scale; with a wide frame the bound is out of
# reach, and what it bends (a cube of A ε / 20) is below 1e-4.
FRAME_LOG_SCALE = 3.0


def known_mixture() -> tuple[SemiImplicitPosterior, np.ndarray]:
    """z = b(x) + A ε + s η as a semi-implicit posterior, and its covariance A Aᵀ + s² I.

    silu(u) − silu(−u) = u, so a hidden layer of ±ε with output weights ±A is A ε exactly.
    """
    noise_dim = MIXING.shape[1]
    width = 2 * noise_dim
    posterior = SemiImplicitPosterior(
        jnp.ravel,
        data_shape=(DATA_DIM,),
        latent_dim=LATENT_DIM,
        noise_dim=noise_dim,
        width=width,
        key=jax.random.key(0),
    )
    gain, offset, _ = GAUSSIANS.posterior_map()
    rest = np.zeros((LATENT_DIM + width, DATA_DIM))
    wide = np.full(LATENT_DIM, raw_of_scale(np.exp(FRAME_LOG_SCALE)))
    head = affine(np.concatenate([gain, rest]), np.concatenate([offset, wide, np.zeros(width)]))
    signed = jnp.concatenate([jnp.eye(noise_dim), -jnp.eye(noise_dim)])
    shift = np.hstack([MIXING, -MIXING]) / np.exp(FRAME_LOG_SCALE)
    shrink = MAX_SHIFT * np.arctanh((np.log(CONDITIONAL_SCALE) - FRAME_LOG_SCALE) / MAX_SHIFT)
    out = affine(
        np.concatenate([shift, np.zeros((LATENT_DIM, width))]),
        np.concatenate([np.zeros(LATENT_DIM), np.full(LATENT_DIM, shrink)]),
    )
    posterior = eqx.tree_at(
        lambda p: (p.head, p.mix.weight, p.network.layers[0]), posterior, (head, signed, out)
    )
    return posterior, MIXING @ MIXING.T + CONDITIONAL_SCALE**2 * np.eye(LATENT_DIM)


def known_mixture_loc(x: np.ndarray) -> np.ndarray:
    """The mean of the known mixture for each row."""
    gain, offset, _ = GAUSSIANS.posterior_map()
    return x @ gain.T + offset
