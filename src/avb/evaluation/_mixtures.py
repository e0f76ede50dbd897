"""Mixtures of full-covariance Gaussians: fitted to draws, and with a wide part as a defence."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Key, Latent, Scalar
from avb.densities import AbstractDensity, FullGaussian

EM_STEPS = 20


class FullMixture(AbstractDensity):
    """A mixture of Gaussians with weights and covariances of their own.

    Whitened coordinates use the mixture's own mean and covariance.

    Args:
        log_shares: Log weights of the components, shape ``(k,)``.
        components: The Gaussians, stacked: ``loc`` of shape ``(k, d)`` and ``scale_tril``.
    """

    log_shares: Float[Array, " k"]
    components: FullGaussian

    def component_log_probs(self, z: Latent) -> Float[Array, " k"]:
        """Log of weight times density of each component at one latent vector, in nats."""
        return self.log_shares + jax.vmap(lambda c: c.log_prob(z))(self.components)

    def sample(self, key: Key) -> Latent:
        key_component, key_z = jax.random.split(key)
        index = jax.random.categorical(key_component, self.log_shares)
        return jax.tree.map(lambda leaf: leaf[index], self.components).sample(key_z)

    def log_prob(self, z: Latent) -> Scalar:
        return jax.nn.logsumexp(self.component_log_probs(z))

    def whiten(self, z: Latent) -> Latent:
        shares = jnp.exp(self.log_shares)
        mean = shares @ self.components.loc
        centred = self.components.loc - mean[None, :]
        tril = self.components.scale_tril
        second = tril @ jnp.swapaxes(tril, 1, 2) + centred[:, :, None] * centred[:, None, :]
        covariance = jnp.tensordot(shares, second, axes=1)
        return FullGaussian(mean, jnp.linalg.cholesky(covariance)).whiten(z)


class DefensiveDensity(AbstractDensity):
    """A density that is sharp, and with a small probability a Gaussian that is wide.

    Args:
        sharp: The density that fits.
        wide: A Gaussian that covers what it misses.
        wide_share: Probability of the wide one.
    """

    sharp: AbstractDensity
    wide: FullGaussian
    wide_share: float = eqx.field(static=True)

    def sample(self, key: Key) -> Latent:
        key_choice, key_sharp, key_wide = jax.random.split(key, 3)
        choice = jax.random.bernoulli(key_choice, self.wide_share)
        return jnp.where(choice, self.wide.sample(key_wide), self.sharp.sample(key_sharp))

    def log_prob(self, z: Latent) -> Scalar:
        return jnp.logaddexp(
            self.sharp.log_prob(z) + jnp.log1p(-self.wide_share),
            self.wide.log_prob(z) + jnp.log(self.wide_share),
        )

    def whiten(self, z: Latent) -> Latent:
        return self.wide.whiten(z)


def _spread_out(points: Float[Array, "s d"], count: int, key: Key) -> Float[Array, "k d"]:
    """Points far from each other: each is drawn by its squared distance to the nearest one."""
    key_first, key_rest = jax.random.split(key)
    first = points[jax.random.randint(key_first, (), 0, points.shape[0])]

    def add(nearest, key):
        chosen = points[jax.random.categorical(key, jnp.log(nearest + 1e-12))]
        distance = jnp.sum((points - chosen[None, :]) ** 2, axis=1)
        return jnp.minimum(nearest, distance), chosen

    nearest = jnp.sum((points - first[None, :]) ** 2, axis=1)
    _, rest = jax.lax.scan(add, nearest, jax.random.split(key_rest, count - 1))
    return jnp.concatenate([first[None, :], rest])


def fit_mixture(
    draws: Float[Array, "s d"], frame: FullGaussian, count: int, key: Key
) -> FullMixture:
    """Gaussians fitted to clusters of draws by expectation maximisation, in a frame.

    Args:
        draws: Draws of a posterior for one datum.
        frame: Their mean and covariance; the fit takes place in its whitened coordinates.
        count: Number of components.
        key: PRNG key of the first centres.

    References:
        Arthur & Vassilvitskii (2007), k-means++, for the first centres; Fraley & Raftery
        (2007), J. Classification 24, section 3, for the prior that keeps covariances regular.
    """
    size, dim = draws.shape
    white = jax.vmap(frame.whiten)(draws)
    strength = dim + 2.0
    prior = jnp.eye(dim) * count ** (-2.0 / dim)

    def step(mixture: FullMixture, _):
        log_shares = jax.vmap(mixture.component_log_probs)(white)
        shares = jax.nn.softmax(log_shares, axis=1)
        weight = jnp.sum(shares, axis=0)
        loc = (shares.T @ white) / (weight + 1e-6)[:, None]

        def scatter(share, loc):
            centred = white - loc[None, :]
            return (share[:, None] * centred).T @ centred

        scatters = jax.vmap(scatter, in_axes=(1, 0))(shares, loc)
        covariance = (prior[None] + scatters) / (weight + strength)[:, None, None]
        # An empty component is left where it is, with next to no weight.
        log_weight = jnp.log((weight + 0.1) / (size + 0.1 * count))
        return FullMixture(log_weight, FullGaussian(loc, jnp.linalg.cholesky(covariance))), None

    centres = _spread_out(white, count, key)
    first = jnp.broadcast_to(jnp.sqrt(prior), (count, dim, dim))
    start = FullMixture(jnp.full(count, -jnp.log(float(count))), FullGaussian(centres, first))
    fitted, _ = jax.lax.scan(step, start, length=EM_STEPS)
    components = FullGaussian(
        frame.loc[None, :] + fitted.components.loc @ frame.scale_tril.T,
        frame.scale_tril[None] @ fitted.components.scale_tril,
    )
    return FullMixture(fitted.log_shares, components)
