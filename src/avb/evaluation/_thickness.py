"""How thick an implicit posterior is where it lies: what no critic has to be asked for."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._types import Datum, Key
from avb.evaluation._encode import check_encodable
from avb.posteriors import AbstractImplicitPosterior, AbstractPosterior

DRAWS, LOCAL_DRAWS, MOST_DATA = 512, 16, 64
# Trained posteriors whose critics were right are above 0.4, one that had folded itself up at 0.01.
THIN = 0.1


def thickness(posterior: AbstractPosterior, data: np.ndarray, *, key: Key) -> float:
    """The spread of q(z|x) around a draw, in its thinnest direction, over its spread in all.

    The smallest singular value of L⁻¹ ∂z/∂(ε, ε') at draws of z = g(x, ε) + s(x) ⊙ ε', where L Lᵀ
    is the covariance of q(z|x); the median over draws and data. It is 1 for a Gaussian. A posterior
    whose noise is folded into thin, curved sheets comes near 0: its log density is far above that
    of a Gaussian with its moments, for which a critic that cannot see the folds takes it.

    Args:
        posterior: A map of noise, such as :class:`~avb.posteriors.ImplicitPosterior`.
        data: Shape ``(n, *data_shape)``, of which the first 64 are used.
        key: PRNG key.

    Raises:
        ConfigError: The posterior is no map of noise.
    """
    if not isinstance(posterior, AbstractImplicitPosterior):
        raise ConfigError(
            "thickness: expected a posterior that is a map of noise (ImplicitPosterior or "
            f"BasisPosterior), got {type(posterior).__name__}"
        )
    first = jnp.asarray(check_encodable(posterior, data[:MOST_DATA]))
    return float(jnp.median(_thicknesses(posterior, first, jax.random.split(key, len(first)))))


@eqx.filter_jit
def _thicknesses(
    posterior: AbstractImplicitPosterior, data: Float[Array, "n ..."], keys: Key
) -> Float[Array, "n s"]:
    def datum(given: tuple[Datum, Key]) -> Float[Array, " s"]:
        x, key = given
        features = posterior.encoder(x)

        def transform(noise):
            return posterior.transform(features, noise)

        added = posterior.added_scale(features)
        unbent = jnp.diag(jnp.zeros(posterior.latent_dim) if added is None else added)
        noise = jax.random.normal(key, (DRAWS, posterior.noise_size))
        z = jax.vmap(transform)(noise)
        scale_tril = jnp.linalg.cholesky(
            jnp.atleast_2d(jnp.cov(z, rowvar=False)) + unbent @ unbent.T
        )

        def smallest(noise):
            slopes = jnp.concatenate([jax.jacfwd(transform)(noise), unbent], axis=1)
            white = jax.scipy.linalg.solve_triangular(scale_tril, slopes, lower=True)
            squares = jnp.linalg.eigvalsh(white @ white.T)
            return jnp.sqrt(jnp.maximum(squares[0], 0.0))

        return jax.vmap(smallest)(noise[:LOCAL_DRAWS])

    return jax.lax.map(datum, (data, keys))
