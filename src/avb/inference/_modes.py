"""Where the mass is: Gaussian fits from many starts, without repeats, weighted to fit together."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._types import Key
from avb.inference import _npz as npz
from avb.inference._gaussian_fit import GaussianFit, fit_gaussians
from avb.inference._mixture import Frames
from avb.inference._npz import Arrays
from avb.inference._target import START_RADIUS, Target, check_starts

MAX_ROUNDS = 24
# Starts without a new mode, for each mode found, after which the search ends. One of c equal modes
# escapes 8 c starts with probability exp(−8), and more often where starts fall outside them all.
BARREN = 8
# Every other start of the first round lies in a box that is wider by this.
WIDE = 2.5
MAX_PARTS = 32
# Symmetrised divergence, in nats a dimension, under which two fits are the same.
SAME = 0.3
MIN_WEIGHT = 2e-3
# Divergence from the mixture of the other fits, in nats, up to which a fit is no new mode.
COVERED = 6.0
COVER_DRAWS = 64
# Fits this far below the best ELBO cannot carry mass, whatever the others miss.
MAX_DEFICIT = 12.0
WEIGHT_DRAWS = 128
WEIGHT_STEPS = 200
COUNTS = ("starts", "failed", "still_open")


@dataclasses.dataclass(frozen=True)
class Modes:
    """Weighted Gaussians, one for each mode found.

    Attributes:
        frames: The Gaussians, as affine frames.
        log_weights: Log of their weights, of shape ``(c,)``.
        starts: Fits tried.
        failed: Fits whose ELBO is not finite or that are far from any mass.
        still_open: Whether the search ended while it still found new modes.
    """

    frames: Frames
    log_weights: Float[Array, " c"]
    starts: int
    failed: int
    still_open: bool

    def to_arrays(self) -> Arrays:
        """All of it, for a file."""
        numbers = {name: np.asarray(getattr(self, name)) for name in ("log_weights", *COUNTS)}
        return npz.to_arrays(self.frames) | numbers

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Modes":
        """Those that :meth:`to_arrays` gave."""
        zero = jnp.zeros(())
        frames = npz.from_arrays(arrays, Frames(zero, zero, zero, zero))
        counts = (arrays[name].item() for name in COUNTS)
        return cls(frames, jnp.asarray(arrays["log_weights"]), *counts)


def _same(a: GaussianFit, b: GaussianFit) -> bool:
    """Whether two fits differ by no more than their noise."""
    dim = len(a.loc)
    cross = np.linalg.solve(a.factor, b.factor)
    back = np.linalg.inv(cross)
    shift = np.asarray(b.loc) - np.asarray(a.loc)
    shifts = np.sum(np.linalg.solve(a.factor, shift) ** 2) + np.sum(
        np.linalg.solve(b.factor, shift) ** 2
    )
    divergence = 0.25 * (np.sum(cross**2) + np.sum(back**2) - 2 * dim + shifts)
    return bool(divergence < SAME * dim)


def _is_covered(fit: GaussianFit, others: list[GaussianFit]) -> bool:
    """Whether the mixture of others reaches where a fit is: pieces of a ring do, modes do not."""
    if not others:
        return False
    u = np.random.default_rng(0).standard_normal((COVER_DRAWS, len(fit.loc)))
    z = fit.loc + u @ np.asarray(fit.factor).T
    logs = [
        -0.5 * np.sum(np.linalg.solve(other.factor, (z - other.loc).T) ** 2, axis=0) - other.log_det
        for other in others
    ]
    mine = -0.5 * np.sum(u**2, axis=1) - fit.log_det
    return bool(np.mean(mine - np.logaddexp.reduce(logs)) + np.log(len(others)) < COVERED)


def _one(fits: GaussianFit, index: int) -> GaussianFit:
    return jax.tree.map(lambda leaf: np.asarray(leaf[index], np.float64), fits)


def _distinct(fits: list[GaussianFit]) -> list[GaussianFit]:
    """The best of each group of equal fits, best first."""
    kept: list[GaussianFit] = []
    for fit in sorted(fits, key=lambda f: -float(f.elbo)):
        if fit.elbo < kept[0].elbo - MAX_DEFICIT if kept else False:
            break
        if not any(_same(other, fit) for other in kept):
            kept.append(fit)
    return kept[:MAX_PARTS]


def _upright(factor: np.ndarray) -> np.ndarray:
    """The square root of F Fᵀ whose coordinates stay closest to the target's own."""
    scale = np.linalg.norm(factor, axis=1)
    values, vectors = np.linalg.eigh((factor / scale[:, None]) @ (factor / scale[:, None]).T)
    root = (vectors * np.sqrt(np.maximum(values, 1e-14))) @ vectors.T
    return scale[:, None] * root


def _frames(fits: list[GaussianFit]) -> Frames:
    factors = [_upright(np.asarray(fit.factor)) for fit in fits]
    arrays = (
        np.stack([fit.loc for fit in fits]),
        np.stack(factors),
        np.stack([np.linalg.inv(factor) for factor in factors]),
        np.stack([np.linalg.slogdet(factor)[1] for factor in factors]),
    )
    return Frames(*(jnp.asarray(a, jnp.result_type(float)) for a in arrays))


