"""The driver: compiled stretches of steps, with reports between them."""

import dataclasses
import enum
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from avb._check import expect_equal
from avb._errors import TrainingError
from avb._method import Method
from avb._types import Key
from avb.evaluation._batched import check_data
from avb.training._batches import DeviceData, Encoding
from avb.training._config import FitConfig
from avb.training._guard import PARTS
from avb.training._losses import total_loss
from avb.training._state import State, Sums, copied, init
from avb.training._step import Inputs, run

REPORT_STEPS = 100
STRETCH_SECONDS = 0.5
VALIDATION_DATA = 1000


class Outcome(enum.Enum):
    """How training ended."""

    COMPLETED = "all epochs are done"
    STOPPED = "stopped on request; the state can be resumed"
    NON_FINITE = "too many non-finite steps in a row"


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a caller is told between two compiled stretches of steps.

    Attributes:
        state: The state now. Copy what is to be kept: the next stretch reuses its buffers.
        step: Steps taken.
        total_steps: Steps in all.
        epoch: Epochs done, with fraction.
        metrics: Means since the last report, in nats per datum, at fixed steps only;
            otherwise ``None``.
    """

    state: State
    step: int
    total_steps: int
    epoch: float
    metrics: dict[str, float] | None


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What training gave.

    Attributes:
        state: The last state; give it to ``fit`` as ``init_state`` to go on.
        method: The method with averaged parameters: what to evaluate and to use.
        history: The metrics of every report, in order.
        outcome: How training ended.
    """

    state: State
    method: Method
    history: list[dict[str, float]]
    outcome: Outcome


def fit(
    method: Method,
    data: np.ndarray,
    *,
    config: FitConfig = FitConfig(),  # noqa: B008  (frozen)
    key: Key,
    encoding: Encoding | None = None,
    validation: np.ndarray | None = None,
    init_state: State | None = None,
    on_progress: Callable[[Progress], bool | None] | None = None,
    throw: bool = True,
) -> FitResult:
    """Train a method on data.

    Args:
        method: All parts, from a preset or put together by hand. It is not changed.
        data: Training data of shape ``(n, *data_shape)``; ``uint8``, integer or float.
        config: Settings.
        key: PRNG key. The same key, data and settings give the same result bit for bit,
            also when the run is interrupted and resumed.

    Other Arguments:
        encoding: ``"binarise"`` draws ``uint8`` pixels anew at each use, ``"real"`` takes
            values as they are (``uint8`` pixels scaled to [0, 1]). By default ``uint8``
            data are binarised.
        validation: Data, prepared as for evaluation, whose ELBO each report tells.
        init_state: A state to go on from, of the same method, data and settings; ``key``
            is then not used.
        on_progress: Called a few times a second; training stops when it returns ``True``.
        throw: Whether too many non-finite steps in a row raise an error.

    Returns:
        The result; see :class:`FitResult`.

    Raises:
        ConfigError: ``init_state`` belongs to other data.
        DataError: Data of the wrong shape or type.
        TrainingError: Too many non-finite steps in a row, if ``throw``. The error carries
            the last good state as ``state``.
    """
    check_data(data[:1], method.model.data_shape)
    if encoding is None:
        encoding = "binarise" if data.dtype == np.uint8 else "real"
    device_data = DeviceData(data, encoding, config.batch_size)
    steps_per_epoch = device_data.steps_per_epoch
    total_steps = config.epochs * steps_per_epoch
    if init_state is None:
        state = init(method, device_data, config, key=key)
    else:
        expect_equal("data in the order of init_state", len(data), len(init_state.order))
        state = copied(init_state)
    every = _report_every(steps_per_epoch)
    watch = _Validation(validation, method) if validation is not None else None

    history: list[dict[str, float]] = []
    step, stretch, outcome = int(state.step), 1, Outcome.COMPLETED
    while step < total_steps:
        until = min(step + stretch, (step // every + 1) * every, total_steps)
        began = time.perf_counter()
        state = run(Inputs(device_data, config, jnp.asarray(until, jnp.int32)), state)
        taken, step = int(state.step) - step, int(state.step)
        stretch = _next_stretch(stretch, taken, time.perf_counter() - began)
        metrics = None
        if int(state.faults.in_a_row) >= config.max_skipped:
            outcome = Outcome.NON_FINITE
        elif step % every == 0 or step == total_steps:
            metrics = _metrics(state, step / steps_per_epoch)
            if watch is not None:
                metrics["validation_elbo"] = watch.elbo(state)
            history.append(metrics)
            state = eqx.tree_at(lambda s: s.sums, state, copied(Sums.zero()))
        progress = Progress(state, step, total_steps, step / steps_per_epoch, metrics)
        wants_stop = on_progress is not None and on_progress(progress)
        if outcome is Outcome.NON_FINITE:
            break
        if wants_stop and step < total_steps:
            outcome = Outcome.STOPPED
            break
    if outcome is Outcome.NON_FINITE and throw:
        raise _non_finite(state)
    return FitResult(state, state.averaged, history, outcome)


def _report_every(steps_per_epoch: int) -> int:
    """Whole epochs, enough of them that a report averages over many steps."""
    return steps_per_epoch * max(1, -(-REPORT_STEPS // steps_per_epoch))


def _next_stretch(stretch: int, taken: int, seconds: float) -> int:
    """Steps for about half a second; the first, compiling stretch says little of the rate."""
    if taken < stretch:
        return stretch
    wanted = int(taken * STRETCH_SECONDS / max(seconds, 1e-9))
    return max(1, min(wanted, 10 * stretch))


def _metrics(state: State, epoch: float) -> dict[str, float]:
    sums = jax.tree.map(np.asarray, state.sums)
    count = int(sums.count)
    means = {
        name: float(total) / count if count else float("nan")
        for name, total in vars(sums.terms).items()
        if name != "latent"
    }
    norms = {
        f"gradient_{part}": float(norm) / count if count else float("nan")
        for part, norm in zip(PARTS, sums.norms, strict=True)
    }
    faults = np.asarray(state.faults.by_part)
    skipped = {f"skipped_{part}": int(n) for part, n in zip(PARTS, faults, strict=True)}
    chains = {}
    if state.chains is not None:
        chains["hmc_acceptance"] = float(state.chains.acceptance)
        chains["hmc_step_size"] = float(jnp.exp(state.chains.log_step_size))
    return {"step": int(state.step), "epoch": epoch, **means, **norms, **skipped, **chains}


class _Validation:
    """A quick ELBO on a fixed part of the validation data, always with the same key."""

    def __init__(self, validation: np.ndarray, method: Method):
        self.data = jnp.asarray(check_data(validation[:VALIDATION_DATA], method.model.data_shape))

    def elbo(self, state: State) -> float:
        return float(_validation_elbo(state.averaged, self.data))


@eqx.filter_jit
def _validation_elbo(method: Method, data: jax.Array) -> jax.Array:
    _, terms = total_loss(method, data, jax.random.key(0), jnp.ones(()))
    return terms.elbo


def _non_finite(state: State) -> TrainingError:
    part = PARTS[int(state.faults.last)]
    counts = ", ".join(
        f"{name} {int(n)}" for name, n in zip(PARTS, state.faults.by_part, strict=True)
    )
    return TrainingError(
        f"training stopped at step {int(state.step)}: {int(state.faults.in_a_row)} steps in a row "
        f"gave non-finite numbers, first in the {part} (skipped steps so far: {counts}); the last "
        "good parameters are kept: try a lower learning rate or check the data's range",
        state=state,
    )
