"""The ELBO of a method on given data: exact, between two bounds, or a critic's estimate."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._method import Method
from avb._types import Datum, Key, Scalar
from avb.contrasts import AbstractContrast
from avb.contrasts._self import mixture
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._estimate import Estimate
from avb.models import LatentVariableModel
from avb.posteriors import AbstractTractablePosterior, SemiImplicitPosterior

COMPONENTS_AT_ONCE = 128


def _mean_and_error(values: Float[Array, " s"]) -> tuple[Scalar, Scalar]:
    """Mean over draws and its standard error."""
    return jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(float(values.size))


def _check_draws(draws: int) -> None:
    if draws < 2:
        raise ConfigError(f"draws a datum: expected at least 2 for a standard error, got {draws}")


@eqx.filter_jit
def _exact(parts, x, keys):
    model, posterior, draws = parts

    def datum(x: Datum, key: Key):
        features = posterior.encoder(x)
        density = posterior.density(features)
        z = jax.vmap(density.sample)(jax.random.split(key, draws))
        log_joint = jax.vmap(model.log_joint, in_axes=(None, 0))(x, z)
        return _mean_and_error(log_joint - jax.vmap(density.log_prob)(z))

    return jax.vmap(datum)(x, keys)


def elbo(
    model: LatentVariableModel,
    posterior: AbstractTractablePosterior,
    data: np.ndarray,
    *,
    key: Key,
    draws: int = 32,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Estimate:
    """E_q[log p(x, z) − log q(z|x)] by Monte Carlo, for a posterior with a density.

    Args:
        model: p(x, z).
        posterior: q(z|x) with a density.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        draws: Posterior draws a datum, at least 2.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        One value a datum, in nats.

    Raises:
        ConfigError: The posterior has no density; the message says what to use.
        DataError: Data of another shape, or not finite.
    """
    if not isinstance(posterior, AbstractTractablePosterior):
        raise ConfigError(
            f"{type(posterior).__name__} has no density, so its ELBO has no exact value: use "
            "elbo_bracket for a semi-implicit posterior, critic_elbo for an implicit one"
        )
    _check_draws(draws)
    data = check_data(data, model.data_shape)
    parts = (model, posterior, draws)
    values, errors = over_batches(
        lambda x, keys: _exact(parts, x, keys),
        data,
        key=key,
        batch_size=batch_size,
        progress=progress,
    )
    return Estimate("ELBO", "exact", "Monte Carlo", values, errors, f"{draws} draws a datum")


def log_mixture_bounds(
    posterior: SemiImplicitPosterior,
    features: Float[Array, " f"],
    own: Float[Array, "s e"],
    z: Float[Array, "s d"],
    key: Key,
    components: int,
) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
    """Log of the mixture over K fresh conditionals, without and with each draw's own.

    Memory does not grow with K: components are drawn, evaluated and summed a few at a time.

    Returns:
        ``log 1/K Σ_{k=1..K} q(z|x, ε_k)``, whose expectation is at most log q's, and
        ``log 1/(K+1) Σ_{k=0..K} q(z|x, ε_k)``, whose expectation is at least log q's.
    """
    at_once = min(components, COMPONENTS_AT_ONCE)
    chunks = -(-components // at_once)

    def add(total, chunk_key_and_count):
        chunk_key, count = chunk_key_and_count
        noise = jax.random.normal(chunk_key, (at_once, posterior.noise_dim))
        gaussians = mixture(posterior, features, noise)
        log_probs = jax.vmap(gaussians.component_log_probs)(z)
        kept = jnp.where(jnp.arange(at_once) < count, 0.0, -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(log_probs + kept[None, :], axis=1)), None

    counts = np.minimum(at_once, components - at_once * np.arange(chunks))
    start = jnp.full(z.shape[0], -jnp.inf)
    keys = jax.random.split(key, chunks)
    total, _ = jax.lax.scan(add, start, (keys, jnp.asarray(counts, jnp.int32)))
    log_own = jax.vmap(lambda e, z: posterior.conditional(features, e).log_prob(z))(own, z)
    k = float(components)
    return total - jnp.log(k), jnp.logaddexp(total, log_own) - jnp.log(k + 1.0)


@eqx.filter_jit
def _bracket(parts, x, keys):
    model, posterior, draws, components = parts

    def datum(x: Datum, key: Key):
        features = posterior.encoder(x)
        key_own, key_z, key_fresh = jax.random.split(key, 3)
        own = jax.random.normal(key_own, (draws, posterior.noise_dim))
        conditionals = posterior.components(features, own)
        z = jax.vmap(lambda density, key: density.sample(key))(
            conditionals, jax.random.split(key_z, draws)
        )
        without, with_own = log_mixture_bounds(posterior, features, own, z, key_fresh, components)
        log_joint = jax.vmap(model.log_joint, in_axes=(None, 0))(x, z)
        return _mean_and_error(log_joint - with_own), _mean_and_error(log_joint - without)

    return jax.vmap(datum)(x, keys)


def elbo_bracket(
    model: LatentVariableModel,
    posterior: SemiImplicitPosterior,
    data: np.ndarray,
    *,
    key: Key,
    draws: int = 32,
    components: int = 1024,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[Estimate, Estimate]:
    """A lower and an upper bound of the ELBO of a semi-implicit posterior.

    With ε₀ the noise that made z and ε₁ … ε_K fresh,

        E[log p(x,z) − log 1/(K+1) Σ_{k=0..K} q(z|x,ε_k)] ≤ ELBO
            ≤ E[log p(x,z) − log 1/K Σ_{k=1..K} q(z|x,ε_k)].

    Args:
        model: p(x, z).
        posterior: A semi-implicit q(z|x).
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        draws: Posterior draws a datum, at least 2.
        components: K. The bracket narrows as it grows; memory stays the same.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The lower and the upper bound, from the same draws.

    Raises:
        ConfigError: The posterior is not semi-implicit.
        DataError: Data of another shape, or not finite.

    References:
        Yin & Zhou (2018), https://arxiv.org/abs/1805.11183; Sobolev & Vetrov (2019),
        https://arxiv.org/abs/1909.03354.
    """
    if not isinstance(posterior, SemiImplicitPosterior):
        raise ConfigError(
            f"the bracket needs a semi-implicit posterior, got {type(posterior).__name__}: use "
            "elbo where there is a density, critic_elbo for an implicit posterior"
        )
    _check_draws(draws)
    if components < 1:
        raise ConfigError(f"components of the bracket: expected at least 1, got {components}")
    data = check_data(data, model.data_shape)
    parts = (model, posterior, draws, components)
    (lower, lower_error), (upper, upper_error) = over_batches(
        lambda x, keys: _bracket(parts, x, keys),
        data,
        key=key,
        batch_size=batch_size,
        progress=progress,
    )
    detail = f"{draws} draws a datum, K = {components}"
    return (
        Estimate("ELBO", "lower bound", "mixture of conditionals", lower, lower_error, detail),
        Estimate("ELBO", "upper bound", "mixture of conditionals", upper, upper_error, detail),
    )


@eqx.filter_jit
def _critic(parts, x, keys):
    method, draws, offset = parts

    def datum(x: Datum, key: Key):
        features = method.posterior.encoder(x)
        key_condition, key_z = jax.random.split(key)
        density = method.contrast.condition(
            method.posterior, method.model.fixed_prior, features, key_condition
        )
        seen = method.critic.features(x, features)
        z = jax.vmap(method.posterior.draw, in_axes=(None, 0))(
            features, jax.random.split(key_z, draws)
        )

        def value(z):
            log_q = density.log_prob(z) + method.critic.evaluate(seen, density.whiten(z)) - offset
            return method.model.log_joint(x, z) - log_q

        return _mean_and_error(jax.vmap(value)(z))

    return jax.vmap(datum)(x, keys)


@eqx.filter_jit
def _contrast_values(parts, x, keys):
    method, draws = parts

    def datum(x: Datum, key: Key):
        features = method.posterior.encoder(x)
        key_condition, key_sample = jax.random.split(key)
        density = method.contrast.condition(
            method.posterior, method.model.fixed_prior, features, key_condition
        )
        seen = method.critic.features(x, features)
        z = jax.vmap(density.sample)(jax.random.split(key_sample, draws))
        return jax.vmap(lambda z: method.critic.evaluate(seen, density.whiten(z)))(z)

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
    draws alone, not of the critic's error.

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
    if method.critic is None or method.objective is None:
        raise ConfigError("the critic's estimate needs a method with a critic, got none")
    assert isinstance(method.contrast, AbstractContrast)
    _check_draws(draws)
    data = check_data(data, method.model.data_shape)
    key_offset, key = jax.random.split(key)
    sizes = {"batch_size": batch_size, "progress": None}
    on_contrast = over_batches(
        lambda x, keys: _contrast_values((method, draws), x, keys), data, key=key_offset, **sizes
    )
    parts = (method, draws, method.objective.offset(jnp.asarray(on_contrast)))
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
