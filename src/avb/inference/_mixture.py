"""The posterior: a mixture of semi-implicit parts, each bent in the whitened frame of a mode."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from avb._types import Key, Latent, Noise
from avb.densities._gaussian import LOG_2PI
from avb.densities._scale import bounded_log_scale
from avb.nets._mlp import with_zero_output

# In a frame's units: a piece of a curved target is narrow beside the whole that it bends to.
MAX_BEND = 30.0
# Nats that z tells of ε at the start: enough to bend, and few enough that the mixture over
# K components still is a tight bound.
START_INFORMATION = 2.5
# Up to this many dimensions the Gaussians given ε may be correlated in their frames.
MAX_COUPLED = 32
MAX_COUPLING = 5.0


class Frames(eqx.Module):
    """Affine frames z = m_c + F_c u, one a mode; constants of training.

    Args:
        loc: m, of shape ``(c, d)``.
        factor: F, of shape ``(c, d, d)``.
        inverse: F⁻¹.
        log_det: log |det F|, of shape ``(c,)``.
    """

    loc: Float[Array, "c d"]
    factor: Float[Array, "c d d"]
    inverse: Float[Array, "c d d"]
    log_det: Float[Array, " c"]

    def whiten(self, z: Latent) -> Float[Array, "c d"]:
        """The vector in each frame's own coordinates."""
        return jnp.einsum("cij,cj->ci", self.inverse, z[None, :] - self.loc)

    def place(self, white: Float[Array, "c d"]) -> Float[Array, "c d"]:
        """The vectors that have these coordinates, one in each frame."""
        return self.loc + jnp.einsum("cij,cj->ci", self.factor, white)


class Components(eqx.Module):
    """Gaussians given ε, one in each frame: (I + A)(u − loc) ~ N(0, diag exp(log_scale)²).

    A, ``coupling``, is strictly lower triangular, so that its determinant is one; ``None`` where
    coordinates are independent.
    """

    loc: Float[Array, "c d"]
    log_scale: Float[Array, "c d"]
    coupling: Float[Array, "c d d"] | None

    def standard(self, white: Float[Array, "c d"]) -> Float[Array, "c d"]:
        """The vector as one of N(0, I), from the frames' coordinates."""
        inverse = jnp.exp(-self.log_scale)
        if self.coupling is None:
            return (white - self.loc) * inverse
        # Not of the difference: over many z and ε this is one product of matrices.
        root = inverse[..., None] * (self.coupling + jnp.eye(white.shape[-1])[None])
        shift = jnp.einsum("cij,cj->ci", root, self.loc)
        return jnp.einsum("cij,cj->ci", root, white) - shift

    def squares(self, white: Float[Array, "s c d"]) -> Float[Array, "s k c"]:
        """|u|² of :meth:`standard` for several vectors and the Gaussians of several ε.

        Independent coordinates are had by products of matrices, thirty times as fast at 500
        dimensions as vector by vector. What that costs is a rounding error below 1e-6 (u/σ)² a
        coordinate, where a draw at u in a frame meets a Gaussian of scale σ. It stays small, as ε
        can tell at most log K nats of z: one coordinate may have σ = 0.01, not many.
        """
        if self.coupling is None:
            inverse = jnp.exp(-2.0 * self.log_scale)
            scaled = inverse * self.loc
            far = jnp.einsum("scd,kcd->skc", white**2, inverse)
            near = jnp.einsum("scd,kcd->skc", white, scaled)
            return far - 2.0 * near + jnp.sum(scaled * self.loc, axis=-1)[None]

        def of_one(white, given):
            return jnp.sum(given.standard(white) ** 2, axis=-1)

        return jax.vmap(jax.vmap(of_one, in_axes=(None, 0)), in_axes=(0, None))(white, self)

    def white(self, part: Array, standard: Latent) -> Latent:
        """The inverse of :meth:`standard`, for one part."""
        scaled = jnp.exp(self.log_scale[part]) * standard
        if self.coupling is None:
            return self.loc[part] + scaled
        unit = self.coupling[part] + jnp.eye(standard.shape[0])
        solve = jax.scipy.linalg.solve_triangular
        return self.loc[part] + solve(unit, scaled, lower=True, unit_diagonal=True)


