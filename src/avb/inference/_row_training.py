"""Fitting the proposal for the latents of one row, by random minibatches.

Two stages. First, with a Gaussian for the shared latents z, by the bound of all: it finds where z
lies. Then around there, three times as wide, by the rows' bounds alone, so that the proposal
follows z.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from avb._types import Key, Latent, Scalar
from avb.densities import DiagonalGaussian
from avb.inference._amortiser import Standard, optimiser, trained
from avb.inference._journal import Journal
from avb.inference._npz import from_arrays, to_arrays
from avb.inference._row_fit import check_integrals
from avb.inference._row_proposal import RowIntegral, RowIntegrator
from avb.inference._source import Batch, Source, host_generator
from avb.inference._target import Target, check_starts

STEPS = 2000
# Of Adam, at the start of each stage; they fall to zero.
RATES = (1e-2, 3e-3)
SHARED_DRAWS = 4
START_SCALE, WIDEN = 0.1, 3.0
# Draws of z for a look at the integrals, and the shift of a mean, in posterior sds, at which they
# have enough points: less than the verdict allows, as the Gaussian is but a first guess.
CHECKS, ENOUGH = 1000, 0.1
PART = "rows"


class _Players(eqx.Module):
    """What is fitted: the proposal and, in the first stage, the Gaussian of z."""

    integral: RowIntegral
    shared: DiagonalGaussian


class _Static(eqx.Module):
    """What a stage of fitting is of; whoever has the same shares what was compiled."""

    rows: RowIntegrator = eqx.field(static=True)
    size: int = eqx.field(static=True)
    first: bool = eqx.field(static=True)


def _mask(players: _Players, *, shared: bool) -> _Players:
    mask = jax.tree.map(lambda _: False, players)
    mask = eqx.tree_at(lambda p: p.integral.proposal, mask, trained(players.integral.proposal))
    return eqx.tree_at(lambda p: p.shared, mask, jax.tree.map(lambda _: shared, players.shared))


def _loss(players: _Players, of: _Static, arrays: list[Array], batch: Batch, key: Key) -> Scalar:
    """Minus the bound of all, or of the rows alone, in nats per row."""
    key_z, key_rows = jax.random.split(key)
    integral = dataclasses.replace(players.integral, seed=jax.random.key_data(key_rows))

    def of_one(z: Latent) -> tuple[Scalar, Scalar]:
        weighted = of.rows.weigh(integral, (arrays, batch), z)
        # Not of the integrals: they hardly tell a good proposal from a poor one.
        return weighted.outside, jnp.mean(weighted.log_weights)

    z = jax.vmap(players.shared.sample)(jax.random.split(key_z, SHARED_DRAWS))
    outside, inside = jax.vmap(of_one)(z)
    entropy = jnp.sum(players.shared.log_scale)
    return -jnp.mean(inside) - of.first * (jnp.mean(outside) + entropy) / of.size


@eqx.filter_jit
def _some_steps(
    players: _Players,
    state: optax.OptState,
    of: _Static,
    arrays: list[Array],
    batches: Batch,
    keys: Array,
    rates: Float[Array, " n"],
) -> tuple[_Players, optax.OptState]:
    free, fixed = eqx.partition(players, _mask(players, shared=of.first))

    def step(carry: tuple[PyTree, PyTree], given: tuple[Batch, Array, Array]):
        free, state = carry
        batch, key, rate = given
        slope = jax.grad(lambda f: _loss(eqx.combine(f, fixed), of, arrays, batch, key))(free)
        updates, new_state = optimiser().update(slope, state, free)
        moved = jax.tree.map(lambda p, u: p - rate * u, free, updates)
        ok = jnp.isfinite(optax.tree.norm(slope))
        return jax.tree.map(lambda a, b: jnp.where(ok, a, b), (moved, new_state), carry), None

    (free, state), _ = lax.scan(step, (free, state), (batches, keys, rates))
    return eqx.combine(free, fixed), state


def _stage(players: _Players, source: Source, arrays: list[Array], key: Key, rate: float):
    """One stage: the first, where there is a rate of the first."""
    assert source.rows is not None
    of = _Static(source.rows, source.plate.size, first=rate == RATES[0])
    free = eqx.filter(players, _mask(players, shared=of.first))
    state = optimiser().init(free)
    key_rows, key_steps = jax.random.split(key)
    generator = host_generator(key_rows)
    keys = jax.random.split(key_steps, STEPS)
    rates = rate * jnp.linspace(1.0, 0.0, STEPS, endpoint=False)
    at_once = source.divisor_at_once
    for start in range(0, STEPS, at_once):
        some = slice(start, start + at_once)
        batches = source.random(generator, at_once)
        players, state = _some_steps(players, state, of, arrays, batches, keys[some], rates[some])
    return players


@eqx.filter_jit
def _values(target: Target, points: Float[Array, "n d"]) -> Float[Array, " n"]:
    return jax.vmap(target.log_density)(points)


def _start(source: Source, pilot: Batch, key: Key) -> DiagonalGaussian:
    """Around the best of some random points."""
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), pilot)
    target = Target((source.arrays, batch), source.estimate, source.dim)
    points = check_starts(target, key)
    values = _values(target, points)
    best = points[jnp.argmax(values)]
    return DiagonalGaussian(best, jnp.full_like(best, np.log(START_SCALE)))


def fit_rows(source: Source, key: Key, journal: Journal) -> Source:
    """The source with its proposal for the latents of each row fitted, once and for all.

    Raises:
        ConfigError: No point has a finite log density.
    """
    assert isinstance(source.arrays, tuple)
    arrays, integral = source.arrays
    kept = journal.kept(PART, lambda: to_arrays(_fit(source, arrays, integral, key)))
    return dataclasses.replace(source, arrays=(arrays, from_arrays(kept, integral)))


def _fit(source: Source, arrays: list[Array], integral: RowIntegral, key: Key) -> RowIntegral:
    key_pilot, key_start, key_noise, *key_stages = jax.random.split(key, 5)
    pilot = source.pilot(host_generator(key_pilot))
    players = _Players(integral, _start(source, pilot, key_start))
    players = _stage(players, source, arrays, key_stages[0], RATES[0])
    wide = dataclasses.replace(players.shared, log_scale=players.shared.log_scale + np.log(WIDEN))
    around = Standard(wide.loc, jnp.exp(wide.log_scale))
    players = eqx.tree_at(lambda p: (p.integral.proposal.around, p.shared), players, (around, wide))
    players = _stage(players, source, arrays, key_stages[1], RATES[1])
    fitted = dataclasses.replace(players.integral, seed=jax.random.key_data(key_noise))
    return _with_enough_points(source, arrays, fitted, players.shared, key_noise)


def _with_enough_points(
    source: Source, arrays: list[Array], integral: RowIntegral, wide: DiagonalGaussian, key: Key
) -> RowIntegral:
    """With twice as many points until still more would hardly move a mean."""
    assert source.rows is not None
    shared = dataclasses.replace(wide, log_scale=wide.log_scale - np.log(WIDEN))
    z = jax.vmap(shared.sample)(jax.random.split(key, CHECKS))
    while len(integral.points) < source.rows.most_draws:
        fitted = dataclasses.replace(source, arrays=(arrays, integral))
        if check_integrals(fitted, z, key).shift < ENOUGH:
            break
        integral = integral.refined(2, integral.seed)
    return integral
