"""The losses of both players, each term of the ELBO computed in one place.

The gradient reaches the posterior through z only: r, T and the density of q are held
constant where the ELBO is evaluated ("sticking the landing", Roeder, Wu & Duvenaud 2017),
which is unbiased because E_q[∇_φ log q(z|x)] = 0, and has zero variance where q is exact.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avb._gradients import stop
from avb._method import Method
from avb._types import Data, Key, Scalar
from avb.contrasts import SelfContrast
from avb.densities import GaussianMixture
from avb.nets._rows import over_rows
from avb.posteriors import AbstractTractablePosterior, SemiImplicitPosterior
from avb.training._contest import adversary_loss, contest, offset_of
from avb.training._draws import drawn, repeated


class Terms(eqx.Module):
    """What a step measures, as means over the batch, in nats per datum.

    Attributes:
        elbo: log_likelihood + log_prior − log_contrast − critic. What it is (exact, a
            bound, an estimate) follows from the method.
        log_likelihood: log p(x|z).
        log_prior: log p(z).
        log_contrast: log q(z|x) where the density is exact, else log r(z|x).
        critic: T(x, z) at posterior draws, after the objective's offset.
        critic_loss: The critic's objective.
        latent: Sum of z, kept only to tell whether the draws are finite.
    """

    elbo: Scalar
    log_likelihood: Scalar
    log_prior: Scalar
    log_contrast: Scalar
    critic: Scalar
    critic_loss: Scalar
    latent: Scalar


def total_loss(
    method: Method, x: Data, key: Key, beta: Scalar, refined: Float[Array, "r d"] | None = None
) -> tuple[Scalar, Terms]:
    """The sum of both players' losses; each player's parameters see only their own.

    Args:
        method: All parts.
        x: A batch of data, of shape ``(n, *data_shape)``.
        key: PRNG key.
        beta: Weight of log p(z) − log q(z|x), 1 but for the KL warm-up.
        refined: Draws, a row each, that the model learns from in place of the bound, as
            :func:`~avb.training._refine.refine` gives them.

    Returns:
        The loss and the terms, in nats per datum.
    """
    if refined is None:
        return _bound_loss(method, x, key, beta)
    held = eqx.tree_at(lambda method: method.model, method, stop(method.model))
    loss, terms = _bound_loss(held, x, key, beta)
    log_likelihoods = method.model.log_likelihoods(repeated(x, len(refined) // len(x)), refined)
    return loss - jnp.mean(log_likelihoods), terms


def _bound_loss(method: Method, x: Data, key: Key, beta: Scalar) -> tuple[Scalar, Terms]:
    """Both players' losses, the model's and the posterior's being less the bound."""
    if isinstance(method.contrast, SelfContrast):
        return _semi_implicit(method, x, over_rows(method.posterior.encoder)(x), key, beta)
    features = over_rows(method.posterior.encoder)(x)
    if method.critic is None:
        return _exact(method, x, features, key, beta)
    return _adversarial(method, x, features, key, beta)


# From rows of z, as many of each datum, to log r(z|x) and T(x, z) of each. The parameters of both
# are constants: what gradient there is goes through z.
LogDensity = Callable[[Float[Array, "r d"]], tuple[Float[Array, " r"], Float[Array, " r"]]]


