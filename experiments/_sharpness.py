"""A decoder that may be less certain of one image than of another.

The logits of an image are multiplied by one of several factors, drawn for the whole image: p(x|z)
is a mixture of Bernoulli likelihoods, Σ_k π_k p(x|t_k · logits), and so p(x) = Σ_k π_k p_k(x) with
p_k the model with factor t_k throughout. The weights π are fitted to images that the networks were
not trained on: those that they were trained on are known too well to need a factor below one.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from scipy.special import logsumexp

from avb.models import FamilyLikelihood, LatentVariableModel

FACTORS = (1.0, 0.85, 0.7, 0.55)
# Expectation maximisation of one categorical distribution settles well before.
FITTING_STEPS = 1000
LEAST_WEIGHT = 1e-6


class MixedSharpness(eqx.Module):
    """The family of distributions of an image, from its logits.

    Attributes:
        weights: π, of shape ``(k,)``.
        factors: t, of shape ``(k,)``.
    """

    weights: Float[Array, " k"]
    factors: Float[Array, " k"]

    def __call__(self, logits: Float[Array, "1 ..."]) -> dist.Distribution:
        factors = self.factors.reshape(-1, *(1,) * (logits.ndim - 1))
        components = dist.BernoulliLogits(factors * logits).to_event(logits.ndim - 1)
        return dist.MixtureSameFamily(dist.Categorical(self.weights), components)


def with_sharpness(
    model: LatentVariableModel, weights: tuple[float, ...], factors: tuple[float, ...] = FACTORS
) -> LatentVariableModel:
    """The model of binary images with such a mixture in place of its Bernoulli likelihood."""
    family = MixedSharpness(jnp.asarray(weights), jnp.asarray(factors))
    return eqx.tree_at(lambda model: model.likelihood, model, FamilyLikelihood(family, 1))


def fit_weights(evidence: np.ndarray) -> tuple[float, ...]:
    """The weights π under which data are likeliest.

    Args:
        evidence: Log p_k(x) of each datum under each factor, of shape ``(n, k)``.
    """
    weights = np.full(evidence.shape[1], 1 / evidence.shape[1])
    for _ in range(FITTING_STEPS):
        joint = evidence + np.log(weights)
        shares = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        weights = np.maximum(np.mean(shares, axis=0), LEAST_WEIGHT)
    return tuple(float(weight) for weight in weights / np.sum(weights))
