"""Posteriors of several shapes, sampled as a map of noise, whose log densities are known.

Each shape is a density of u in R^d with mean about 0 and covariance about I; z = m(x) + A(x) u
turns, scales and moves it differently for each datum.
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import gammaln, i0e, ndtr
from jaxtyping import Array, Float, Int32

from avb._types import Features, Key, Latent, Noise, Scalar
from avb.densities import AbstractDensity, DiagonalGaussian
from avb.densities._gaussian import standard_normal_log_prob
from avb.posteriors import AbstractImplicitPosterior

# Beyond one noise variable a dimension, for what chooses the part of a shape.
EXTRA_NOISE = 3
DATA = 4


class AbstractShape(abc.ABC):
    """A density of u, its sampler a map of noise of shape ``(d + EXTRA_NOISE,)``.

    The noise splits into what chooses the conditional (the last three variables) and what
    moves u within it.
    """

    name: ClassVar[str]

    @staticmethod
    @abc.abstractmethod
    def transform(noise: Noise) -> Latent:
        """The draw u that the noise gives."""

    @staticmethod
    @abc.abstractmethod
    def log_prob(u: Latent) -> Scalar:
        """Log density, in nats."""

    @staticmethod
    @abc.abstractmethod
    def conditional_score(noise: Noise) -> Latent:
        """Score, at the draw, of the density of u given the last three noise variables."""


def in_plane(plane: Float[Array, " 2"], rest: Latent) -> Latent:
    """The first two coordinates, and the others."""
    return jnp.concatenate([plane, rest])


class Gaussian(AbstractShape):
    """N(0, I): the control, which a full covariance matches."""

    name = "Gaussian"

    @staticmethod
    def transform(noise: Noise) -> Latent:
        return noise[:-EXTRA_NOISE]

    @staticmethod
    def log_prob(u: Latent) -> Scalar:
        return standard_normal_log_prob(u)

    @staticmethod
    def conditional_score(noise: Noise) -> Latent:
        return -noise[:-EXTRA_NOISE]


class Mixture(AbstractShape):
    """Three Gaussians 8 scales apart from each other in the first two coordinates."""

    name = "mixture"
    weights = (0.5, 0.3, 0.2)
    scale = 0.3
    angles = np.arange(3) * 2.0 * np.pi / 3.0
    centres = np.sqrt(2.0 * (1.0 - scale**2)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    @staticmethod
    def transform(noise: Noise) -> Latent:
        level = ndtr(noise[-1])
        part = (level > 0.5).astype(jnp.int32) + (level > 0.8).astype(jnp.int32)
        plane = jnp.asarray(Mixture.centres, noise.dtype)[part] + Mixture.scale * noise[:2]
        return in_plane(plane, noise[2:-EXTRA_NOISE])

    @staticmethod
    def log_prob(u: Latent) -> Scalar:
        white = (u[None, :2] - jnp.asarray(Mixture.centres, u.dtype)) / Mixture.scale
        logs = jnp.log(jnp.asarray(Mixture.weights)) + jax.vmap(standard_normal_log_prob)(white)
        in_plane = jax.nn.logsumexp(logs) - 2.0 * jnp.log(Mixture.scale)
        return in_plane + standard_normal_log_prob(u[2:])

    @staticmethod
    def conditional_score(noise: Noise) -> Latent:
        return in_plane(-noise[:2] / Mixture.scale, -noise[2:-EXTRA_NOISE])


class Ring(AbstractShape):
    """A circle in the first two coordinates plus Gaussian noise."""

    name = "ring"
    scale = 0.15
    radius = float(np.sqrt(2.0 * (1.0 - scale**2)))

    @staticmethod
    def transform(noise: Noise) -> Latent:
        direction = noise[-2:] / jnp.linalg.norm(noise[-2:])
        plane = Ring.radius * direction + Ring.scale * noise[:2]
        return in_plane(plane, noise[2:-EXTRA_NOISE])

    @staticmethod
    def log_prob(u: Latent) -> Scalar:
        length = jnp.linalg.norm(u[:2])
        variance = Ring.scale**2
        bessel = jnp.log(i0e(length * Ring.radius / variance))
        off = -0.5 * (length - Ring.radius) ** 2 / variance
        return off + bessel - jnp.log(2.0 * jnp.pi * variance) + standard_normal_log_prob(u[2:])

    @staticmethod
    def conditional_score(noise: Noise) -> Latent:
        return in_plane(-noise[:2] / Ring.scale, -noise[2:-EXTRA_NOISE])


class Student(AbstractShape):
    """Student's t with three degrees of freedom, scaled to covariance I."""

    name = "Student t"

    @staticmethod
    def transform(noise: Noise) -> Latent:
        return noise[:-EXTRA_NOISE] / jnp.linalg.norm(noise[-EXTRA_NOISE:])

    @staticmethod
    def log_prob(u: Latent) -> Scalar:
        total = 0.5 * (EXTRA_NOISE + u.size)
        normaliser = gammaln(total) - gammaln(0.5 * EXTRA_NOISE) - 0.5 * u.size * jnp.log(jnp.pi)
        return normaliser - total * jnp.log1p(jnp.sum(u**2))

    @staticmethod
    def conditional_score(noise: Noise) -> Latent:
        return -noise[:-EXTRA_NOISE] * jnp.linalg.norm(noise[-EXTRA_NOISE:])


