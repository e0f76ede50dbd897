"""The ELBO by the critic of training: an estimate that bounds nothing."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._method import Method
from avb._types import Datum, Features, Key, Latent, Scalar
from avb.contrasts import AbstractContrast
from avb.critics import AbstractCritic
from avb.densities import AbstractDensity
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._estimate import Estimate
from avb.training._contest import offset_of


class CriticDensity(eqx.Module):
    """What a critic takes for q(z|x) at one datum: r(z|x) exp(T(x, z) − offset)."""

    contrast: AbstractDensity
    critic: AbstractCritic
    seen: Float[Array, " c"]
    offset: Scalar

    def value(self, z: Latent) -> Scalar:
        """T(x, z) before the offset, in nats."""
        return self.critic.evaluate(self.seen, self.contrast.whiten(z))

    def log_prob(self, z: Latent) -> Scalar:
        """Log r(z|x) + T(x, z) − offset, in nats; its integral is 1 only if T is right."""
        return self.contrast.log_prob(z) + self.value(z) - self.offset


def critic_density(
    method: Method, x: Datum, features: Features, key: Key, offset: Scalar
) -> CriticDensity:
    """The density that the method's critic stands for, at one datum."""
    assert isinstance(method.contrast, AbstractContrast)
    assert method.critic is not None
    contrast = method.contrast.condition(method.posterior, method.model.fixed_prior, features, key)
    return CriticDensity(contrast, method.critic, method.critic.features(x, features), offset)


def check_critic(method: Method) -> None:
    """Raise a ``ConfigError`` unless the method has a critic and its objective."""
    if method.critic is None or method.objective is None:
        raise ConfigError("the critic's estimate needs a method with a critic, got none")


def check_same_data(fresh: int, data: int) -> None:
    """Raise a ``ConfigError`` unless fresh critics were trained on as many data."""
    if fresh != data:
        raise ConfigError(
            f"fresh critics: expected those of the same {data} data, got those of {fresh}"
        )


@eqx.filter_jit
def _values_on_contrast(parts, x, keys):
    method, draws = parts

    def datum(x: Datum, key: Key):
        key_condition, key_sample = jax.random.split(key)
        features = method.posterior.encoder(x)
        density = critic_density(method, x, features, key_condition, jnp.zeros(()))
        on_r = jax.vmap(density.contrast.sample)(jax.random.split(key_sample, draws))
        # The ratios between waymarks of a telescoping critic are compared at draws of both.
        keys = jax.random.split(jax.random.fold_in(key_sample, 1), draws)
        on_q = jax.vmap(method.posterior.draw, in_axes=(None, 0))(features, keys)
        white = jax.vmap(density.contrast.whiten)
        pairs = jax.vmap(density.critic.pairs, in_axes=(None, 0, 0), out_axes=1)
        return pairs(density.seen, white(on_q), white(on_r)[:, None])[1][:, :, 0]

    return jax.vmap(datum)(x, keys)


def critic_offset(
    method: Method, data: np.ndarray, *, key: Key, draws: int, batch_size: int
) -> Scalar:
    """What the critic's objective leaves to subtract from T, from draws of its own."""
    values = over_batches(
        lambda x, keys: _values_on_contrast((method, draws), x, keys),
        data,
        key=key,
        batch_size=batch_size,
    )
    return offset_of(method, jnp.moveaxis(jnp.asarray(values), 0, 1))


@eqx.filter_jit
def _critic(parts, x, keys):
    method, draws, offset = parts

    def datum(x: Datum, key: Key):
        key_condition, key_z = jax.random.split(key)
        features = method.posterior.encoder(x)
        density = critic_density(method, x, features, key_condition, offset)
        keys = jax.random.split(key_z, draws)
        z = jax.vmap(method.posterior.draw, in_axes=(None, 0))(features, keys)
        log_joint = jax.vmap(method.model.log_joint, in_axes=(None, 0))(x, z)
        return mean_and_error(log_joint - jax.vmap(density.log_prob)(z))

    return jax.vmap(datum)(x, keys)


def critic_elbo(
    method: Method,
    data: np.ndarray,
    *,
    key: Key,
    draws: int = 32,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Estimate:
    """E_q[log p(x, z) − log r(z|x) − T(x, z)] with the critic of training.

    It is an estimate and bounds nothing: a critic that falls short of log q − log r makes
    it exceed the ELBO, and may lift it above log p(x). The standard error knows of the
    draws alone, not of the critic's error; :func:`judge_critic` does.

    Args:
        method: All parts, with a critic.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        draws: Posterior draws a datum, at least 2.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        One value a datum, in nats.

    Raises:
        ConfigError: The method has no critic.
        DataError: Data of another shape, or not finite.
    """
    check_critic(method)
    check_draws(draws)
    data = check_data(data, method.model.data_shape)
    key_offset, key = jax.random.split(key)
    offset = critic_offset(method, data, key=key_offset, draws=draws, batch_size=batch_size)
    parts = (method, draws, offset)
    values, errors = over_batches(
        lambda x, keys: _critic(parts, x, keys),
        data,
        key=key,
        batch_size=batch_size,
        progress=progress,
    )
    detail = f"{draws} draws a datum"
    return Estimate(
        "ELBO", "critic estimate, not a bound", "critic of training", values, errors, detail
    )