@eqx.filter_jit
def _weights(target: Target, frames: Frames, key: Key) -> Float[Array, " c"]:
    """Log weights of Gaussians that maximise the ELBO of their mixture."""
    count, dim = frames.loc.shape
    u = jax.random.normal(key, (count, WEIGHT_DRAWS, dim))
    z = frames.loc[:, None, :] + jnp.einsum("cij,csj->csi", frames.factor, u)
    white = jax.vmap(jax.vmap(frames.whiten))(z)
    parts = -0.5 * jnp.sum(white**2, axis=-1) - frames.log_det[None, None, :]
    parts = parts - 0.5 * dim * jnp.log(2.0 * jnp.pi)
    log_p = jax.vmap(jax.vmap(target.log_density))(z)
    return best_weights(parts, log_p)


def best_weights(parts: Float[Array, "c s c"], log_p: Float[Array, "c s"]) -> Float[Array, " c"]:
    """Log weights that maximise a mixture's ELBO, which is concave in the weights.

    The steps w_c ← w_c exp(E_c[log p − log q]) change nothing where the mixture is best; with
    one, they solve the case of separated parts.

    Args:
        parts: Log density of each part (last axis) at draws of each part (first).
        log_p: The target at the draws.
    """
    log_p = jnp.maximum(jnp.nan_to_num(log_p, nan=-1e10, neginf=-1e10), -1e10)

    def improve(log_w, _):
        log_q = jax.nn.logsumexp(parts + log_w[None, None, :], axis=-1)
        gain = jnp.mean(log_p - log_q, axis=1)
        return jax.nn.log_softmax(log_w + 0.7 * gain), None

    count = parts.shape[0]
    start = jnp.full(count, -jnp.log(float(count)), parts.dtype)
    return lax.scan(improve, start, None, length=WEIGHT_STEPS)[0]


def _padded(frames: Frames, count: int) -> Frames:
    return jax.tree.map(lambda a: jnp.concatenate([a, a[-1:].repeat(count, axis=0)]), frames)


def _weigh(target: Target, fits: list[GaussianFit], key: Key) -> tuple[list[GaussianFit], Array]:
    """The fits that carry mass, and their log weights."""
    if len(fits) == 1:
        return fits, jnp.zeros(1)
    # A power of two of them, so that few programs are compiled; copies share a weight.
    size = 1 << (len(fits) - 1).bit_length()
    frames = _padded(_frames(fits), size - len(fits))
    weights = np.exp(np.asarray(_weights(target, frames, key), np.float64))
    weights[len(fits) - 1] = weights[len(fits) - 1 :].sum()
    weights = weights[: len(fits)]
    kept = [i for i, w in enumerate(weights) if w >= MIN_WEIGHT]
    total = weights[kept].sum()
    log_weights = jnp.asarray(np.log(weights[kept] / total), jnp.result_type(float))
    return [fits[i] for i in kept], log_weights


def _spread(fits: list[GaussianFit], uniform: np.ndarray) -> np.ndarray:
    """Starts in a box half as large again as the one that holds all fits."""
    sides = [3.0 * np.linalg.norm(fit.factor, axis=1) for fit in fits]
    low = np.min([fit.loc - side for fit, side in zip(fits, sides, strict=True)], axis=0)
    high = np.max([fit.loc + side for fit, side in zip(fits, sides, strict=True)], axis=0)
    return 0.5 * (low + high) + 0.75 * (high - low) * uniform


def weigh_fits(target: Target, fits: GaussianFit, key: Key) -> tuple[Frames, Array]:
    """Frames and log weights of stacked fits: equal ones merged, those without mass left out."""
    found = _distinct([_one(fits, i) for i in range(fits.loc.shape[0])])
    kept, log_weights = _weigh(target, found, key)
    return _frames(kept), log_weights


def find_modes(target: Target, key: Key, starts: int) -> Modes:
    """Fit from rounds of starts until a round finds nothing new.

    A target whose first round ends in one place gets one more, from a box around it; others
    until there were many starts without a new mode, in ``MAX_ROUNDS`` rounds at most.

    Raises:
        ConfigError: No fit has a finite ELBO.
    """
    keys = jax.random.split(key, 2 * MAX_ROUNDS + 1)
    # On the host, where few numbers need no compiling.
    random = np.random.default_rng(np.asarray(jax.random.bits(keys[-1], (4,))))
    uniform = random.uniform(-1.0, 1.0, (MAX_ROUNDS, starts, target.dim))
    radius = START_RADIUS * np.where(np.arange(starts) % 2 == 0, 1.0, WIDE)
    points, found, log_weights = radius[:, None] * uniform[0], [], jnp.zeros(1)
    tried, failed, barren, dtype = 0, 0, 0, jnp.result_type(float)
    for index in range(MAX_ROUNDS):
        fits = fit_gaussians(target, jnp.asarray(points, dtype), keys[2 * index])
        finite = np.isfinite(np.asarray(fits.elbo)) & (np.asarray(fits.elbo) > -1e30)
        tried, failed = tried + starts, failed + int(np.sum(~finite))
        before = found
        found = _distinct(before + [_one(fits, int(i)) for i in np.flatnonzero(finite)])
        if not found:
            continue
        found, log_weights = _weigh(target, found, keys[2 * index + 1])
        new = any(not _is_covered(fit, before) for fit in found)
        barren = 0 if new else barren + starts
        if barren >= BARREN * len(found):
            break
        points = _spread(found, uniform[(index + 1) % MAX_ROUNDS])
    if not found:
        check_starts(target, keys[-1])
        raise ConfigError(
            f"starts: expected one from which a Gaussian fit succeeds, got none of {tried}; "
            "check that the log density has a maximum and finite gradients"
        )
    searched = barren >= BARREN * len(found)
    return Modes(_frames(found), log_weights, tried, failed, not searched)