def _model_loss(
    method: Method,
    x: Data,
    features: Float[Array, "n f"],
    z: Float[Array, "r d"],
    log_density: LogDensity,
    beta: Scalar,
    critic_loss: Scalar,
    key: Key,
) -> tuple[Scalar, Terms]:
    """The model's loss and all terms, from the draws that :func:`drawn` makes with the key."""
    if method.importance_samples > 1:
        z = lax.stop_gradient(z)
    # Rows, not draws within data: XLA's CPU code transposes the products of nested batches.
    log_likelihoods = method.model.log_likelihoods(repeated(x, len(z) // len(x)), z)
    log_priors = jax.vmap(method.model.log_prior)(z)
    log_r, critic = log_density(z)
    log_likelihood, log_prior = jnp.mean(log_likelihoods), jnp.mean(log_priors)
    mean_contrast, mean_critic = jnp.mean(log_r), jnp.mean(critic)
    divergence = mean_contrast + mean_critic - log_prior
    terms = Terms(
        elbo=log_likelihood - divergence,
        log_likelihood=log_likelihood,
        log_prior=log_prior,
        log_contrast=mean_contrast,
        critic=mean_critic,
        critic_loss=critic_loss,
        latent=jnp.sum(z),
    )
    if method.importance_samples == 1:
        return beta * divergence - log_likelihood, terms
    log_weights = log_likelihoods + beta * (log_priors - log_r - critic)
    return -_weighted_bound(method, x, features, log_weights, log_density, beta, key), terms


@jax.custom_vjp
def _slowed(z: Array, factor: Array) -> Array:
    """The same z, whose gradient is multiplied by a factor."""
    return z


_slowed.defvjp(
    lambda z, factor: (z, factor),
    lambda factor, gradient: (gradient * factor, jnp.zeros_like(factor)),
)


def _weighted_bound(
    method: Method,
    x: Data,
    features: Float[Array, "n f"],
    log_weights: Float[Array, " r"],
    log_density: LogDensity,
    beta: Scalar,
    key: Key,
) -> Scalar:
    """The bound of Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, eq. 8.

    Its gradient for the model is a mean over the draws by their weights, and that for the
    posterior, through z alone, one by the squares of the weights (Tucker, Lawson, Gu & Maddison
    2019, https://arxiv.org/abs/1810.04152): the derivative of log q by q's parameters, which an
    implicit posterior has not, does not appear in it. With ``gradient_draws`` both are taken at
    that many draws, chosen by their weights, and the others do not go back through the networks.
    """
    keys = jax.random.split(key, len(log_weights))
    log_weights = lax.stop_gradient(log_weights).reshape(-1, method.importance_samples)
    log_total = jax.nn.logsumexp(log_weights, axis=1)
    weights = jnp.exp(log_weights - log_total[:, None])
    if method.gradient_draws is None:
        times, shares = method.importance_samples, weights.ravel()
    else:
        times, shares = method.gradient_draws, 1.0 / method.gradient_draws
        # None of the keys that draws are made with, as fold_in would give.
        key_chosen = jax.random.split(key, len(keys) + 1)[-1]
        shape = (times, len(weights))
        chosen = jax.random.categorical(key_chosen, log_weights, axis=1, shape=shape).T
        weights = jnp.take_along_axis(weights, chosen, axis=1)
        first = method.importance_samples * jnp.arange(len(weights))
        keys = keys[(first[:, None] + chosen).ravel()]
    weights = weights.ravel()
    times *= method.posterior_draws
    z = jax.vmap(method.posterior.draw)(repeated(features, times), keys)
    # One pass back through the model for both players: z's gradient has one factor more.
    z = _slowed(z, weights[:, None])
    log_r, critic = log_density(z)
    log_joint = method.model.log_likelihoods(repeated(x, times), z)
    log_joint += beta * jax.vmap(method.model.log_prior)(z)
    climbed = jnp.sum(shares * (log_joint - beta * weights * (log_r + critic))) / len(log_total)
    bound = jnp.mean(log_total) - jnp.log(float(method.importance_samples))
    return bound + climbed - lax.stop_gradient(climbed)


def _exact(method, x, features, key, beta) -> tuple[Scalar, Terms]:
    posterior = method.posterior
    assert isinstance(posterior, AbstractTractablePosterior)
    z = drawn(method, features, key, times=method.importance_samples)
    frozen = stop(posterior)

    def log_density(z):
        rows = repeated(lax.stop_gradient(features), len(z) // len(x))
        log_q = jax.vmap(lambda f, z: frozen.density(f).log_prob(z))(rows, z)
        return log_q, jnp.zeros_like(log_q)

    return _model_loss(method, x, features, z, log_density, beta, jnp.zeros(()), key)


def _semi_implicit(method, x, features, key, beta) -> tuple[Scalar, Terms]:
    """Yin & Zhou (2018), eq. 8, its gradient through z alone.

    Given the set of mixing variables, z is a draw of the mixture over the set (any of them
    is as likely to be the one that made it), so the mixture's own score has mean zero. In an
    even set the draw's own variable is one of those shared by all.
    """
    posterior = method.posterior
    assert isinstance(posterior, SemiImplicitPosterior)
    assert isinstance(method.contrast, SelfContrast)
    draws = (x.shape[0], method.posterior_draws)
    key_noise, key_z = jax.random.split(key)
    own, shared, held = method.contrast.noise(key_noise, posterior.noise_dim, draws)
    conditionals = jax.vmap(posterior.components)(features, own)
    sample = jax.vmap(jax.vmap(lambda density, key: density.sample(key)))
    z = sample(conditionals, jax.random.split(key_z, draws))
    frozen = stop(posterior)

    def log_mixture(features, own, z):
        fresh = GaussianMixture(frozen.components(features, shared))

        def of_draw(own, z):
            logs = fresh.component_log_probs(z)
            logs = logs if held else jnp.append(logs, own.log_prob(z))
            return jax.nn.logsumexp(logs) - jnp.log(float(logs.size))

        return jax.vmap(of_draw)(own, z)

    log_r = jax.vmap(log_mixture)(lax.stop_gradient(features), stop(conditionals), z).ravel()
    z = z.reshape(-1, posterior.latent_dim)

    def log_density(_):
        return log_r, jnp.zeros_like(log_r)

    return _model_loss(method, x, features, z, log_density, beta, jnp.zeros(()), key)


def _adversarial(method, x, features, key, beta) -> tuple[Scalar, Terms]:
    key_z, key_contest = jax.random.split(key)
    k = method.importance_samples
    z = drawn(method, features, key_z, times=k)
    met = contest(method, x, features, z[::k], key_contest)
    loss, critic_loss = adversary_loss(method, met)
    frozen = stop(method.critic)
    axes = method.contrast.density_axes
    offset = lax.stop_gradient(offset_of(method, met.on_contrast))

    def of_draw(density, seen, z):
        return density.log_prob(z), frozen.evaluate(seen, density.whiten(z))

    def log_density(z):
        times = len(z) // len(met.seen)
        densities = repeated(met.densities, times, axes)
        seen = repeated(lax.stop_gradient(met.seen), times)
        log_r, critic = jax.vmap(of_draw, in_axes=(axes, 0, 0))(densities, seen, z)
        return log_r, critic - offset

    held = lax.stop_gradient(critic_loss)
    model_loss, terms = _model_loss(method, x, features, z, log_density, beta, held, key_z)
    return model_loss + loss, terms
