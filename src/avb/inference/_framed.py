"""Posteriors of the other methods: one affine frame around a density, or around a sampler."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Key, Latent, Scalar
from avb.densities import AbstractDensity
from avb.inference._mixture import Frames
from avb.posteriors import AbstractPosterior

# The one datum of a posterior whose data are fixed.
NO_DATUM = (1,)


def single_frame(loc: Float[Array, " d"], factor: Float[Array, "d d"]) -> Frames:
    """A frame by itself."""
    log_det = jnp.linalg.slogdet(factor)[1]
    return Frames(loc[None], factor[None], jnp.linalg.inv(factor)[None], log_det[None])


def out_of(frame: Frames, white: Latent) -> Latent:
    """The vector from the coordinates of a single frame."""
    return frame.loc[0] + frame.factor[0] @ white


class FramedDensity(eqx.Module):
    """z = m + F u, with u from a density that can be evaluated.

    Args:
        frame: m and F.
        inner: The density of u.
    """

    frame: Frames
    inner: AbstractDensity

    @property
    def dim(self) -> int:
        """Number of latent dimensions d."""
        return self.frame.loc.shape[1]

    def sample(self, key: Key) -> Latent:
        """One z."""
        return out_of(self.frame, self.inner.sample(key))

    def log_prob(self, z: Latent) -> Scalar:
        """Log q(z), in nats."""
        return self.inner.log_prob(self.frame.whiten(z)[0]) - self.frame.log_det[0]


class FramedSampler(eqx.Module):
    """z = m + F u, with u from an implicit posterior: it has no density, hence no ``log_prob``.

    Args:
        frame: m and F.
        inner: The posterior of u.
    """

    frame: Frames
    inner: AbstractPosterior

    @property
    def dim(self) -> int:
        """Number of latent dimensions d."""
        return self.frame.loc.shape[1]

    def sample(self, key: Key) -> Latent:
        """One z."""
        features = self.inner.encoder(jnp.zeros(NO_DATUM, self.frame.loc.dtype))
        return out_of(self.frame, self.inner.draw(features, key))
