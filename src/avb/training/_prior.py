"""A prior fitted to where the posterior puts the data, once all else is trained."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._errors import ConfigError, DataError
from avb._method import Method
from avb._types import Key
from avb.contrasts import PriorContrast
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.models._flow_prior import FlowPrior
from avb.posteriors import AbstractPosterior
from avb.training._batches import DeviceData, Encoding
from avb.training._descend import descend
from avb.training._refine import Chains, refine

STEPS = 4000
BATCH = 512
RATE = 1e-3
# Of the steps: the mean of their parameters is what is kept.
AVERAGED = 0.25
# A datum's, as far as there are not more in all.
DRAWS, MOST_DRAWS = 8, 400_000
HELD_OUT_SHARE = 0.1
ENCODED_AT_ONCE = 1000
# A draw that is moved costs a hundred times as much.
REFINED_DRAWS, REFINED_AT_ONCE = 2, 256


class FittedPrior(NamedTuple):
    """A method with a prior fitted to its posterior, and what that gains.

    Attributes:
        method: The method with a :class:`~avb.models.FlowPrior`, all else as it was.
        gain: Mean of E_q[log p_new(z) − log p_old(z)] over data that the prior was not fitted to,
            in nats per datum: the gain in ELBO. With ``hmc_transitions`` the mean is over
            p_old(z|x), as far as draws arrive there, and the gain in log p(x) at least as much.
        standard_error: That of the mean, over data.
    """

    method: Method
    gain: float
    standard_error: float


def fit_prior(
    method: Method,
    data: np.ndarray,
    *,
    key: Key,
    encoding: Encoding | None = None,
    progress: Progress | None = None,
) -> FittedPrior:
    """Fit a flow to the aggregate posterior q(z) = E_data[q(z|x)] and take it for the prior.

    Of all priors the aggregate posterior has the highest ELBO, by KL(q(z) ‖ p(z)) nats more than
    p (Hoffman & Johnson 2016). Only the prior changes: posterior, contrast and critic stay right.
    Of a method with ``hmc_transitions`` draws are first moved towards p(z|x), by as many: the prior
    then gains likelihood rather than ELBO.

    Args:
        method: A trained method.
        data: Training data of shape ``(n, *data_shape)``, as for :func:`avb.fit`; a tenth of them,
            at random, tells the gain and is not fitted to.
        key: PRNG key.
        encoding: As for :func:`avb.fit`.
        progress: Called with the draws made and those in all; the fit comes after them.

    Returns:
        The method with the new prior, and the gain.

    Raises:
        ConfigError: The contrast is the prior, so that another one would make the critic wrong; or
            the model has but one latent dimension.
        DataError: Data of the wrong shape or type or not finite, or fewer than 20.

    References:
        Hoffman & Johnson (2016), https://approximateinference.org/2016/accepted/HoffmanJohnson2016.pdf;
        Tomczak & Welling (2018), https://arxiv.org/abs/1705.07120.
    """
    if isinstance(method.contrast, PriorContrast):
        raise ConfigError(
            "fit_prior: expected a contrast that does not depend on the prior, got PriorContrast, "
            "whose critic would be wrong for another prior; use avb_adaptive"
        )
    check_data(data[:1], method.model.data_shape)
    if len(data) < 20:
        raise DataError(f"fit_prior: expected at least 20 data, got {len(data)}")
    if encoding is None:
        encoding = "binarise" if data.dtype == np.uint8 else "real"
    key_draws, key_order, key_flow, key_fit = jax.random.split(key, 4)
    prior = FlowPrior.coupling(method.model.latent_dim, key=key_flow)
    device_data = DeviceData(data, encoding, batch_size=1)
    if method.hmc_transitions:
        draws = _refined_draws(method, device_data, key_draws, progress)
    else:
        draws = _draws(method.posterior, device_data, key_draws, progress)
    order = np.asarray(jax.random.permutation(key_order, len(data)))
    held_out, fitted_to = np.split(draws[order], [int(HELD_OUT_SHARE * len(data))])
    prior = _fit(prior, jnp.asarray(fitted_to.reshape(-1, fitted_to.shape[-1])), key_fit)
    gains = over_batches(
        _gain_from(method, prior), held_out, key=key_fit, batch_size=ENCODED_AT_ONCE
    )
    return FittedPrior(
        eqx.tree_at(lambda m: m.model.prior, method, prior),
        float(np.mean(gains, dtype=np.float64)),
        float(np.std(gains, ddof=1) / len(gains) ** 0.5),
    )


def _draws(
    posterior: AbstractPosterior, data: DeviceData, key: Key, progress: Progress | None
) -> Float[np.ndarray, "n k d"]:
    """Draws for each datum."""
    count = max(1, min(DRAWS, MOST_DRAWS // len(data.raw)))

    @eqx.filter_jit
    def of_batch(posterior, data, raw, keys):
        def of_datum(raw: Array, key: Key) -> Array:
            key_pixels, key_draws = jax.random.split(key)
            return posterior.sample(key_draws, data.values(raw, key_pixels), (count,))

        return jax.vmap(of_datum)(raw, keys)

    return over_batches(
        lambda raw, keys: of_batch(posterior, data, raw, keys),
        np.asarray(data.raw),
        key=key,
        batch_size=ENCODED_AT_ONCE,
        progress=progress and (lambda done, total: progress(count * done, count * total)),
    )


def _refined_draws(
    method: Method, data: DeviceData, key: Key, progress: Progress | None
) -> Float[np.ndarray, "n k d"]:
    """Draws for each datum, moved towards p(z|x)."""

    @eqx.filter_jit
    def of_batch(method, data, raw, key, chains):
        key_pixels, key_chains = jax.random.split(key)
        return refine(method, data.values(raw, key_pixels), key_chains, chains)

    chains, passes, raw = Chains.first(), [], np.asarray(data.raw)

    def next_batch(raw, keys):
        nonlocal chains
        draws, chains = of_batch(method, data, raw, keys[0], chains)
        return draws.reshape(len(raw), -1, draws.shape[-1])

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(len(passes) * total + done, REFINED_DRAWS * total)

    for key_pass in jax.random.split(key, REFINED_DRAWS):
        draws = over_batches(
            next_batch, raw, key=key_pass, batch_size=REFINED_AT_ONCE, progress=tell
        )
        passes.append(draws)
    return np.concatenate(passes, axis=1)


@eqx.filter_jit
def _fit(prior: FlowPrior, draws: Float[Array, "n d"], key: Key) -> FlowPrior:
    """The flow of highest likelihood."""
    parameters, static = eqx.partition(prior, eqx.is_inexact_array)

    def loss(parameters, key: Key):
        chosen = draws[jax.random.randint(key, (BATCH,), 0, len(draws))]
        return -jnp.mean(eqx.combine(parameters, static).log_prob(chosen))

    fitted = descend(loss, parameters, key, steps=STEPS, rate=RATE, averaged=AVERAGED)
    return eqx.combine(fitted, static)


def _gain_from(method: Method, prior: FlowPrior):
    """Of each datum, from its draws: how much more log p is under the new prior."""

    @eqx.filter_jit
    def gain(method, prior, draws):
        more = prior.log_prob(draws) - jax.vmap(jax.vmap(method.model.log_prior))(draws)
        return jnp.mean(more, axis=1)

    return lambda draws, keys: gain(method, prior, draws)
