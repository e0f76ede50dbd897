"""A linear-Gaussian model with a semi-implicit posterior that is Gaussian: its ELBO is known."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._types import Latent
from avb.densities._scale import LOG_SCALE_MAX, LOG_SCALE_MIN, MAX_SHIFT
from avb.evaluation import elbo_bracket
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.posteriors import SemiImplicitPosterior


class AffineDecoder(eqx.Module):
    """The mean W z + b of a linear-Gaussian model."""

    linear: eqx.nn.Linear

    def __call__(self, z: Latent) -> Float[Array, "1 x"]:
        """Likelihood parameters of one latent vector."""
        return self.linear(z)[None, :]


def affine(weight: np.ndarray, bias: np.ndarray) -> eqx.nn.Linear:
    """A linear layer with given weights."""
    layer = eqx.nn.Linear(weight.shape[1], weight.shape[0], key=jax.random.key(0))
    arrays = (jnp.asarray(weight, jnp.float32), jnp.asarray(bias, jnp.float32))
    return eqx.tree_at(lambda linear: (linear.weight, linear.bias), layer, arrays)


def raw_of_log_scale(log_scale: float) -> float:
    """What ``bounded_log_scale`` turns into a given log scale."""
    lifted = LOG_SCALE_MAX - math.log(math.expm1(LOG_SCALE_MAX - log_scale))
    return LOG_SCALE_MIN + math.log(math.expm1(lifted - LOG_SCALE_MIN))


def known_mixture(
    loc: np.ndarray, mixing: np.ndarray, scale: float, data_dim: int
) -> SemiImplicitPosterior:
    """A semi-implicit posterior that is z = loc + A ε + s η.

    silu(u) − silu(−u) = u: a hidden layer of ±ε with output weights ±A is A ε. Shifts are
    bounded in units of the frame's scale, e^3.5 times that of η here: the bound changes A ε by
    less than a thousandth.
    """
    dim, noise_dim = mixing.shape
    frame, width = math.log(scale) + 3.5, 2 * noise_dim
    posterior = SemiImplicitPosterior(
        jnp.ravel,
        data_shape=(data_dim,),
        latent_dim=dim,
        noise_dim=noise_dim,
        width=width,
        key=jax.random.key(0),
    )
    constants = np.concatenate([loc, np.full(dim, raw_of_log_scale(frame)), np.zeros(width)])
    shift = np.hstack([mixing, -mixing]) / math.exp(frame)
    shrink = MAX_SHIFT * math.atanh((math.log(scale) - frame) / MAX_SHIFT)
    out = affine(
        np.vstack([shift, np.zeros((dim, width))]),
        np.concatenate([np.zeros(dim), np.full(dim, shrink)]),
    )
    signed = jnp.concatenate([jnp.eye(noise_dim), -jnp.eye(noise_dim)])
    head = affine(np.zeros((len(constants), data_dim)), constants)
    return eqx.tree_at(
        lambda q: (q.head, q.mix.weight, q.network.layers[0]), posterior, (head, signed, out)
    )


def bracket(components: tuple[int, ...], draws_a_datum: int) -> dict:
    """The bracket of a known mixture and its exact ELBO."""
    rng = np.random.default_rng(0)
    dim, data_dim, noise = 4, 6, 0.7
    weight, bias = rng.normal(size=(data_dim, dim)) / 2, rng.normal(size=data_dim)
    x = (weight @ rng.normal(size=dim) + bias + noise * rng.normal(size=data_dim))[None, :]
    # Near the true posterior the draws vary little, and the bracket is put to a sharp test.
    true = np.linalg.inv(np.eye(dim) + weight.T @ weight / noise**2)
    loc = true @ weight.T @ (x[0] - bias) / noise**2 + 0.1
    scale = math.sqrt(0.3 * np.linalg.eigvalsh(true)[0])
    mixing = 0.9 * np.linalg.cholesky(true - scale**2 * np.eye(dim))
    model = LatentVariableModel(
        standard_normal(dim), AffineDecoder(affine(weight, bias)), FixedNormal(noise), (data_dim,)
    )
    covariance = mixing @ mixing.T + scale**2 * np.eye(dim)
    residual = x[0] - bias - weight @ loc
    squared = residual @ residual + np.trace(weight @ covariance @ weight.T)
    log_likelihood = -0.5 * (squared / noise**2 + data_dim * math.log(2 * math.pi * noise**2))
    log_prior = -0.5 * (loc @ loc + np.trace(covariance) + dim * math.log(2 * math.pi))
    entropy = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * covariance)[1]
    exact = float(log_likelihood + log_prior + entropy)

    posterior = known_mixture(loc, mixing, scale, data_dim)
    rows = []
    for count in components:
        lower, upper = elbo_bracket(
            model, posterior, x, key=jax.random.key(1), draws=draws_a_datum, components=count
        )
        rows.append(
            {
                "components": count,
                "lower": lower.mean,
                "lower_error": lower.standard_error,
                "upper": upper.mean,
                "upper_error": upper.standard_error,
                "contains": lower.mean - 3 * lower.standard_error
                <= exact
                <= upper.mean + 3 * upper.standard_error,
            }
        )
    return {"exact": exact, "rows": rows}
