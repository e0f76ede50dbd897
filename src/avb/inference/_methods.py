"""The other methods of inference, by the library's own parts: Gaussians, a flow, a critic.

In the frame of the Gaussian fits the target is a latent-variable model with one datum and prior
N(0, I); posteriors, contrasts, critics, objectives, training and evaluation are those of the
autoencoders.
"""

import time
from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._gradients import stop
from avb._method import Method
from avb._types import Datum, Features, Key, Latent
from avb.contrasts import GaussianContrast
from avb.critics import ResidualCritic
from avb.densities._gaussian import standard_normal_log_prob
from avb.inference._framed import (
    NO_DATUM,
    FramedDensity,
    FramedSampler,
    out_of,
    single_frame,
)
from avb.inference._journal import METHOD, Journal
from avb.inference._mixture import Frames
from avb.inference._modes import Modes
from avb.inference._target import Target
from avb.models import LatentVariableModel
from avb.models._latent import standard_normal
from avb.models._likelihood import AbstractLikelihood
from avb.objectives import WeightedLogistic
from avb.posteriors import (
    AbstractPosterior,
    AbstractTractablePosterior,
    FlowPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    ImplicitPosterior,
)
from avb.training import DeviceData, FitConfig, Progress, State, fit, init

MethodName = Literal["auto", "self", "critic", "gaussian", "gaussian-diagonal", "flow"]
BY_SELF_CONTRAST = ("auto", "self")
FEWEST_TO_COUPLE = 2
# Of a regularised horseshoe of 43 dimensions, 4 of them lose a nat more than 8 in as many steps.
FLOW_LAYERS = 8
DRAWS = 256
# A report comes twice a second.
SAVE_SECONDS = 10.0
CONTRAST_DRAWS = 4


def check_method(name: str) -> None:
    """Raise a ``ConfigError`` for an unknown method."""
    if name not in get_args(MethodName):
        known = ", ".join(map(repr, get_args(MethodName)))
        raise ConfigError(f"method: expected one of {known}, got {name!r}")


def check_dim(name: MethodName, dim: int) -> None:
    """Raise a ``ConfigError`` for a flow of one dimension."""
    if name == "flow" and dim < FEWEST_TO_COUPLE:
        raise ConfigError(
            f"method 'flow': expected at least 2 dimensions to couple, got {dim}; use 'self'"
        )


class _LogRatio(eqx.Module):
    """Log p(m + F u) |F| / N(u; 0, I), as the parameter of one datum; a constant of training."""

    target: Target
    frame: Frames

    def __call__(self, white: Latent) -> Float[Array, "1 1"]:
        fixed = stop(self)
        log_p = fixed.target.log_density(out_of(fixed.frame, white)) + fixed.frame.log_det[0]
        return (log_p - standard_normal_log_prob(white)).reshape(1, *NO_DATUM)


class _Given(AbstractLikelihood):
    """A likelihood whose logarithm is its parameter."""

    num_parameters: int = eqx.field(static=True, default=1)

    def distribution(self, parameters: Float[Array, "1 1"]) -> dist.Distribution:
        return dist.Delta(jnp.zeros(NO_DATUM), log_density=parameters[0])


def as_model(target: Target, frame: Frames) -> LatentVariableModel:
    """The target in a frame's coordinates, as p(u) p(x|u) of one datum: its ELBO is p's."""
    return LatentVariableModel(
        standard_normal(target.dim), _LogRatio(target, frame), _Given(), NO_DATUM
    )


def no_data() -> np.ndarray:
    """The one datum, which tells nothing."""
    return np.zeros((1, *NO_DATUM), np.float32)


def _nothing(x: Datum) -> Features:
    return x


def _at_the_frame(head: eqx.nn.Linear) -> eqx.nn.Linear:
    """A head that starts at location zero and scale one: the frame's own."""
    return jax.tree.map(jnp.zeros_like, head)


def inner_posterior(name: MethodName, dim: int, key: Key) -> AbstractPosterior:
    """The untrained posterior of a method, in a frame's coordinates."""
    shapes = {"data_shape": NO_DATUM, "latent_dim": dim}
    if name == "flow":
        flow = FlowPosterior(_nothing, layers=FLOW_LAYERS, **shapes, key=key)
        return eqx.tree_at(lambda q: q.head.linear, flow, replace_fn=_at_the_frame)
    kinds = {"critic": ImplicitPosterior, "gaussian": FullGaussianPosterior}
    posterior = kinds.get(name, GaussianPosterior)(_nothing, **shapes, key=key)
    return eqx.tree_at(lambda q: q.head, posterior, replace_fn=_at_the_frame)


