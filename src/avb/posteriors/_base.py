"""The two kinds of posterior: those that can only be sampled, and those with a density."""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._check import expect_equal
from avb._types import Datum, Features, Key, Latent, Noise, Scalar, Shape
from avb.densities import AbstractDensity, DiagonalGaussian


def feature_size(encoder: Callable, data_shape: Shape) -> int:
    """Length of the feature vector that an encoder gives for one datum.

    Raises:
        ConfigError: The encoder's output is no vector.
    """
    datum = jax.ShapeDtypeStruct(data_shape, jnp.float32)
    shape = eqx.filter_eval_shape(encoder, datum).shape
    expect_equal("number of axes of the encoder's output", 1, len(shape))
    return shape[0]


class AbstractPosterior(eqx.Module):
    """q(z|x), sampled through features of the datum that all draws share.

    Subclasses hold an ``encoder`` (any Equinox module from one datum to a vector) and
    turn its features and a PRNG key into one latent vector. There is deliberately no
    ``log_prob`` here: an implicit posterior has none.
    """

    encoder: eqx.AbstractVar[Callable]
    latent_dim: eqx.AbstractVar[int]

    @abc.abstractmethod
    def draw(self, features: Features, key: Key) -> Latent:
        """One latent vector of shape ``(d,)``, differentiable in features and parameters."""

    @abc.abstractmethod
    def frame(self, features: Features) -> DiagonalGaussian:
        """Where draws roughly lie, as the posterior's own parameters tell.

        Learned contrasts are expressed relative to it, so that they move with the encoder
        and need not learn its every change again.
        """

    def sample(self, key: Key, x: Datum, sample_shape: Shape = ()) -> Float[Array, "*s d"]:
        """Draws of shape ``(*sample_shape, d)`` for one datum x."""
        features = self.encoder(x)
        keys = jax.random.split(key, math.prod(sample_shape))
        draws = jax.vmap(self.draw, in_axes=(None, 0))(features, keys)
        return draws.reshape(*sample_shape, self.latent_dim)


class AbstractImplicitPosterior(AbstractPosterior):
    """z = g(x, ε) + s(x) ⊙ ε' with ε, ε' ~ N(0, I): a map of noise, and no density.

    Given the noise, a draw is a function of the datum: at fixed noise the moments of q
    follow the posterior's parameters exactly.
    """

    @property
    @abc.abstractmethod
    def noise_size(self) -> int:
        """Number of noise variables that g takes."""

    @abc.abstractmethod
    def transform(self, features: Features, noise: Noise) -> Latent:
        """g(x, ε): the latent vector that noise of shape ``(noise_size,)`` gives."""

    @abc.abstractmethod
    def added_scale(self, features: Features) -> Latent | None:
        """s(x): standard deviations of the noise that is added to g; ``None`` if none is."""

    def draw(self, features: Features, key: Key) -> Latent:
        added = self.added_scale(features)
        if added is None:
            return self.transform(features, jax.random.normal(key, (self.noise_size,)))
        noise = jax.random.normal(key, (self.noise_size + self.latent_dim,))
        bent = self.transform(features, noise[: self.noise_size])
        return bent + added * noise[self.noise_size :]


class AbstractTractablePosterior(AbstractPosterior):
    """A posterior with a density that can be evaluated."""

    @abc.abstractmethod
    def density(self, features: Features) -> AbstractDensity:
        """q(z|x) as a density, from the features of one datum."""

    def log_prob(self, x: Datum, z: Latent) -> Scalar:
        """Log q(z|x) for one datum and one latent vector, in nats."""
        return self.density(self.encoder(x)).log_prob(z)
