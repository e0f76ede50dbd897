"""Self contrast: mixtures of a semi-implicit posterior's own conditionals."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import scipy.stats
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._types import Features, Key, Shape
from avb.contrasts._base import AbstractContrast
from avb.densities import DefensiveMixture, GaussianMixture
from avb.densities._points import even_points, shifted_normal
from avb.posteriors import AbstractPosterior, SemiImplicitPosterior


def mixture(
    posterior: SemiImplicitPosterior, features: Features, noise: Float[Array, "k e"]
) -> GaussianMixture:
    """(1/K) Σ_k q(z|x, ε_k) for given mixing variables."""
    return GaussianMixture(posterior.components(features, noise))


class SelfContrast(eqx.Module):
    """The mixture over the draw's own noise and K fresh ones: a bound without a critic.

    With ε₀ the noise that made z, 1/(K+1) Σ_{k=0..K} q(z|x, ε_k) replaces q(z|x): its
    expectation bounds the ELBO from below and tightens as K grows. It is not a density of
    z alone, hence no contrast for a critic: averaged over fresh ε its draws are draws of
    q, and there would be nothing to learn. :class:`AnchoredSelfContrast` is.

    With ``even`` points the set is a randomly shifted Sobol sequence of K points, and every draw
    comes from one of them. Any set will do whose points are each N(0, I), if its draws are
    those of the mixture over the set: E_set KL(mixture ‖ q) ≥ 0. An even set wastes less of
    K, most of all with few noise variables.

    Args:
        num_components: K, the number of fresh mixing variables; they are shared by the
            data of a batch.
        even: Whether they fill the noise space evenly; K is then a power of two.

    Raises:
        ConfigError: K is not positive, or no power of two for even points.

    References:
        Yin & Zhou (2018), https://arxiv.org/abs/1805.11183, eq. 8.
    """

    num_components: int = eqx.field(static=True, default=16)
    even: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.num_components < 1:
            raise ConfigError(
                f"components of the self contrast: expected at least 1, got {self.num_components}"
            )
        if self.even and self.num_components.bit_count() != 1:
            raise ConfigError(
                f"even points of the self contrast: expected a power of two, such as 64, "
                f"got {self.num_components}"
            )

    def noise(
        self, key: Key, noise_dim: int, shape: Shape
    ) -> tuple[Float[Array, "*s e"], Float[Array, "k e"], bool]:
        """Mixing variables of each draw, of the mixture, and whether these hold the former."""
        key_own, key_shared = jax.random.split(key)
        if not self.even:
            shared = jax.random.normal(key_shared, (self.num_components, noise_dim))
            return jax.random.normal(key_own, (*shape, noise_dim)), shared, False
        points = jnp.asarray(even_points(self.num_components, noise_dim))
        shared = shifted_normal(points, key_shared)
        # Successive points are even among themselves: so are the draws of one datum.
        first = jax.random.randint(key_own, (*shape[:-1], 1), 0, self.num_components)
        following = jnp.broadcast_to(jnp.arange(shape[-1]), shape)
        chosen = (first + following) % self.num_components
        return shared[chosen], shared, True


class AnchoredSelfContrast(AbstractContrast):
    """r(z|x) from the conditionals at fixed noise ε₁ … ε_K, which a critic completes.

    Half of r is (1/K) Σ_k q(z|x, ε_k), half the Gaussian with that mixture's mean and
    covariance. The anchors are a low-discrepancy set, so that few of them cover the
    noise. Without the second half, draws of q between the components meet a vanishing r,
    and training runs away towards them.

    Args:
        noise_dim: Mixing variables of the semi-implicit posterior.
        num_components: K; a power of two keeps the set balanced.
        seed: Seed of the Sobol sequence's scrambling.
    """

    anchors: Float[Array, "k e"]
    is_learned: ClassVar[bool] = False

    def __init__(self, noise_dim: int, *, num_components: int = 16, seed: int = 0):
        sampler = scipy.stats.qmc.MultivariateNormalQMC([0.0] * noise_dim, rng=seed)
        self.anchors = jnp.asarray(sampler.random(num_components), jnp.float32)

    def condition(
        self, posterior: AbstractPosterior, prior: dist.Distribution, features: Features, key: Key
    ) -> DefensiveMixture:
        if not isinstance(posterior, SemiImplicitPosterior):
            raise ConfigError(
                "the self contrast needs a semi-implicit posterior, "
                f"got {type(posterior).__name__}; use SemiImplicitPosterior or GaussianContrast"
            )
        narrow = mixture(posterior, features, jax.lax.stop_gradient(self.anchors))
        return DefensiveMixture(narrow, narrow.moments())