def _frame(name: MethodName, modes: Modes) -> Frames:
    """The best mode's frame for Gaussians, that of all modes together for the rest."""
    weights = jnp.exp(modes.log_weights)
    loc, factor = modes.frames.loc, modes.frames.factor
    best = jnp.argmax(weights)
    if name == "gaussian":
        return single_frame(loc[best], factor[best])
    if name == "gaussian-diagonal":
        # The best independent Gaussian for a Gaussian target has its conditional scales.
        inverse = modes.frames.inverse[best]
        return single_frame(loc[best], jnp.diag(jnp.sum(inverse**2, axis=0) ** -0.5))
    mean = weights @ loc
    covariances = jnp.einsum("cij,ckj->cik", factor, factor)
    spread = jnp.einsum("ci,cj->cij", loc - mean[None, :], loc - mean[None, :])
    covariance = jnp.einsum("c,cij->ij", weights, covariances + spread)
    return single_frame(mean, jnp.linalg.cholesky(covariance))


def _method(name: MethodName, model: LatentVariableModel, key: Key) -> Method:
    key_posterior, key_contrast, key_critic = jax.random.split(key, 3)
    posterior = inner_posterior(name, model.latent_dim, key_posterior)
    if name != "critic":
        return Method(model, posterior, posterior_draws=DRAWS)
    size = NO_DATUM[0]
    return Method(
        model,
        posterior,
        GaussianContrast(size, model.latent_dim, key=key_contrast),
        ResidualCritic(size, model.latent_dim, key=key_critic),
        WeightedLogistic(),
        contrast_draws=CONTRAST_DRAWS,
        posterior_draws=DRAWS,
    )


def framed(posterior: AbstractPosterior, frame: Frames) -> FramedDensity | FramedSampler:
    """The posterior in the target's own coordinates."""
    if isinstance(posterior, AbstractTractablePosterior):
        features = posterior.encoder(jnp.zeros(NO_DATUM, frame.loc.dtype))
        return FramedDensity(frame, posterior.density(features))
    return FramedSampler(frame, posterior)


def skeleton(name: MethodName, frame: Frames) -> FramedDensity | FramedSampler:
    """A method's posterior before training."""
    return framed(inner_posterior(name, frame.loc.shape[1], jax.random.key(0)), frame)


def train_method(
    name: MethodName,
    target: Target,
    modes: Modes,
    key: Key,
    steps: int,
    journal: Journal,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FramedDensity | FramedSampler, int, int]:
    """The posterior of a method, with its steps and those skipped.

    Args:
        name: The method, other than those by self contrast.
        target: p.
        modes: The Gaussian fits, whose frames training starts in.
        key: PRNG key.
        steps: Steps of training.
        journal: Where to go on, and to write down how far it is.
        progress: Called with the steps done and those in all.

    Raises:
        TrainingError: Too many steps in a row without finite numbers.
    """
    frame = _frame(name, modes)
    key_method, key_fit = jax.random.split(key)
    method = _method(name, as_model(target, frame), key_method)
    rate, momentum = (1e-3, 0.5) if name == "critic" else (3e-3, 0.9)
    config = FitConfig(
        epochs=steps,
        batch_size=1,
        learning_rate=rate,
        critic_learning_rate=2 * rate,
        momentum=momentum,
        final_rate=0.01,
        critic_final_rate=0.01,
        kl_warmup=0.0,
        ema_decay=0.995,
    )

    data = no_data()
    began = init(method, DeviceData(data, "real", config.batch_size), config, key=key_fit)
    saved = time.perf_counter()

    def tell(now: Progress) -> None:
        nonlocal saved
        if time.perf_counter() - saved >= SAVE_SECONDS:
            _keep(journal, now.state)
            saved = time.perf_counter()
        if progress is not None:
            progress(now.step, now.total_steps)

    result = fit(
        method,
        data,
        config=config,
        key=key_fit,
        init_state=_or_kept(journal, began),
        on_progress=tell,
    )
    skipped = int(np.sum(np.asarray(result.state.faults.by_part)))
    return framed(result.method.posterior, frame), steps, skipped


def _keep(journal: Journal, state: State) -> None:
    if journal.folder is not None:
        from avb.runs._checkpoints import to_arrays

        journal.save(METHOD, to_arrays(state))


def _or_kept(journal: Journal, began: State) -> State:
    arrays = journal.load(METHOD)
    if arrays is None:
        return began
    from avb.runs._checkpoints import from_arrays

    return from_arrays(dict(arrays), began)