class ImplicitMixture(eqx.Module):
    """q(z) = E_ε[Σ_c w_c N(z; m_c + F_c μ_c(ε), F_c Σ_c(ε) F_cᵀ)], ε ~ N(0, I).

    Given ε it is a mixture of Gaussians that can be evaluated, so all that holds for
    semi-implicit posteriors holds for it, and its bracket is one of the whole mixture. It starts
    as the mixture of Gaussians N(m_c, F_c F_cᵀ), in which ε already carries part of the
    variance: with none, ε would tell nothing of z and have no gradient.

    Args:
        frames: See :class:`Frames`.
        log_weights: Log of the weights w, of shape ``(c,)``.
        width: Hidden units of each part's network.
        key: PRNG key.

    References:
        Yin & Zhou (2018), https://arxiv.org/abs/1805.11183.
    """

    frames: Frames
    logits: Float[Array, " c"]
    networks: eqx.nn.MLP
    noise_dim: int = eqx.field(static=True)
    share: float = eqx.field(static=True)

    def __init__(
        self, frames: Frames, log_weights: Float[Array, " c"], *, width: int = 64, key: Key
    ):
        count, dim = frames.loc.shape
        self.frames, self.logits = frames, log_weights
        self.noise_dim = max(dim, 4)
        self.share = math.sqrt(-math.expm1(-2.0 * START_INFORMATION / dim))

        below = dim * (dim - 1) // 2 if dim <= MAX_COUPLED else 0

        def network(key: Key) -> eqx.nn.MLP:
            sizes = (self.noise_dim, 2 * dim + below, width, 2)
            return with_zero_output(eqx.nn.MLP(*sizes, activation=jax.nn.silu, key=key))

        self.networks = eqx.filter_vmap(network)(jax.random.split(key, count))

    @property
    def dim(self) -> int:
        """Number of latent dimensions d."""
        return self.frames.loc.shape[1]

    @property
    def log_weights(self) -> Float[Array, " c"]:
        """Log of the weights of the parts."""
        return jax.nn.log_softmax(self.logits)

    def components(self, noise: Noise) -> Components:
        """The Gaussians of one ε, in whitened coordinates."""
        raw = eqx.filter_vmap(lambda network: network(noise))(self.networks)
        bend, log_shrink, below = jnp.split(raw, (self.dim, 2 * self.dim), axis=-1)
        loc = self.share * noise[None, : self.dim] + MAX_BEND * jnp.tanh(bend / MAX_BEND)
        log_scale = bounded_log_scale(0.5 * math.log1p(-(self.share**2)) + log_shrink)
        return Components(loc, log_scale, self._coupling(below))

    def _coupling(self, below: Float[Array, "c b"]) -> Float[Array, "c d d"] | None:
        if self.dim > MAX_COUPLED:
            return None
        rows, columns = np.tril_indices(self.dim, -1)
        matrix = jnp.zeros((below.shape[0], self.dim, self.dim), below.dtype)
        return matrix.at[:, rows, columns].set(MAX_COUPLING * jnp.tanh(below / MAX_COUPLING))

    def log_sum(self, white: Float[Array, "s c d"], given: Components) -> Float[Array, " s"]:
        """Log Σ_k q(z|ε_k) of several z, over the Gaussians of several ε.

        Args:
            white: The z in the coordinates of each frame.
            given: Stacked Gaussians.
        """
        volumes = jnp.sum(given.log_scale, axis=-1) + self.frames.log_det[None]
        heights = self.log_weights[None] - volumes
        logs = heights[None] - 0.5 * given.squares(white)
        return jax.nn.logsumexp(logs, axis=(1, 2)) - 0.5 * self.dim * LOG_2PI

    def emit(self, given: Components, part: Array, key: Key) -> Latent:
        """One z from the part's Gaussian of one ε."""
        white = given.white(part, jax.random.normal(key, (self.dim,)))
        # Not loc[part] + factor[part] @ white: over many draws that copies d² numbers for each.
        return self.frames.place(jnp.broadcast_to(white, self.frames.loc.shape))[part]

    def emit_each(self, given: Components, keys: Key) -> Float[Array, "c d"]:
        """One z from every part's Gaussian of one ε."""
        parts = jnp.arange(self.frames.loc.shape[0])
        standard = jax.vmap(lambda key: jax.random.normal(key, (self.dim,)))(keys)
        return self.frames.place(jax.vmap(given.white)(parts, standard))

    def draw(self, key: Key) -> tuple[Latent, Noise]:
        """One z, of shape ``(d,)``, and the ε that made it."""
        key_noise, key_part, key_z = jax.random.split(key, 3)
        noise = jax.random.normal(key_noise, (self.noise_dim,))
        part = jax.random.categorical(key_part, self.log_weights)
        return self.emit(self.components(noise), part, key_z), noise

    def sample(self, key: Key) -> Latent:
        """One z."""
        return self.draw(key)[0]


@eqx.filter_jit
def start_mixture(frames: Frames, log_weights: Float[Array, " c"], key: Key) -> ImplicitMixture:
    """An untrained mixture, its networks drawn in one compiled program."""
    return ImplicitMixture(frames, log_weights, key=key)


def log_mean(
    mixture: ImplicitMixture,
    z: Float[Array, "s d"],
    noise: Float[Array, "k e"],
    at_once: int,
) -> Float[Array, " s"]:
    """Log 1/K Σ_k q(z|ε_k), in memory that does not grow with K, a multiple of ``at_once``."""
    white = jax.vmap(mixture.frames.whiten)(z)

    def add(total, noise):
        given = jax.vmap(mixture.components)(noise)
        return jnp.logaddexp(total, mixture.log_sum(white, given)), None

    chunks = noise.reshape(-1, at_once, noise.shape[1])
    total, _ = lax.scan(add, jnp.full(z.shape[0], -jnp.inf), chunks)
    return total - math.log(noise.shape[0])
