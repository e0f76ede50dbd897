"""Simulation-based calibration: ranks of true values among posterior draws."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from avb._check import expect_equal
from avb._errors import ConfigError, DataError
from avb._method import Method
from avb._types import Datum, Key, Latent
from avb.diagnostics._draws import check_at_least, coordinate_names
from avb.diagnostics._uniformity import Uniformity, uniformity_test
from avb.evaluation._batched import Progress, over_batches
from avb.posteriors import AbstractPosterior

FEWEST_SIMULATIONS = 20

Simulate = Callable[[Key], tuple[Latent, PyTree]]
SamplePosterior = Callable[[Key, Any, int], Float[Array, "draws d"]]
Quantities = Callable[[Latent, Any], Float[Array, " q"]]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Ranks of true values among posterior draws, and whether they are uniform.

    Attributes:
        names: Names of the coordinates and further quantities.
        ranks: Posterior draws below the true value, shape ``(simulations, q)``.
        draws: L, posterior draws a simulation; ranks go from 0 to L.
        uniformity: The tests.
    """

    names: tuple[str, ...]
    ranks: np.ndarray
    draws: int
    uniformity: Uniformity

    @property
    def calibrated(self) -> bool:
        """Whether no quantity's ranks differ from uniform at the 5% level of all together."""
        return self.uniformity.uniform

    def as_dict(self) -> dict:
        """Settings, ranks and tests, ready for JSON."""
        return {
            "names": list(self.names),
            "simulations": len(self.ranks),
            "draws": self.draws,
            "ranks": self.ranks.tolist(),
            "uniformity": self.uniformity.as_dict(),
            "calibrated": self.calibrated,
        }


class _Parts(NamedTuple):
    """What one simulation needs besides its key."""

    simulate: Simulate
    sample_posterior: SamplePosterior
    quantities: Quantities | None
    draws: int
    names: tuple[str, ...] | None


def _rank(parts: _Parts, key: Key) -> tuple[Int[Array, " q"], Array]:
    """Ranks of one simulation, and whether all its numbers were finite."""
    key_simulate, key_posterior, key_ties = jax.random.split(key, 3)
    z, x = parts.simulate(key_simulate)
    z = jnp.asarray(z)
    expect_equal("number of axes of z", 1, z.ndim)
    samples = jnp.asarray(parts.sample_posterior(key_posterior, x, parts.draws))
    expect_equal("shape of the posterior draws", (parts.draws, z.size), samples.shape)
    both = jnp.concatenate([z[None], samples])
    if parts.quantities is not None:
        further = jax.vmap(parts.quantities, in_axes=(0, None))(both, x)
        both = jnp.concatenate([both, further.reshape(parts.draws + 1, -1)], axis=1)
    if parts.names is not None:
        expect_equal("number of names", both.shape[1], len(parts.names))
    below = jnp.sum(both[1:] < both[:1], axis=0)
    equal = jnp.sum(both[1:] == both[:1], axis=0)
    # A value equal to some draws may stand anywhere among them.
    ranks = below + jax.random.randint(key_ties, below.shape, 0, equal + 1)
    return ranks, jnp.all(jnp.isfinite(both))


@eqx.filter_jit
def _compiled_ranks(parts: _Parts, keys):
    return jax.vmap(lambda key: _rank(parts, key))(keys)


def _ranks_one_by_one(parts: _Parts, keys):
    pairs = [_rank(parts, key) for key in keys]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *pairs)


