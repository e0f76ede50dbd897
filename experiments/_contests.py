"""Critics of every objective over one contrast, side by side in one program, and their errors."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb import Method
from avb._gradients import stop
from avb._types import Key, Scalar
from avb.contrasts import (
    AbstractContrast,
    AnchoredMomentContrast,
    FlowContrast,
    GaussianContrast,
    MixtureContrast,
    PriorContrast,
)
from avb.critics import AbstractCritic, ResidualCritic, TelescopingCritic
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.objectives import WeightedLogistic
from avb.training._contest import contest
from avb.training._descend import descend
from avb.training._draws import drawn
from experiments._critics import OBJECTIVES, draws, relative
from experiments._known import AffineDecoder
from experiments._shapes import DATA, ShapePosterior

FRESH_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Budget:
    """How every critic is trained.

    Attributes:
        steps: Adam steps.
        draws: Posterior draws a datum and step.
        contrast_draws: Contrast draws a posterior draw.
        rate: Peak rate of critic and learned contrast; it falls to zero along a cosine.
        width: Hidden units of the critic.
        depth: Residual blocks of the critic.
        averaged: Share of the steps, at the end, whose parameters are averaged.
    """

    steps: int = 1000
    draws: int = 8
    contrast_draws: int = 4
    rate: float = 4e-3
    width: int = 64
    depth: int = 1
    averaged: float = 0.25


class Errors(NamedTuple):
    """Of one seed, on fresh draws of q; arrays over the objectives, the last entry T = 0.

    Attributes:
        absolute: E_q |log q̂ − log q|, in nats.
        bias: E_q[log q − log q̂], by which the ELBO is too high, in nats.
        score: Relative L2 error of ∇_z log q̂, in coordinates in which q has covariance I.
        divergence: KL(q‖r), in nats.
    """

    absolute: Float[Array, " o"]
    bias: Float[Array, " o"]
    score: Float[Array, " o"]
    divergence: Scalar


def gaussian(posterior: ShapePosterior, key: Key) -> AbstractContrast:
    return GaussianContrast(DATA, posterior.latent_dim, key=key)


def mixture(posterior: ShapePosterior, key: Key) -> AbstractContrast:
    return MixtureContrast(DATA, posterior.latent_dim, key=key)


def flow(posterior: ShapePosterior, key: Key) -> AbstractContrast:
    return FlowContrast(DATA, posterior.latent_dim, key=key)


CONTRASTS: dict[str, Callable[[ShapePosterior, Key], AbstractContrast]] = {
    "prior": lambda posterior, key: PriorContrast(),
    "full moments": lambda posterior, key: AnchoredMomentContrast(posterior.noise_size),
    "learned Gaussian": gaussian,
    "mixture": mixture,
    "flow": flow,
}


CRITICS: dict[str, Callable[..., AbstractCritic]] = {
    "residual": ResidualCritic,
    "quadratic": functools.partial(ResidualCritic, quadratic=True),
    "telescoping": TelescopingCritic,
}


class Game(eqx.Module):
    """A contrast and one critic for each objective; the critics play against the same draws.

    Args:
        method: All parts, with the first critic.
        critics: The critics, stacked.
    """

    method: Method
    critics: AbstractCritic

    def with_critic(self, critic: AbstractCritic) -> Method:
        """The method with one of the critics."""
        return eqx.tree_at(lambda m: m.critic, self.method, critic)

    def loss(self, x: Float[Array, "n x"], key: Key) -> Scalar:
        """The objectives of all critics, and the misfit of a learned contrast, once."""
        key_z, key_contest = jax.random.split(key)
        features = jax.vmap(self.method.posterior.encoder)(x)
        z = drawn(self.method, features, key_z)

        def meet(critic: AbstractCritic):
            met = contest(self.with_critic(critic), x, features, z, key_contest)
            return met.on_posterior, met.on_contrast, met.fit_loss

        on_posterior, on_contrast, fit = eqx.filter_vmap(meet)(self.critics)
        losses = (
            jnp.sum(jax.vmap(objective.loss)(on_posterior[i], on_contrast[i]))
            for i, objective in enumerate(OBJECTIVES)
        )
        return fit[0] + sum(losses, jnp.zeros(()))


def new_game(
    posterior: ShapePosterior, contrast: str, critic: str, budget: Budget, key: Key
) -> Game:
    """All parts before training; T = 0."""
    key_contrast, key_critics = jax.random.split(key)
    dim = posterior.latent_dim

    def make(key: Key) -> AbstractCritic:
        return CRITICS[critic](DATA, dim, width=budget.width, depth=budget.depth, key=key)

    keys = jax.random.split(key_critics, len(OBJECTIVES))
    decoder = AffineDecoder(jnp.zeros((DATA, dim)), jnp.zeros(DATA))
    method = Method(
        LatentVariableModel(standard_normal(dim), decoder, FixedNormal(1.0), (DATA,)),
        posterior,
        CONTRASTS[contrast](posterior, key_contrast),
        make(keys[0]),
        WeightedLogistic(),
        contrast_draws=budget.contrast_draws,
        posterior_draws=budget.draws,
    )
    return Game(method, eqx.filter_vmap(make)(keys))


def trained(game: Game, budget: Budget, key: Key) -> Game:
    """The same game after the budget; the posterior stands still."""
    adversary = lambda game: (game.method.contrast, game.critics)  # noqa: E731
    parameters, static = eqx.partition(adversary(game), eqx.is_inexact_array)

    def loss(parameters, key: Key) -> Scalar:
        playing = eqx.tree_at(adversary, game, eqx.combine(parameters, static))
        return playing.loss(jnp.eye(DATA), key)

    average = descend(
        loss, parameters, key, steps=budget.steps, rate=budget.rate, averaged=budget.averaged
    )
    return eqx.tree_at(adversary, game, eqx.combine(average, static))


def errors(game: Game, key: Key) -> Errors:
    """Log q̂ = log r + T less the offset against log q, on fresh draws of q."""
    method = stop(game.method)
    posterior = method.posterior
    silent = ResidualCritic(DATA, posterior.latent_dim, width=2, key=jax.random.key(0))

    def datum(x: Float[Array, " x"], key: Key):
        key_condition, key_q, key_r = jax.random.split(key, 3)
        features = posterior.encoder(x)
        truth = posterior.density(features)
        r = method.contrast.condition(posterior, method.model.fixed_prior, features, key_condition)
        z, on_r = draws(truth, key_q, FRESH_DRAWS), draws(r, key_r, 4 * FRESH_DRAWS)

        def of_critic(critic: AbstractCritic):
            seen = critic.features(x, features)
            value = lambda z: critic.evaluate(seen, r.whiten(z))  # noqa: E731
            log_ratio = lambda z: r.log_prob(z) + value(z)  # noqa: E731
            scores = jax.vmap(jax.grad(log_ratio))(z) @ truth.matrix
            white = jax.vmap(r.whiten)
            pairs = jax.vmap(critic.pairs, in_axes=(None, 0, 0), out_axes=1)
            below = pairs(
                seen, white(z), white(on_r).reshape(FRESH_DRAWS, -1, posterior.latent_dim)
            )
            return jax.vmap(log_ratio)(z), scores, below[1]

        log_q = jax.vmap(truth.log_prob)(z)
        true_scores = jax.vmap(jax.grad(truth.log_prob))(z) @ truth.matrix
        alone = of_critic(silent)[:2]
        return (log_q, true_scores), alone, eqx.filter_vmap(of_critic)(game.critics)

    (log_q, true_scores), alone, (log_q_hat, scores, on_r) = jax.vmap(datum, out_axes=(0, 0, 1))(
        jnp.eye(DATA), jax.random.split(key, DATA)
    )
    # Axes of on_r: objective, datum, ratio of the critic, draw of q, draw of r.
    offsets = [
        sum(o.offset(jnp.concatenate(ratio)) for ratio in jnp.moveaxis(on_r[i], 1, 0))
        for i, o in enumerate(OBJECTIVES)
    ]
    log_q_hat = log_q_hat - jnp.stack(offsets)[:, None, None]
    log_q_hat = jnp.concatenate([log_q_hat, alone[0][None]])
    scores = jnp.concatenate([scores, alone[1][None]])
    missed = log_q[None] - log_q_hat
    return Errors(
        absolute=jnp.mean(jnp.abs(missed), axis=(1, 2)),
        bias=jnp.mean(missed, axis=(1, 2)),
        score=jax.vmap(relative, in_axes=(0, None))(scores, true_scores),
        divergence=jnp.mean(missed[-1]),
    )


@eqx.filter_jit
def run(
    posterior: ShapePosterior, keys: Array, contrast: str, critic: str, budget: Budget
) -> Errors:
    """Train and compare, all seeds and all objectives side by side."""

    def seed(key: Key) -> Errors:
        key_init, key_train, key_test = jax.random.split(key, 3)
        game = new_game(posterior, contrast, critic, budget, key_init)
        return errors(trained(game, budget, key_train), key_test)

    return jax.vmap(seed)(keys)


@eqx.filter_jit
def moment_divergence(posterior: ShapePosterior, keys: Array, points: int) -> Float[Array, " s"]:
    """KL(q‖r) of full moments at so many points of noise, one a seed; nothing is trained."""
    contrast = AnchoredMomentContrast(posterior.noise_size, num_anchors=points)
    prior = standard_normal(posterior.latent_dim)

    def datum(features: Float[Array, " f"], key: Key) -> Scalar:
        truth = posterior.density(features)
        r = contrast.condition(posterior, prior, features, key)
        missed = lambda z: truth.log_prob(z) - r.log_prob(z)  # noqa: E731
        return jnp.mean(jax.vmap(missed)(draws(truth, key, FRESH_DRAWS)))

    def seed(key: Key) -> Scalar:
        return jnp.mean(jax.vmap(datum)(jnp.eye(DATA), jax.random.split(key, DATA)))

    return jax.vmap(seed)(keys)
