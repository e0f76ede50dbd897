"""What it takes to be a contrast's density: sample, evaluate, whiten."""

import abc

import equinox as eqx

from avb._types import Key, Latent, Scalar


class AbstractDensity(eqx.Module):
    """A density over one latent vector of shape ``(d,)``, for one datum.

    Subclasses give a sampler, a log density and whitened coordinates: an invertible
    affine map under which draws have about zero mean and unit variance, the
    coordinates in which a critic sees them.
    """

    @abc.abstractmethod
    def sample(self, key: Key) -> Latent:
        """Draw one latent vector, of shape ``(d,)``."""

    @abc.abstractmethod
    def log_prob(self, z: Latent) -> Scalar:
        """Log density of one latent vector, in nats."""

    @abc.abstractmethod
    def whiten(self, z: Latent) -> Latent:
        """The latent vector in coordinates of about zero mean and unit variance."""
