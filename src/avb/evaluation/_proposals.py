"""Tractable proposals for importance weighting, fitted to draws of any posterior.

A proposal is fitted with draws and keys of its own, so that whatever it turns out to be, the
samples that are weighted are independent draws from it and the bound is exact.
"""

import abc
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flowjax.distributions import Normal, Transformed
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._types import Features, Key, Latent
from avb.contrasts import FlowContrast
from avb.densities import AbstractDensity, FullGaussian
from avb.evaluation._mixtures import DefensiveDensity, FullMixture, fit_mixture
from avb.posteriors import AbstractPosterior
from avb.posteriors._base import feature_size

ProposalName = Literal["gaussian", "mixture", "flow"]
PROPOSALS: tuple[ProposalName, ...] = ("gaussian", "mixture", "flow")

# The posterior that training finds is narrower than the true one; a proposal must not be.
WIDEN = 1.2
# The part of a mixture or flow that covers what the fit to draws may have missed.
WIDE_SHARE = 0.1
WIDE_SCALE = 2.0
FITTING_DRAWS = 256
MIXTURE_DRAWS = 512
MIXTURE_COMPONENTS = 8
FLOW_STEPS, FLOW_BATCH, FLOW_DRAWS, FLOW_RATE = 1000, 32, 8, 2e-3


def posterior_draws(
    posterior: AbstractPosterior, features: Features, key: Key, count: int
) -> Float[Array, "s d"]:
    """Several draws for one datum."""
    keys = jax.random.split(key, count)
    return jax.vmap(posterior.draw, in_axes=(None, 0))(features, keys)


def moments(draws: Float[Array, "s d"], widen: float) -> FullGaussian:
    """The Gaussian with the mean and full covariance of draws, its scale widened."""
    loc = jnp.mean(draws, axis=0)
    centred = draws - loc[None, :]
    gaussian = of_moments(loc, centred.T @ centred / (draws.shape[0] - 1))
    return FullGaussian(loc, widen * gaussian.scale_tril)


def of_moments(loc: Latent, covariance: Float[Array, "d d"]) -> FullGaussian:
    """The Gaussian with these moments; a trace of jitter lets a singular covariance pass."""
    jitter = jnp.diag(1e-4 * jnp.diagonal(covariance) + 1e-10)
    return FullGaussian(loc, jnp.linalg.cholesky(covariance + jitter))


class AbstractProposal(eqx.Module):
    """For each datum, a density to draw importance samples from."""

    title: eqx.AbstractClassVar[str]

    @abc.abstractmethod
    def condition(
        self, posterior: AbstractPosterior, features: Features, key: Key
    ) -> AbstractDensity:
        """The density for one datum; the key is for draws that it is fitted to."""


class GaussianProposal(AbstractProposal):
    """The moments of posterior draws, full covariance, widened."""

    widen: float = eqx.field(static=True, default=WIDEN)
    title: ClassVar[str] = "Gaussian"

    def condition(self, posterior: AbstractPosterior, features: Features, key: Key) -> FullGaussian:
        return moments(posterior_draws(posterior, features, key, FITTING_DRAWS), self.widen)


class MixtureProposal(AbstractProposal):
    """Gaussians fitted to clusters of posterior draws, widened, and one wide Gaussian.

    References:
        Hesterberg (1995), Technometrics 37(2), for the defensive part.
    """

    widen: float = eqx.field(static=True, default=WIDEN)
    title: ClassVar[str] = "mixture"

    def condition(
        self, posterior: AbstractPosterior, features: Features, key: Key
    ) -> DefensiveDensity:
        key_draws, key_fit = jax.random.split(key)
        draws = posterior_draws(posterior, features, key_draws, MIXTURE_DRAWS)
        wide = moments(draws, WIDE_SCALE)
        narrow = fit_mixture(draws, moments(draws, 1.0), MIXTURE_COMPONENTS, key_fit)
        components = FullGaussian(narrow.components.loc, self.widen * narrow.components.scale_tril)
        widened = FullMixture(narrow.log_shares, components)
        return DefensiveDensity(widened, wide, WIDE_SHARE)


