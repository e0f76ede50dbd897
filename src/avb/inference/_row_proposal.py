"""q(u|row, z): an encoder's proposal for the latents of one row, and the integral it makes."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt32

from avb._errors import ConfigError
from avb._types import Features, Key, Latent, Scalar
from avb.densities._gaussian import standard_normal_log_prob
from avb.densities._points import even_points, shifted_normal
from avb.densities._scale import bounded_log_scale
from avb.inference._amortiser import Standard, SummaryEncoder
from avb.inference._row_model import RowModel

# In units of ``around``: further away the proposal stays as it is.
REACH = 3.0
# Of skewness and of the log of the tails' weight.
MAX_SHAPE = 1.0


class RowEncoder(eqx.Module):
    """Features of one row: a fully connected network of all its numbers, standardised.

    Args:
        sample: Rows of each array, to standardise by.
        key: PRNG key.
    """

    inner: SummaryEncoder

    def __init__(self, sample: tuple[np.ndarray, ...], *, key: Key):
        flat = [np.asarray(part, np.float64).reshape(len(part), -1) for part in sample]
        self.inner = SummaryEncoder(Standard.of(np.concatenate(flat, axis=1)), key=key)

    def __call__(self, *row: Array) -> Features:
        """Features of the row's entry of each array."""
        parts = [jnp.ravel(part).astype(jnp.result_type(float)) for part in row]
        return self.inner(jnp.concatenate(parts))


class RowProposal(eqx.Module):
    """Correlated sinh-arcsinh variables for the latents of one row, that move with the shared ones.

    Gaussians whose skewness and tails are free, so that weights stay bounded. Location and log
    scales are linear in tanh-bounded coordinates of z: the network itself does not see z, and
    runs once for all of its values.

    Args:
        encoder: Features, a vector, of the row's entry of each array.
        row: Shapes of those entries.
        dim: m, latents of a row.
        shared: d, latents that all rows share.
        key: PRNG key.

    Raises:
        ConfigError: The encoder's features are no vector of real numbers.

    References:
        Jones & Pewsey (2009), https://doi.org/10.1093/biomet/asp053, eq. 2.
    """

    encoder: Callable
    head: eqx.nn.Linear
    around: Standard
    dim: int = eqx.field(static=True)
    shared: int = eqx.field(static=True)

    def __init__(
        self,
        encoder: Callable,
        *,
        row: tuple[jax.ShapeDtypeStruct, ...],
        dim: int,
        shared: int,
        key: Key,
    ):
        size = _feature_size(encoder, row)
        outputs = dim * (4 + 2 * shared) + dim * (dim - 1) // 2
        head = eqx.nn.Linear(size, outputs, key=key)
        self.encoder = encoder
        self.head = jax.tree.map(jnp.zeros_like, head)
        # So wide that z does not move it.
        self.around = Standard(jnp.zeros(shared), jnp.full(shared, jnp.inf))
        self.dim, self.shared = dim, shared

    def outputs(self, rows: tuple[Array, ...]) -> Float[Array, "b o"]:
        """What the network says of each row, whatever z is."""
        return jax.vmap(lambda *row: self.head(self.encoder(*row)))(*rows)

    def transform(
        self, outputs: Float[Array, " o"], z: Latent, noise: Float[Array, " m"]
    ) -> tuple[Float[Array, " m"], Scalar]:
        """One draw from noise of N(0, I), with its log density in nats."""
        m, d = self.dim, self.shared
        base, slopes, shape, lower = jnp.split(outputs, [2 * m, 2 * m * (1 + d), 2 * m * (2 + d)])
        white = REACH * jnp.tanh(self.around(z) / REACH)
        loc, raw = jnp.split(base + slopes.reshape(2 * m, d) @ white, 2)
        log_scale = bounded_log_scale(raw)
        bent, log_slope = _sinh_arcsinh(noise, *jnp.split(MAX_SHAPE * jnp.tanh(shape), 2))
        unit = jnp.eye(m).at[jnp.tril_indices(m, -1)].set(lower)
        log_prob = standard_normal_log_prob(noise) - jnp.sum(log_scale) - log_slope
        return loc + jnp.exp(log_scale) * (unit @ bent), log_prob


