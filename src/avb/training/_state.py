"""Everything that a training run carries from one step to the next."""

from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32, PyTree

from avb._method import Method
from avb._types import Key, Scalar
from avb.training._batches import DeviceData
from avb.training._config import FitConfig
from avb.training._guard import PARTS, Faults
from avb.training._losses import Terms
from avb.training._refine import Chains

Tree = TypeVar("Tree")


class Sums(eqx.Module):
    """Sums over the steps since the last report, skipped steps left out.

    Attributes:
        terms: Sum of the terms.
        norms: Sum of the gradient norms of encoder, decoder, contrast and critic.
        count: Number of steps summed.
    """

    terms: Terms
    norms: Array
    count: Int32[Array, ""]

    @classmethod
    def zero(cls) -> "Sums":
        """Nothing summed yet."""
        zero = jnp.zeros(())
        return cls(Terms(*[zero] * 7), jnp.zeros(len(PARTS)), jnp.zeros((), jnp.int32))


class State(eqx.Module):
    """Both players, both optimisers, and where the run stands.

    Attributes:
        method: Model, posterior, contrast and critic as they are trained.
        average: Exponential moving average of the parameters of both players: a critic that is
            evaluated on averaged posteriors must be the average over the same steps.
        model_optimiser: Optimiser state of model and posterior.
        adversary_optimiser: Optimiser state of contrast and critic.
        step: Steps taken.
        key: PRNG key of the run; each step folds its number into it, so the state of the
            generator is the step itself.
        order: Order of the data in the present epoch, shape ``(n,)``.
        faults: Counts of non-finite steps.
        sums: Running sums since the last report.
        chains: Those of Hamiltonian Monte Carlo, where the method has some.
    """

    method: Method
    average: PyTree
    model_optimiser: PyTree
    adversary_optimiser: PyTree
    step: Int32[Array, ""]
    key: Key
    order: Int32[Array, " n"]
    faults: Faults
    sums: Sums
    chains: Chains | None

    @property
    def averaged(self) -> Method:
        """The method with the averaged parameters: what to evaluate and to use."""
        return with_players(self.method, *self.average)


def players(method: Method) -> tuple[PyTree, PyTree]:
    """The trainable arrays of (model, posterior) and of (contrast, critic)."""
    parameters = eqx.filter(method, eqx.is_inexact_array)
    return (parameters.model, parameters.posterior), (parameters.contrast, parameters.critic)


def with_players(method: Method, model: PyTree, adversary: PyTree) -> Method:
    """The method with these trainable arrays, as :func:`players` gives them."""
    static = eqx.filter(method, eqx.is_inexact_array, inverse=True)
    parameters = eqx.tree_at(
        lambda m: (m.model, m.posterior, m.contrast, m.critic),
        eqx.filter(method, eqx.is_inexact_array),
        (*model, *adversary),
        is_leaf=lambda leaf: leaf is None,
    )
    return eqx.combine(parameters, static)


class Rates(NamedTuple):
    """Adam's peak rates as arrays: runs that differ in nothing else share a compiled program.

    Attributes:
        model: That of model and posterior, in place of ``FitConfig.learning_rate``.
        adversary: That of contrast and critic, in place of ``FitConfig.critic_learning_rate``.
    """

    model: Scalar
    adversary: Scalar


def optimisers(
    config: FitConfig, total_steps: int, rates: Rates | None = None
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Adam with a cosine schedule for each player."""

    def adam(peak: Scalar | float, final: float) -> optax.GradientTransformation:
        # Optax types the peak as a number, and takes any scalar.
        schedule = optax.cosine_decay_schedule(peak, max(total_steps, 1), final)  # pyright: ignore
        return optax.adam(schedule, b1=config.momentum)

    model, adversary = rates or (config.learning_rate, config.critic_learning_rate)
    return adam(model, config.final_rate), adam(adversary, config.critic_final_rate)


def init(method: Method, data: DeviceData, config: FitConfig, *, key: Key) -> State:
    """The state before the first step.

    Args:
        method: All parts, as a preset or the user made them. Its arrays are copied.
        data: The training data.
        config: Settings.
        key: PRNG key of the whole run.

    Returns:
        The state, which :func:`~avb.training.step` advances.
    """
    return _start(method, data, config, key)


# Compiled as one program: array by array, a first start on a machine takes a second more.
@eqx.filter_jit
def _start(method: Method, data: DeviceData, config: FitConfig, key: Key) -> State:
    model, adversary = players(method)
    optimiser, adversary_optimiser = optimisers(config, config.epochs * data.steps_per_epoch)
    state = State(
        method=method,
        average=(model, adversary),
        model_optimiser=optimiser.init(model),
        adversary_optimiser=adversary_optimiser.init(adversary),
        step=jnp.zeros((), jnp.int32),
        key=key,
        order=jnp.zeros(data.raw.shape[0], jnp.int32),
        faults=Faults.none(),
        sums=Sums.zero(),
        chains=Chains.first() if method.hmc_transitions else None,
    )
    return copied(state)


# Compiled as one program too, for the same reason.
@eqx.filter_jit
def copied(tree: Tree) -> Tree:
    """The same tree in buffers of its own, which a compiled run may then reuse."""
    return jax.tree.map(lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, tree)