class FlowProposal(AbstractProposal):
    """A conditional flow fitted to posterior draws of all data, and one wide Gaussian."""

    contrast: FlowContrast
    title: ClassVar[str] = "flow"

    def condition(
        self, posterior: AbstractPosterior, features: Features, key: Key
    ) -> DefensiveDensity:
        # The prior plays no part in a flow contrast.
        density = self.contrast.condition(posterior, None, features, key)  # pyright: ignore
        wide = moments(posterior_draws(posterior, features, key, FITTING_DRAWS), WIDE_SCALE)
        return DefensiveDensity(density, wide, WIDE_SHARE)


@eqx.filter_jit
def _fit_flow(
    contrast: FlowContrast, posterior: AbstractPosterior, data: Float[Array, "n ..."], key: Key
) -> FlowContrast:
    """The flow after maximum likelihood on fresh draws for random data."""
    parameters, static = eqx.partition(contrast, eqx.is_inexact_array)
    optimiser = optax.chain(
        optax.clip_by_global_norm(10.0),
        optax.adam(optax.cosine_decay_schedule(FLOW_RATE, FLOW_STEPS)),
    )

    def loss(parameters, key: Key):
        contrast = eqx.combine(parameters, static)
        key_data, key_draws = jax.random.split(key)
        index = jax.random.randint(key_data, (FLOW_BATCH,), 0, len(data))

        def datum(x, key):
            features = posterior.encoder(x)
            density = contrast.condition(posterior, None, features, key)
            draws = posterior_draws(posterior, features, key, FLOW_DRAWS)
            return jnp.mean(jax.vmap(density.log_prob)(draws))

        return -jnp.mean(jax.vmap(datum)(data[index], jax.random.split(key_draws, FLOW_BATCH)))

    def step(carry, key):
        parameters, state = carry
        updates, state = optimiser.update(jax.grad(loss)(parameters, key), state)
        return (optax.apply_updates(parameters, updates), state), None

    start = (parameters, optimiser.init(parameters))
    (parameters, _), _ = jax.lax.scan(step, start, jax.random.split(key, FLOW_STEPS))
    fitted: FlowContrast = eqx.combine(parameters, static)  # pyright: ignore
    return fitted


def _widen_flow(contrast: FlowContrast, widen: float) -> FlowContrast:
    """The same flow from a base of larger scale."""
    base = Normal(jnp.zeros(contrast.head.latent_dim), widen)
    flow = Transformed(base, contrast.head.flow.bijection)
    return eqx.tree_at(lambda c: c.head.flow, contrast, flow)


def fit_proposal(
    name: ProposalName, posterior: AbstractPosterior, data: np.ndarray, *, key: Key
) -> AbstractProposal:
    """What a proposal has to learn from all data; the rest is fitted datum by datum.

    Args:
        name: ``"gaussian"``, ``"mixture"`` or ``"flow"``.
        posterior: q(z|x), only sampled.
        data: Shape ``(n, *data_shape)``; a flow is amortised over them.
        key: PRNG key.

    Raises:
        ConfigError: Another name, or a flow over a single latent dimension.
    """
    if name == "gaussian":
        return GaussianProposal()
    if name == "mixture":
        return MixtureProposal()
    if name != "flow":
        raise ConfigError(
            f"proposal of importance weighting: expected one of {', '.join(PROPOSALS)}, "
            f"got {name!r}"
        )
    if posterior.latent_dim < 2:
        raise ConfigError(
            "a flow proposal needs at least 2 latent dimensions, got 1; use 'gaussian' or 'mixture'"
        )
    key_flow, key_fit = jax.random.split(key)
    size = feature_size(posterior.encoder, data.shape[1:])
    contrast = FlowContrast(size, posterior.latent_dim, key=key_flow)
    contrast = _fit_flow(contrast, posterior, jnp.asarray(data, jnp.float32), key_fit)
    return FlowProposal(_widen_flow(contrast, WIDEN))