def _sinh_arcsinh(
    noise: Float[Array, " m"], skewness: Float[Array, " m"], log_tail: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Scalar]:
    """Noise bent by skewness and tails, and the log of the slope."""
    argument = (jnp.arcsinh(noise) + skewness) * jnp.exp(log_tail)
    log_cosh = jnp.logaddexp(argument, -argument) - jnp.log(2.0)
    log_slope = log_cosh + log_tail - 0.5 * jnp.log1p(noise**2)
    return jnp.sinh(argument), jnp.sum(log_slope)


def _feature_size(encoder: Callable, row: tuple[jax.ShapeDtypeStruct, ...]) -> int:
    shapes = ", ".join("×".join(map(str, part.shape)) or "scalar" for part in row)
    try:
        found = eqx.filter_eval_shape(encoder, *row)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"encoder: expected a function of one row's entries ({shapes}), got an error from it: "
            f"{error}"
        ) from error
    if not isinstance(found, jax.ShapeDtypeStruct) or len(found.shape) != 1:
        got = found.shape if isinstance(found, jax.ShapeDtypeStruct) else type(found).__name__
        raise ConfigError(f"encoder: expected features of shape (h,) of one row, got {got}")
    return found.shape[0]


class RowIntegral(eqx.Module):
    """Parts of the model's arguments that integrate the latents of each row out.

    Attributes:
        proposal: The arrays of a :class:`RowProposal`.
        points: Even points in the unit cube, one set for all rows, shape ``(k, m)``.
        seed: Data of the key by which each row shifts them.
    """

    proposal: PyTree
    points: Float[Array, "k m"]
    seed: UInt32[Array, "..."]

    def refined(self, times: int, seed: UInt32[Array, "..."]) -> "RowIntegral":
        """With so many times as many points, shifted in other ways."""
        count, dim = self.points.shape
        points = jnp.asarray(even_points(times * count, dim))
        return dataclasses.replace(self, points=points, seed=seed)

    def noise(self, index: Array) -> Float[Array, "b k m"]:
        """N(0, I) for each row: the same whenever the row is seen."""
        key = jax.random.wrap_key_data(self.seed)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        return jax.vmap(lambda key: shifted_normal(self.points, key))(keys)


class Weighted(eqx.Module):
    """Draws for each row, by the proposal.

    Attributes:
        outside: What sites outside the plate add to the log density.
        u: The draws, shape ``(k, b, m)``.
        log_weights: log p(u, row|z) − log q(u|row, z), shape ``(k, b)``.
    """

    outside: Scalar
    u: Float[Array, "k b m"]
    log_weights: Float[Array, "k b"]

    def log_integrals(self) -> Float[Array, " b"]:
        """Log p(row|z) of each row, from below in expectation."""
        return jax.nn.logsumexp(self.log_weights, axis=0) - jnp.log(self.log_weights.shape[0])


class RowIntegrator:
    """Integrates the latents of each row out of a model, by draws of an encoder's proposal.

    Compared by identity, as the functions that are made of it.

    Args:
        model: The joint log density.
        proposal: Its structure; the arrays are arguments.
        most_draws: Points for each row, at most.
    """

    def __init__(self, model: RowModel, proposal: RowProposal, most_draws: int):
        self.model, self.most_draws = model, most_draws
        self._static = eqx.partition(proposal, eqx.is_array)[1]

    def proposal(self, integral: RowIntegral) -> RowProposal:
        """The proposal with its arrays."""
        return eqx.combine(integral.proposal, self._static)

    def weigh(self, integral: RowIntegral, arguments: PyTree, z: Latent) -> Weighted:
        """Importance weights of draws for each row of a minibatch."""
        proposal = self.proposal(integral)
        outputs = proposal.outputs(self.model.data(arguments))
        noise = integral.noise(arguments[1].index)
        one_row = jax.vmap(proposal.transform, (None, None, 0))
        u, log_q = jax.vmap(one_row, (0, None, 0), (1, 1))(outputs, z, noise)
        outside, terms = jax.vmap(lambda u: self.model.log_joint(arguments, z, u))(u)
        return Weighted(outside[0], u, terms - log_q)

    def log_density(self, arguments: PyTree, z: Latent) -> Scalar:
        """An estimate, from one minibatch, of log p(z) with the latents of all rows integrated out.

        Args:
            arguments: (arrays in memory, integral), minibatch.
            z: Shared latents.
        """
        (arrays, integral), batch = arguments
        weighted = self.weigh(integral, (arrays, batch), z)
        return weighted.outside + self.model.weight * jnp.sum(weighted.log_integrals())
