"""Full-covariance Gaussian fits by natural gradients, in coordinates that need no scale.

Each step works in the fit's own whitened coordinates u, z = m + F u, u ~ N(0, I), where the
optimum has E[−∇²_u log p] = I and E[∇_u log p] = 0: badly scaled and strongly correlated targets
look like any other. With precision multipliers λ(h) = 1 + ρ(h − 1) + ½ρ²(h − 1)² of the
eigenvalues h of E[−∇²_u log p], which are positive whatever h is, it is the update of
Lin, Schmidt & Khan (2020), https://arxiv.org/abs/2002.10060, here also clipped.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avb._types import Key, Latent, Scalar
from avb.densities._gaussian import LOG_2PI
from avb.inference._target import Target

FAR_STEPS = 200
NEAR_STEPS = 30
NEAR = 0.3
MIN_DRAWS = 24
START_SCALE = 0.1
LAMBDA_MIN, LAMBDA_MAX = 0.25, 30.0
# Steps of this many posterior radii at most, while the fit is still far away.
MAX_STEP = 2.0
TRIED_LENGTHS = 8
FAR_RATE, FINAL_RATE = 0.8, 0.05
ELBO_DRAWS = 256


class GaussianFit(eqx.Module):
    """N(m, F Fᵀ) with its ELBO; stacked along the first axis for several starts.

    Attributes:
        loc: m, of shape ``(d,)``.
        factor: F, of shape ``(d, d)``, any square root of the covariance.
        log_det: log |det F|.
        elbo: E[log p − log N], in nats, up to the target's constant; −inf if the fit failed.
    """

    loc: Latent
    factor: Float[Array, "d d"]
    log_det: Scalar
    elbo: Scalar


def _design(dim: int, key: Key) -> Float[Array, "n d"]:
    """Points of N(0, I): randomly rotated axes, both ways, of squared length d.

    Their mean is zero and their covariance the identity, exactly, so that gradients at them
    give the Hessian of a quadratic without error (a spherical cubature rule).
    """
    rotations = -(-MIN_DRAWS // (2 * dim))
    raw = jax.random.normal(key, (rotations, dim, dim))
    axes = jnp.linalg.qr(raw)[0].reshape(-1, dim) * jnp.sqrt(float(dim))
    return jnp.concatenate([axes, -axes])


def _mean_slopes(target: Target, fit: GaussianFit, key: Key) -> tuple[Array, Array, Array]:
    """Means of gradient and negative Hessian in u, and the share of finite draws."""
    points = _design(target.dim, key)

    def log_density(u: Latent) -> Scalar:
        return target.log_density(fit.loc + fit.factor @ u)

    gradients: Array = jax.vmap(jax.grad(log_density))(points)
    ok = jnp.isfinite(gradients).all(axis=1)
    gradients = jnp.where(ok[:, None], gradients, 0.0)
    # E[∇²_u log p] = E[∇_u log p uᵀ] (Stein), so that no second derivative is taken.
    hessian = -gradients.T @ points / points.shape[0]
    return jnp.mean(gradients, axis=0), hessian, jnp.mean(ok)


def _safe_move(target: Target, fit: GaussianFit, move: Latent) -> Latent:
    """The move itself if it is short; of a long one the part that log p likes best."""
    longest = MAX_STEP * jnp.sqrt(float(target.dim))
    least = jnp.minimum(1.0, longest / jnp.maximum(jnp.linalg.norm(move), 1e-30))
    shares = least ** jnp.linspace(0.0, 1.0, TRIED_LENGTHS)
    tried = jax.vmap(lambda t: target.log_density(fit.loc + fit.factor @ (t * move)))(shares)
    best = jnp.argmax(jnp.nan_to_num(tried, nan=-jnp.inf, posinf=-jnp.inf))
    return shares[best] * move


def _step(target: Target, fit: GaussianFit, rate: Scalar, key: Key) -> tuple[GaussianFit, Scalar]:
    gradient, hessian, share = _mean_slopes(target, fit, key)
    values, vectors = jnp.linalg.eigh(0.5 * (hessian + hessian.T))
    change = rate * (jnp.clip(values, -1e6, 1e6) - 1.0)
    lifted = jnp.clip(1.0 + change + 0.5 * change**2, LAMBDA_MIN, LAMBDA_MAX)
    # Where half of the draws leave the support, only a narrower fit helps.
    narrower = share < 0.5
    lifted = jnp.where(narrower, 4.0, lifted)
    move = rate * (vectors @ ((vectors.T @ gradient) / lifted))
    move = _safe_move(target, fit, move)
    move = jnp.where(narrower, 0.0, move)
    factor = fit.factor @ ((vectors * lifted[None, :] ** -0.5) @ vectors.T)
    log_det = fit.log_det - 0.5 * jnp.sum(jnp.log(lifted))
    new = GaussianFit(fit.loc + fit.factor @ move, factor, log_det, fit.elbo)
    ok = jnp.isfinite(new.factor).all() & jnp.isfinite(new.loc).all()
    off = jnp.max(jnp.abs(jnp.log(jnp.maximum(values, 1e-6))))
    distance = jnp.maximum(off, jnp.linalg.norm(gradient))
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, fit), distance


def _elbo(target: Target, fit: GaussianFit, key: Key) -> Scalar:
    half = jax.random.normal(key, (ELBO_DRAWS // 2, target.dim))
    u = jnp.concatenate([half, -half])
    values = jax.vmap(lambda u: target.log_density(fit.loc + fit.factor @ u))(u)
    entropy = fit.log_det + 0.5 * target.dim * (1.0 + LOG_2PI)
    return jnp.nan_to_num(jnp.mean(values) + entropy, nan=-jnp.inf, posinf=-jnp.inf)


def fit_one(target: Target, start: Latent, key: Key) -> GaussianFit:
    """One fit, from one start."""
    dim, scale = target.dim, jnp.asarray(START_SCALE, start.dtype)
    fit = GaussianFit(start, scale * jnp.eye(dim), dim * jnp.log(scale), jnp.zeros_like(scale))
    return _settle(target, fit, jnp.zeros((), jnp.int32), key)


def _settle(target: Target, fit: GaussianFit, near: Array, key: Key) -> GaussianFit:
    """Steps until the fit is near its optimum, if it is not yet; then ever smaller ones."""
    key_steps, key_elbo = jax.random.split(key)
    # Once near, ever smaller steps, to average over the draws.
    rates = FAR_RATE * (FINAL_RATE / FAR_RATE) ** jnp.linspace(0.0, 1.0, NEAR_STEPS)

    def body(carry):
        fit, step, near = carry
        fit, distance = _step(target, fit, rates[near], jax.random.fold_in(key_steps, step))
        is_near = (near > 0) | (distance < NEAR) | (step >= FAR_STEPS)
        return fit, step + 1, near + is_near

    fit, _, _ = lax.while_loop(lambda carry: carry[2] < NEAR_STEPS, body, (fit, 0, near))
    return eqx.tree_at(lambda f: f.elbo, fit, _elbo(target, fit, key_elbo))


@eqx.filter_jit
def refit_gaussians(target: Target, fits: GaussianFit, key: Key) -> GaussianFit:
    """Each of several fits again, from where it is: a few steps for a target that has changed."""
    keys = jax.random.split(key, fits.loc.shape[0])
    one = jnp.ones((), jnp.int32)
    return lax.map(lambda pair: _settle(target, pair[0], one, pair[1]), (fits, keys))


@eqx.filter_jit
def fit_gaussians(target: Target, starts: Float[Array, "n d"], key: Key) -> GaussianFit:
    """A Gaussian fit from each start, in one compiled program."""
    keys = jax.random.split(key, starts.shape[0])
    return lax.map(lambda pair: fit_one(target, *pair), (starts, keys))