class Banana(AbstractShape):
    """u₂ bent along u₁²; given u₁ it is Gaussian."""

    name = "banana"
    bend = 0.65
    scale = float(np.sqrt(1.0 - 2.0 * bend**2))

    @staticmethod
    def transform(noise: Noise) -> Latent:
        bent = Banana.bend * (noise[0] ** 2 - 1.0) + Banana.scale * noise[1]
        return in_plane(jnp.stack([noise[0], bent]), noise[2:-EXTRA_NOISE])

    @staticmethod
    def log_prob(u: Latent) -> Scalar:
        straight = (u[1] - Banana.bend * (u[0] ** 2 - 1.0)) / Banana.scale
        return standard_normal_log_prob(u.at[1].set(straight)) - jnp.log(Banana.scale)

    @staticmethod
    def conditional_score(noise: Noise) -> Latent:
        return jax.grad(Banana.log_prob)(Banana.transform(noise))


SHAPES: tuple[type[AbstractShape], ...] = (Gaussian, Mixture, Ring, Student, Banana)
# Of the others the score given the choosing noise is the score itself: nothing is to be learnt.
CHOOSING = ("mixture", "ring", "Student t")


class ShapeDensity(AbstractDensity):
    """The density of z = m + A u.

    The shape is an array, so that one compiled program serves all of them.

    Args:
        shape: Index into :data:`SHAPES`.
        loc: m.
        matrix: A.
        inverse: A⁻¹.
        log_det: log |det A|.
    """

    shape: Int32[Array, ""]
    loc: Latent
    matrix: Float[Array, "d d"]
    inverse: Float[Array, "d d"]
    log_det: Scalar

    def at_noise(self, noise: Noise) -> Latent:
        """The draw that the noise gives."""
        u = lax.switch(self.shape, [shape.transform for shape in SHAPES], noise)
        return self.loc + self.matrix @ u

    def sample(self, key: Key) -> Latent:
        return self.at_noise(jax.random.normal(key, (self.loc.size + EXTRA_NOISE,)))

    def log_prob(self, z: Latent) -> Scalar:
        logs = [shape.log_prob for shape in SHAPES]
        return lax.switch(self.shape, logs, self.whiten(z)) - self.log_det

    def whiten(self, z: Latent) -> Latent:
        return self.inverse @ (z - self.loc)

    def draw_and_conditional_score(self, key: Key) -> tuple[Latent, Latent]:
        """A draw, and there the score of its density given the noise that chooses."""
        noise = jax.random.normal(key, (self.loc.size + EXTRA_NOISE,))
        scores = [shape.conditional_score for shape in SHAPES]
        return self.at_noise(noise), self.inverse.T @ lax.switch(self.shape, scores, noise)


class ShapePosterior(AbstractImplicitPosterior):
    """q(z|x) of a known shape for :data:`DATA` data, which are unit vectors.

    To contrast and critic it is a map of noise, as an implicit posterior is;
    :meth:`density` is for the comparison.

    Args:
        shape: Index into :data:`SHAPES`.
        latent_dim: Number of latent dimensions d.
    """

    encoder: Callable
    shape: Int32[Array, ""]
    loc: Float[Array, "n d"]
    matrix: Float[Array, "n d d"]
    inverse: Float[Array, "n d d"]
    log_det: Float[Array, " n"]
    latent_dim: int = eqx.field(static=True)

    def __init__(self, shape: int, latent_dim: int):
        rng = np.random.default_rng(latent_dim)
        # All data have locations, orientations and scales of their own.
        turns = np.linalg.qr(rng.normal(size=(DATA, latent_dim, latent_dim)))[0]
        scales = np.geomspace(0.25, 1.0, latent_dim) * np.exp(0.2 * rng.normal(size=(DATA, 1)))
        matrix = turns * scales[:, None, :]
        self.encoder = jnp.ravel
        self.shape = jnp.asarray(shape)
        self.loc = jnp.asarray(0.7 * rng.normal(size=(DATA, latent_dim)), jnp.float32)
        self.matrix = jnp.asarray(matrix, jnp.float32)
        self.inverse = jnp.asarray(np.linalg.inv(matrix), jnp.float32)
        self.log_det = jnp.asarray(np.linalg.slogdet(matrix)[1], jnp.float32)
        self.latent_dim = latent_dim

    @property
    def noise_size(self) -> int:
        return self.latent_dim + EXTRA_NOISE

    def density(self, features: Features) -> ShapeDensity:
        """q(z|x), from the features of one datum."""
        own = (
            jnp.tensordot(features, table, 1)
            for table in (self.loc, self.matrix, self.inverse, self.log_det)
        )
        return ShapeDensity(self.shape, *own)

    def transform(self, features: Features, noise: Noise) -> Latent:
        return self.density(features).at_noise(noise)

    def added_scale(self, features: Features) -> Latent | None:
        return None

    def frame(self, features: Features) -> DiagonalGaussian:
        density = self.density(features)
        return DiagonalGaussian(density.loc, 0.5 * jnp.log(jnp.sum(density.matrix**2, axis=1)))
