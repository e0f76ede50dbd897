"""The posterior of one data set, from one that was trained for all."""

import dataclasses
import functools
import math

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from avb._types import Key, Latent, Scalar
from avb.inference._amortiser import POOL, Amortiser
from avb.inference._measure import Importance
from avb.inference._resample import choose, warn_if_untrusted
from avb.inference._target import Sites, Target

WEIGHED = 2000


@eqx.filter_jit
def _draw(amortiser: Amortiser, x: Array, key: Key, count: int) -> Float[Array, "n d"]:
    return amortiser.sample(key, x, count)


@eqx.filter_jit
def _weigh(
    amortiser: Amortiser, x: Array, target: Target, key: Key, count: int
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    return amortiser.weigh(key, x, target, count)


@eqx.filter_jit
def _constrain(target: Target, z: Float[Array, "n d"]) -> Sites:
    return jax.vmap(target.constrain)(z)


@dataclasses.dataclass(frozen=True)
class AmortisedPosterior:
    """The posterior of one data set, as :meth:`AmortisedInference.posterior` gives it.

    Attributes:
        amortiser: q(z|x) for all data.
        x: The summary of these.
        target: The model given these data.
    """

    amortiser: Amortiser
    x: Float[Array, " f"]
    target: Target

    @functools.cached_property
    def importance(self) -> Importance:
        """Log evidence, k̂ and effective draws of importance weights over 2,000 draws."""
        key = jax.random.key(0)
        log_weights = _weigh(self.amortiser, self.x, self.target, key, WEIGHED)[1]
        return Importance.of(np.asarray(log_weights))

    def log_prob(self, z: Latent) -> Scalar:
        """Log q of one unconstrained vector, in nats."""
        return self.amortiser.log_prob(self.x, z)

    def sample_unconstrained(
        self, key: Key, sample_shape: tuple[int, ...] = (), *, resample: bool = False
    ) -> Float[Array, "*s d"]:
        """Draws of the unconstrained vector, of shape ``(*sample_shape, d)``.

        Args:
            key: PRNG key.
            sample_shape: Shape of the sample.
            resample: Choose among ten times as many draws by Pareto-smoothed importance
                weights, which takes out most of what training left, where k̂ is below 0.7.
        """
        count = math.prod(sample_shape)
        draw = self._resampled if resample else self._plain
        z = draw(key, count)
        return z.reshape(*sample_shape, z.shape[1])

    def _plain(self, key: Key, count: int) -> Float[Array, "n d"]:
        return _draw(self.amortiser, self.x, key, count)

    def _resampled(self, key: Key, count: int) -> Float[Array, "n d"]:
        warn_if_untrusted(self.importance, stacklevel=4)
        key_draw, key_choice = jax.random.split(key)
        pool = POOL * max(count, 100)
        z, log_weights = _weigh(self.amortiser, self.x, self.target, key_draw, pool)
        return choose(z, log_weights, key_choice, count)

    def sample(
        self, key: Key, sample_shape: tuple[int, ...] = (), *, resample: bool = False
    ) -> Sites:
        """Draws by site, constrained and with deterministic sites, as ``Predictive`` wants them.

        Args:
            key: PRNG key.
            sample_shape: Shape of the sample, before each site's own.
            resample: See :meth:`sample_unconstrained`.
        """
        z = self.sample_unconstrained(key, sample_shape, resample=resample)
        sites = _constrain(self.target, z.reshape(-1, z.shape[-1]))
        return {name: v.reshape(*sample_shape, *v.shape[1:]) for name, v in sites.items()}
