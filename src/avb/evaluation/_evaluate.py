"""All numbers of a method on given data, in one call."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from avb._method import Method
from avb._types import Key
from avb.evaluation._bracket import elbo_bracket
from avb.evaluation._critic import critic_elbo
from avb.evaluation._elbo import elbo
from avb.evaluation._estimate import Estimate
from avb.evaluation._importance import importance_bound
from avb.posteriors import AbstractTractablePosterior, SemiImplicitPosterior


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The numbers of one method on one set of data.

    Attributes:
        rows: The estimates: ELBO first, then log p(x).
        effective_samples: Effective importance samples of each datum, shape ``(n,)``.
    """

    rows: list[Estimate]
    effective_samples: np.ndarray

    def as_dict(self) -> dict:
        """The summary, ready for JSON."""
        return {
            "rows": [row.as_dict() for row in self.rows],
            "effective_samples_median": float(np.median(self.effective_samples)),
            "effective_samples_min": float(np.min(self.effective_samples)),
        }


def evaluate(
    method: Method,
    data: np.ndarray,
    *,
    key: Key,
    draws: int = 32,
    components: int = 1024,
    importance_samples: int = 1000,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """The ELBO and a lower bound of log p(x) on data, each with what it is.

    Args:
        method: A trained method, ``FitResult.method``.
        data: Data of shape ``(n, *data_shape)`` in the values that the likelihood takes:
            binary images as 0 and 1 (:func:`avb.binarise_once`), not as pixels.
        key: PRNG key.
        draws: Posterior draws a datum for the ELBO.
        components: K of the semi-implicit bracket.
        importance_samples: Samples a datum of the importance-weighted bound.
        progress: Called with the name of the present quantity, the data done and in all.

    Returns:
        The rows: the ELBO exactly, or its lower and upper bound, and a critic's estimate
        where there is a critic; then the importance-weighted bound.

    Raises:
        ConfigError: Too few draws or samples.
        DataError: Data of another shape, or not finite.
    """
    key_elbo, key_critic, key_importance = jax.random.split(key, 3)

    def tell(name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else functools.partial(progress, name)

    model, posterior = method.model, method.posterior
    sizes = {"draws": draws, "progress": tell("ELBO")}
    rows: list[Estimate] = []
    if isinstance(posterior, AbstractTractablePosterior):
        rows.append(elbo(model, posterior, data, key=key_elbo, **sizes))
    elif isinstance(posterior, SemiImplicitPosterior):
        rows += elbo_bracket(model, posterior, data, key=key_elbo, components=components, **sizes)
    if method.critic is not None:
        rows.append(critic_elbo(method, data, key=key_critic, **sizes))
    bound = importance_bound(
        model,
        posterior,
        data,
        key=key_importance,
        samples=importance_samples,
        progress=tell("log p(x)"),
    )
    assert bound.effective is not None
    return Evaluation([*rows, bound], bound.effective)
