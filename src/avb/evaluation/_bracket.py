"""The ELBO of a semi-implicit posterior between two bounds."""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from avb._check import expect_positive
from avb._errors import ConfigError
from avb._types import Datum, Features, Key
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._estimate import Estimate
from avb.evaluation._mixture_bounds import log_mixture_bounds
from avb.models import LatentVariableModel
from avb.posteriors import SemiImplicitPosterior

PILOT_DATA = 128
FIRST_COMPONENTS = 64
STEP = 4

Side = tuple[Any, Any]


class Bracket(NamedTuple):
    """Values and standard errors of one datum each: both bounds and what lies between them."""

    lower: Side
    upper: Side
    width: Side


def draw_with_bounds(
    posterior: SemiImplicitPosterior,
    features: Features,
    key: Key,
    *,
    draws: int,
    components: Int32[Array, ""] | int,
) -> tuple[Float[Array, "s d"], Float[Array, " s"], Float[Array, " s"]]:
    """Posterior draws, and log q(z|x) at each from below and from above, in expectation."""
    key_own, key_z, key_fresh = jax.random.split(key, 3)

    def conditionals(key: Key, count: int):
        noise = jax.random.normal(key, (count, posterior.noise_dim))
        return posterior.components(features, noise)

    own = conditionals(key_own, draws)
    z = jax.vmap(lambda density, key: density.sample(key))(own, jax.random.split(key_z, draws))
    return z, *log_mixture_bounds(conditionals, own, z, key_fresh, components)


@eqx.filter_jit
def _bracket(parts, components, x, keys) -> Bracket:
    model, posterior, draws = parts

    def datum(x: Datum, key: Key):
        z, without, with_own = draw_with_bounds(
            posterior, posterior.encoder(x), key, draws=draws, components=components
        )
        log_joint = jax.vmap(model.log_joint, in_axes=(None, 0))(x, z)
        sides = (log_joint - with_own, log_joint - without, with_own - without)
        return Bracket(*(mean_and_error(side) for side in sides))

    return jax.vmap(datum)(x, keys)


def _choose(parts, data, *, key: Key, width: float, most: int, batch_size: int) -> int:
    """The first K of a geometric sequence whose bracket is narrow enough on a pilot."""
    picked = np.unique(np.linspace(0, len(data) - 1, PILOT_DATA).astype(int))
    components = min(FIRST_COMPONENTS, most)
    while True:
        widths, errors = over_batches(
            lambda x, keys, k=components: _bracket(parts, jnp.int32(k), x, keys).width,
            data[picked],
            key=key,
            batch_size=batch_size,
        )
        error = np.sqrt(np.sum(errors**2)) / len(picked)
        if len(picked) < len(data):
            # The pilot's data stand for the others: their own spread counts too.
            error = np.std(widths, ddof=1) / np.sqrt(len(picked))
        if components >= most or np.mean(widths) + error <= width:
            return components
        components = min(STEP * components, most)


def elbo_bracket(
    model: LatentVariableModel,
    posterior: SemiImplicitPosterior,
    data: np.ndarray,
    *,
    key: Key,
    draws: int = 32,
    components: int | Literal["auto"] = "auto",
    width: float = 0.05,
    max_components: int = 16384,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[Estimate, Estimate]:
    """A lower and an upper bound of the ELBO of a semi-implicit posterior.

    With ε₀ the noise that made z and ε₁ … ε_K fresh,

        E[log p(x,z) − log 1/(K+1) Σ_{k=0..K} q(z|x,ε_k)] ≤ ELBO
            ≤ E[log p(x,z) − log 1/K Σ_{k=1..K} q(z|x,ε_k)].

    An automatic K is found on at most 128 of the data, spread evenly, with draws of their
    own: it grows by factors of 4 from 64 until the mean width plus its standard error is at
    most ``width``. The reported draws play no part in the choice, so both bounds hold in
    expectation for the K that was chosen. One compiled program serves every K.

    Args:
        model: p(x, z).
        posterior: A semi-implicit q(z|x).
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        draws: Posterior draws a datum, at least 2.
        components: K, or ``"auto"``. The bracket narrows as K grows; memory stays the same.
        width: The mean width that an automatic K is to reach, in nats per datum.
        max_components: Where an automatic K stops growing.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The lower and the upper bound, from the same draws. Their detail states K and, where
        it was chosen, whether the width was reached.

    Raises:
        ConfigError: The posterior is not semi-implicit, or a size is not positive.
        DataError: Data of another shape, or not finite.

    References:
        Yin & Zhou (2018), https://arxiv.org/abs/1805.11183; Sobolev & Vetrov (2019),
        https://arxiv.org/abs/1909.03354.
    """
    if not isinstance(posterior, SemiImplicitPosterior):
        raise ConfigError(
            f"the bracket needs a semi-implicit posterior, got {type(posterior).__name__}: use "
            "elbo where there is a density, fresh_critic_elbo for an implicit one"
        )
    check_draws(draws)
    if components != "auto" and components < 1:
        raise ConfigError(f"components of the bracket: expected at least 1, got {components}")
    if max_components < 1:
        raise ConfigError(f"max_components: expected at least 1, got {max_components}")
    expect_positive("width of the bracket", width)
    data = check_data(data, model.data_shape)
    parts = (model, posterior, draws)
    # A chosen K must not change the draws that are reported.
    key_pilot = jax.random.fold_in(key, 0)
    chosen = components
    if chosen == "auto":
        chosen = _choose(
            parts, data, key=key_pilot, width=width, most=max_components, batch_size=batch_size
        )
    found: Bracket = over_batches(
        lambda x, keys: _bracket(parts, jnp.int32(chosen), x, keys),
        data,
        key=key,
        batch_size=batch_size,
        progress=progress,
    )
    detail = f"{draws} draws a datum, K = {chosen}"
    if components == "auto":
        mean_width = float(np.mean(found.width[0]))
        reached = "reached" if mean_width <= width else "not reached"
        detail += f" (automatic), width {mean_width:.3g}: {width:g} {reached}"
    return (
        Estimate("ELBO", "lower bound", "mixture of conditionals", *found.lower, detail=detail),
        Estimate("ELBO", "upper bound", "mixture of conditionals", *found.upper, detail=detail),
    )