def simulation_based_calibration(
    simulate: Simulate,
    sample_posterior: SamplePosterior,
    *,
    key: Key,
    simulations: int = 1000,
    draws: int = 99,
    quantities: Quantities | None = None,
    names: Sequence[str] | None = None,
    compiled: bool = True,
    batch_size: int = 100,
    progress: Progress | None = None,
) -> Calibration:
    """Rank true values among posterior draws given the data that they made.

    With z from the prior, x from p(x|z) and draws from the exact posterior, the rank of each
    coordinate of z among the draws is uniform. Coordinates alone miss some errors (a posterior
    equal to the prior passes); a quantity that depends on the data, such as log p(x, z),
    sees more of them (Modrák et al. 2023, https://arxiv.org/abs/2211.02383).

    Args:
        simulate: From a key to ``(z, x)``, z of shape ``(d,)``.
        sample_posterior: From a key, x and a number of draws to draws of shape ``(draws, d)``,
            taken as independent: thin a chain before you hand it over.
        key: PRNG key; simulation i gets the same key whatever the batch size.
        simulations: Number of simulations, at least 20.
        draws: Posterior draws a simulation, L.
        quantities: From one z and x to further quantities to be ranked, shape ``(q,)``.
        names: Names of the d coordinates and q quantities.
        compiled: Whether to compile and ``vmap`` the functions; False calls them one
            simulation at a time, as samplers outside JAX need.
        batch_size: Simulations at a time, where they are compiled.
        progress: Called with the simulations done and those in all.

    Returns:
        The ranks and tests of their uniformity, corrected for the number of quantities by
        Holm's method.

    Raises:
        ConfigError: Settings out of range, posterior draws of another shape, or functions
            that cannot be compiled.
        DataError: A simulation or posterior draw that is not finite.

    References:
        Talts, Betancourt, Simpson, Vehtari & Gelman (2018), https://arxiv.org/abs/1804.06788.
    """
    check_at_least("simulations", FEWEST_SIMULATIONS, simulations)
    check_at_least("draws a simulation", 1, draws)
    check_at_least("batch_size", 1, batch_size)
    given = None if names is None else tuple(names)
    parts = _Parts(simulate, sample_posterior, quantities, draws, given)
    ranked = _compiled_ranks if compiled else _ranks_one_by_one
    try:
        ranks, finite = over_batches(
            lambda _, keys: ranked(parts, keys),
            np.zeros(simulations),
            key=key,
            batch_size=batch_size if compiled else 1,
            progress=progress,
        )
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise ConfigError(
            "simulate and sample_posterior: expected functions that JAX can compile; for others "
            "pass compiled=False"
        ) from error
    if not finite.all():
        raise DataError(
            f"simulations: expected finite numbers, got NaN or infinity in "
            f"{int(np.sum(~finite))} of {simulations}"
        )
    return Calibration(
        names=coordinate_names(given, ranks.shape[1]),
        ranks=ranks,
        draws=draws,
        uniformity=uniformity_test(ranks, draws),
    )


class _PosteriorDraws(eqx.Module):
    """A posterior as a function of key, datum and number of draws."""

    posterior: AbstractPosterior

    def __call__(self, key: Key, x: Datum, draws: int) -> Float[Array, "draws d"]:
        return self.posterior.sample(key, x, (draws,))


class _LogJoint(eqx.Module):
    """Log p(x, z) as a quantity to be ranked."""

    method: Method

    def __call__(self, z: Latent, x: Datum) -> Float[Array, "1"]:
        return self.method.model.log_joint(x, z)[None]


def method_calibration(
    method: Method,
    *,
    key: Key,
    simulations: int = 1000,
    draws: int = 99,
    batch_size: int = 100,
    progress: Progress | None = None,
) -> Calibration:
    """Simulation-based calibration of a method's posterior under its own model.

    Pairs (z, x) are drawn from the method's p(x, z), posterior draws from its q(z|x); each
    latent dimension and log p(x, z) are ranked. The data are the model's: where it was
    trained on others, the posterior is tested away from them too.

    Args:
        method: Model and posterior.
        key: PRNG key.
        simulations: Number of simulations, at least 20.
        draws: Posterior draws a simulation.
        batch_size: Simulations at a time.
        progress: Called with the simulations done and those in all.

    Returns:
        The ranks and tests of their uniformity.

    Raises:
        ConfigError: Settings out of range.
        DataError: A simulation or posterior draw that is not finite.
    """
    return simulation_based_calibration(
        method.model.sample,
        _PosteriorDraws(method.posterior),
        key=key,
        simulations=simulations,
        draws=draws,
        quantities=_LogJoint(method),
        names=[*coordinate_names(None, method.model.latent_dim), "log p(x, z)"],
        batch_size=batch_size,
        progress=progress,
    )
