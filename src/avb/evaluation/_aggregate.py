"""The aggregate posterior q(z) = 1/N Σ_i q(z|x_i), and log densities at draws of its parts."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._check import expect_positive
from avb._errors import ConfigError
from avb._types import Key, Latent, Scalar
from avb.contrasts._self import mixture
from avb.evaluation._batched import over_batches
from avb.posteriors import AbstractPosterior, AbstractTractablePosterior, SemiImplicitPosterior

COMPONENTS_AT_ONCE = 128


class Pool(eqx.Module):
    """The data in the aggregate posterior, and what evaluates q(z|x) of each.

    Attributes:
        posterior: q(z|x).
        features: Those of all data, shape ``(n, f)``.
        order: The data of the pool, shape ``(m,)``.
        place: Of every datum its place in the pool, m or more outside it; shape ``(n,)``.
        key: Of the mixing variables of a semi-implicit posterior, which depend on it and on
            the datum alone.
        components: K, their number for each datum.
    """

    posterior: AbstractTractablePosterior | SemiImplicitPosterior
    features: Float[Array, "n f"]
    order: Array
    place: Array
    key: Key
    components: int = eqx.field(static=True)

    @property
    def is_whole(self) -> bool:
        """Whether all data are in the pool."""
        return self.order.shape[0] == self.place.shape[0]

    def noise(self, index: Array) -> Float[Array, "k e"]:
        """The mixing variables that stand for a datum."""
        assert isinstance(self.posterior, SemiImplicitPosterior)
        key = jax.random.fold_in(self.key, index)
        return jax.random.normal(key, (self.components, self.posterior.noise_dim))

    def log_q(self, index: Array, z: Latent) -> Scalar:
        """The log density of a datum's q at any z, or of the mixture that stands for it."""
        features = self.features[index]
        if isinstance(self.posterior, AbstractTractablePosterior):
            return self.posterior.density(features).log_prob(z)
        return mixture(self.posterior, features, self.noise(index)).log_prob(z)

    def draw(self, index: Array, key: Key) -> tuple[Latent, Scalar, Scalar]:
        """A draw z of q(z|x), and log q(z|x) twice.

        Both are exact where there is a density. Else the first is the fresh mixture, and in
        the second the component that made z replaces one of the mixture.
        """
        features = self.features[index]
        if isinstance(self.posterior, AbstractTractablePosterior):
            density = self.posterior.density(features)
            z = density.sample(key)
            return z, density.log_prob(z), density.log_prob(z)
        key_noise, key_z = jax.random.split(key)
        own = jax.random.normal(key_noise, (self.posterior.noise_dim,))
        z = self.posterior.conditional(features, own).sample(key_z)
        with_own = self.noise(index).at[-1].set(own)
        return z, self.log_q(index, z), mixture(self.posterior, features, with_own).log_prob(z)


class Logs(NamedTuple):
    """Logs of densities at one draw z of q(z|x); of semi-implicit ones, of their mixtures.

    Attributes:
        conditional: log q(z|x), from fresh components.
        conditional_own: log q(z|x), from a set with the component that made z.
        left_in: log q(z), the datum itself in the pool, its fresh components.
        left_in_own: The same with the component that made z.
        drawn: log q(z) from the pool as drawn, be the datum in it or not.
    """

    conditional: Scalar
    conditional_own: Scalar
    left_in: Scalar
    left_in_own: Scalar
    drawn: Scalar


def draw_logs(pool: Pool, index: Array, key: Key) -> tuple[Latent, Logs]:
    """One draw of q(z|x_i) against the pool; the pool is passed a few data at a time."""
    z, fresh, own = pool.draw(index, key)
    size = pool.order.shape[0]
    at_once = max(1, min(size, COMPONENTS_AT_ONCE // pool.components))
    place = pool.place[index]

    def add(total, start):
        places = start + jnp.arange(at_once)
        # The last of the pool makes room for the datum where that is not in it.
        kept = (places != place) & (places < size - 1)
        log_qs = jax.vmap(lambda j: pool.log_q(j, z))(pool.order[jnp.minimum(places, size - 1)])
        return jnp.logaddexp(total, jax.nn.logsumexp(jnp.where(kept, log_qs, -jnp.inf))), None

    starts = at_once * jnp.arange(-(-size // at_once))
    others, _ = jax.lax.scan(add, jnp.full((), -jnp.inf), starts)
    last = pool.log_q(pool.order[-1], z)
    others = jnp.where(place < size - 1, jnp.logaddexp(others, last), others)
    left_in = jnp.logaddexp(others, fresh)
    drawn = jnp.where(place < size, left_in, jnp.logaddexp(others, last))
    log_size = jnp.log(float(size))
    return z, Logs(
        fresh, own, left_in - log_size, jnp.logaddexp(others, own) - log_size, drawn - log_size
    )


@eqx.filter_jit
def _features(posterior: AbstractPosterior, x, keys):
    return jax.vmap(posterior.encoder)(jnp.asarray(x))


def make_pool(
    what: str,
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    mixture_size: int | None,
    components: int,
    batch_size: int,
) -> Pool:
    """The aggregate posterior's parts, after the settings were checked."""
    if not isinstance(posterior, AbstractTractablePosterior | SemiImplicitPosterior):
        raise ConfigError(
            f"{what} needs a posterior whose density is known or bounded, got "
            f"{type(posterior).__name__}: use a posterior with a density or a "
            "SemiImplicitPosterior"
        )
    expect_positive(f"components of {what}", components)
    count = len(data)
    size = count if mixture_size is None else mixture_size
    if not 1 <= size <= count:
        raise ConfigError(
            f"mixture_size of {what}: expected 1 to {count}, the number of data, got {size}"
        )
    key_order, key_noise = jax.random.split(key)
    order = np.arange(count)
    if size < count:
        order = np.asarray(jax.random.permutation(key_order, count))
    features = over_batches(
        lambda x, keys: _features(posterior, x, keys), data, key=key, batch_size=batch_size
    )
    if isinstance(posterior, AbstractTractablePosterior):
        components = 1
    return Pool(
        posterior=posterior,
        features=jnp.asarray(features),
        order=jnp.asarray(order[:size], jnp.int32),
        place=jnp.asarray(np.argsort(order), jnp.int32),
        key=key_noise,
        components=components,
    )
