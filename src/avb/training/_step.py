"""One step of both players, and compiled runs of many."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int32, PyTree

from avb._compiling import optimised
from avb._method import Method
from avb._types import Key, Scalar
from avb.nets._rows import over_rows
from avb.training._batches import DeviceData
from avb.training._config import FitConfig
from avb.training._contest import adversary_loss, contest
from avb.training._draws import drawn
from avb.training._guard import part_at_fault, squared_norm
from avb.training._losses import total_loss
from avb.training._refine import refine
from avb.training._state import Rates, State, Sums, optimisers, players, with_players

# The average moves every few steps, with the same time constant: its memory traffic would
# otherwise cost as much as the optimiser's.
AVERAGE_EVERY = 8


class Inputs(NamedTuple):
    """What a compiled run reads and leaves alone."""

    data: DeviceData
    config: FitConfig
    until: Int32[Array, ""]


def step(state: State, data: DeviceData, config: FitConfig, rates: Rates | None = None) -> State:
    """Advance both players by one step. Pure; compile it, or use :func:`run`.

    A step with a non-finite value or gradient changes no parameter; it is counted in
    ``state.faults`` under the part at fault.

    Args:
        state: As :func:`~avb.training.init` or a former step gave it.
        data: The training data.
        config: Settings; the same as for ``init``.
        rates: Peak rates in place of those of ``config``, for runs that share a program.

    Returns:
        The state after the step, its sums included.
    """
    order_key, step_key = jax.random.split(state.key)
    keys = jax.random.split(jax.random.fold_in(step_key, state.step), 4)
    key_data, key_loss, key_extra, key_chains = keys
    epoch, position = jnp.divmod(state.step, data.steps_per_epoch)
    order = lax.cond(position == 0, lambda: data.order(order_key, epoch), lambda: state.order)
    x = data.batch(order, position, key_data)

    both = optimisers(config, config.epochs * data.steps_per_epoch, rates)
    method, adversary_state = state.method, state.adversary_optimiser
    if method.critic is not None:
        for key in jax.random.split(key_extra, config.critic_steps)[1:]:
            method, adversary_state = _critic_step(method, adversary_state, both[1], x, key, config)

    beta = _kl_weight(config, state.step, data.steps_per_epoch)
    refined, chains = None, state.chains
    if chains is not None:
        refined, chains = refine(method, x, key_chains, chains)
    gradient = eqx.filter_grad(total_loss, has_aux=True)
    gradients, terms = gradient(method, x, key_loss, beta, refined)
    squared = _squared_norms(gradients)
    ok, part = part_at_fault(terms, squared)
    learns = ok & (state.step >= config.critic_warmup) if method.critic is not None else ok

    moved, optimiser_states = _update_both(
        method,
        gradients,
        both,
        (state.model_optimiser, adversary_state),
        scales=_clip(squared[::2] + squared[1::2], config.clip_norm),
        ok=(learns, ok),
    )
    return State(
        method=moved,
        average=_average(state.average, players(moved), state.step, config.ema_decay),
        model_optimiser=optimiser_states[0],
        adversary_optimiser=optimiser_states[1],
        step=state.step + 1,
        key=state.key,
        order=order,
        faults=state.faults.after(ok, part),
        sums=_add(state.sums, Sums(terms, jnp.sqrt(squared), jnp.ones((), jnp.int32)), ok),
        chains=chains,
    )


def _squared_norms(gradients: Method) -> Float[Array, "4"]:
    """Of posterior and model, which are one player, then of contrast and critic, the other."""
    parts = (gradients.posterior, gradients.model, gradients.contrast, gradients.critic)
    return jnp.stack([squared_norm(part) for part in parts])


def _update_both(
    method: Method,
    gradients: Method,
    both: tuple[optax.GradientTransformation, optax.GradientTransformation],
    optimiser_states: tuple[PyTree, PyTree],
    *,
    scales: Float[Array, "2"],
    ok: tuple[Bool[Array, ""], Bool[Array, ""]],
) -> tuple[Method, tuple[PyTree, PyTree]]:
    """Each player by its optimiser; the second only where there is a critic."""
    moved, states = list(players(method)), list(optimiser_states)
    for i, gradient in enumerate(players(gradients)[: 1 if method.critic is None else 2]):
        moved[i], states[i] = _update(
            both[i], gradient, states[i], moved[i], scale=scales[i], ok=ok[i]
        )
    return with_players(method, *moved), tuple(states)


def _critic_step(
    method: Method,
    optimiser_state: PyTree,
    optimiser: optax.GradientTransformation,
    x: Array,
    key: Key,
    config: FitConfig,
) -> tuple[Method, PyTree]:
    """One more critic update on the same data, with fresh draws from q and r."""
    key_z, key_contest = jax.random.split(key)
    features = over_rows(method.posterior.encoder)(x)
    z = drawn(method, features, key_z)

    def loss(method: Method) -> Scalar:
        return adversary_loss(method, contest(method, x, features, z, key_contest))[0]

    _, gradients = players(eqx.filter_grad(loss)(method))
    model, adversary = players(method)
    squared = squared_norm(gradients)
    adversary, optimiser_state = _update(
        optimiser,
        gradients,
        optimiser_state,
        adversary,
        scale=_clip(squared, config.clip_norm),
        ok=jnp.isfinite(squared),
    )
    return with_players(method, model, adversary), optimiser_state


def _update(
    optimiser: optax.GradientTransformation,
    gradients: PyTree,
    optimiser_state: PyTree,
    parameters: PyTree,
    *,
    scale: Scalar,
    ok: Bool[Array, ""],
) -> tuple[PyTree, PyTree]:
    # A branch, not a select: the select would copy every parameter at every step.
    def take():
        scaled = jax.tree.map(lambda g: g * scale, gradients)
        updates, new_state = optimiser.update(scaled, optimiser_state, parameters)
        return optax.apply_updates(parameters, updates), new_state

    return lax.cond(ok, take, lambda: (parameters, optimiser_state))


def _clip(squared: Scalar, clip_norm: float) -> Scalar:
    return jnp.minimum(1.0, clip_norm * lax.rsqrt(jnp.maximum(squared, 1e-12)))


def _kl_weight(config: FitConfig, step: Int32[Array, ""], steps_per_epoch: int) -> Scalar:
    epochs = config.kl_warmup_epochs
    if epochs == 0:
        return jnp.ones(())
    return jnp.minimum(1.0, step.astype(jnp.float32) / (epochs * steps_per_epoch))


def _average(average: PyTree, players: PyTree, step: Int32[Array, ""], decay: float) -> PyTree:
    if decay == 0:
        return players
    # Early on, the average forgets faster, so that it does not remember the initial values.
    elapsed = step.astype(jnp.float32)
    kept = jnp.minimum(decay**AVERAGE_EVERY, (1.0 + elapsed) / (10.0 * AVERAGE_EVERY + elapsed))

    def move() -> PyTree:
        return jax.tree.map(lambda a, p: a + (1.0 - kept) * (p - a), average, players)

    return lax.cond(step % AVERAGE_EVERY == 0, move, lambda: average)


def _add(sums: Sums, step: Sums, ok: Bool[Array, ""]) -> Sums:
    return jax.tree.map(lambda total, value: total + jnp.where(ok, value, 0), sums, step)


# Level 3 is no faster here than 2, most of the time being that of Eigen's products, and takes more
# than a second longer to compile. Equinox hands the options on to jax.jit unseen by its types.
@eqx.filter_jit(donate="all-except-first", compiler_options=optimised(2))  # pyright: ignore
def run(inputs: Inputs, state: State) -> State:
    """Take steps until ``inputs.until``, or until too many in a row were skipped.

    One compiled program whatever the number of steps; ``state``'s buffers are donated.
    """
    arrays, static = eqx.partition(state, eqx.is_array)

    def goes_on(arrays: PyTree) -> Bool[Array, ""]:
        more = arrays.step < inputs.until
        return more & (arrays.faults.in_a_row < inputs.config.max_skipped)

    def body(arrays: PyTree) -> PyTree:
        advanced = step(eqx.combine(arrays, static), inputs.data, inputs.config)
        return eqx.filter(advanced, eqx.is_array)

    return eqx.combine(lax.while_loop(goes_on, body, arrays), static)
