"""Inference from minibatches: a pilot, passes over the rows, and training on random ones."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._types import Key
from avb.inference._expansion import Centres, Corrected, Expansion
from avb.inference._files import read_finished
from avb.inference._gaussian_fit import GaussianFit, refit_gaussians
from avb.inference._journal import Journal
from avb.inference._measure import Bracket, Importance, propose, summarise, weighed
from avb.inference._mixture import ImplicitMixture, start_mixture
from avb.inference._modes import find_modes, weigh_fits
from avb.inference._npz import Arrays, numbered
from avb.inference._passes import expand_all, log_densities, narrow
from avb.inference._posterior import Fit, Posterior
from avb.inference._rounds import refine_by
from avb.inference._row_fit import RowFit, RowIntegrals, row_fit
from avb.inference._row_training import fit_rows
from avb.inference._source import Batch, Source, host_generator
from avb.inference._stretches import Tell, Trained, Underway, train_by
from avb.inference._target import Functions, Target
from avb.inference._train import (
    STRETCH,
    Budget,
    State,
    Step,
    rates_between,
    shared_components,
    steps,
)
from avb.inference._verdict import Verdict, judge

MAX_PASSES = 8
# Radii of the posterior that a fit may still have moved after the last pass.
SETTLED = 0.3
MAX_ERROR = 0.05
# Posterior sds that integrals over the latents of each row may have moved a mean by.
MAX_SHIFT = 0.2
# Draws that tell where the posterior is, to check those integrals there.
CHECKS = 1000


@dataclasses.dataclass(frozen=True)
class Centred:
    """Where the mass is, by all rows.

    Attributes:
        target: Log density from the pilot's rows, corrected at the centres.
        fits: Gaussians, one a mode, stacked.
        centres: Of the expansions.
        whole: Expansion of the log density of all rows, in float64, less ``base``.
        base: The largest log density at a centre.
        passes: Passes over the rows.
        moved: Radii by which the fits moved after the last pass.
        starts: Fits tried on the pilot.
        failed: Of those, the ones that failed.
        still_open: Whether the search on the pilot ended among new modes.
    """

    target: Target
    fits: GaussianFit
    centres: Centres
    whole: Expansion
    base: float
    passes: int
    moved: float
    starts: int
    failed: int
    still_open: bool


NUMBERS = ("base", "passes", "moved", "starts", "failed", "still_open")


@eqx.filter_jit
def _correct(target: Target, centres: Centres, whole: Expansion, estimate: Functions) -> Target:
    corrected = target.arguments.at(estimate.log_density, centres, whole)
    return dataclasses.replace(target, arguments=corrected)


def find_centres(source: Source, key: Key, starts: int, journal: Journal) -> Centred:
    """Modes of a pilot of some thousands of rows, moved to where all rows have them.

    The pilot, corrected by one pass over all rows at its fits, has the right gradients and Hessians
    there; fitted again, it is off by third orders only, and so on (Jordan, Lee & Yang 2019,
    https://arxiv.org/abs/1605.07689).
    """
    key_pilot, *keys = jax.random.split(key, 3)
    pilot = jax.tree.map(jnp.asarray, source.pilot(host_generator(key_pilot)))
    raw = Target(Corrected.raw(source.arrays, pilot, source.dim), source.surrogate, source.dim)
    arrays = journal.kept("centres", lambda: _search(source, raw, keys, starts))
    zero = jnp.zeros(())
    like = GaussianFit(*[zero] * 4), Centres(zero, zero), Expansion(zero, zero, zero)
    leaves = [arrays[f"leaf_{i}"] for i in range(len(jax.tree.leaves(like)))]
    fits, centres, whole = jax.tree.unflatten(jax.tree.structure(like), leaves)
    # The expansion stays on the host, in float64.
    fits, centres = jax.tree.map(jnp.asarray, (fits, centres))
    target = _correct(raw, centres, narrow(whole), source.estimate)
    return Centred(target, fits, centres, whole, *(arrays[name].item() for name in NUMBERS))


def _search(source: Source, target: Target, keys: list[Key], starts: int) -> Arrays:
    """Fits, centres, expansion and numbers of :class:`Centred`."""
    modes = find_modes(target, keys[0], starts)
    frames = modes.frames
    fits = GaussianFit(frames.loc, frames.factor, frames.log_det, jnp.zeros_like(frames.log_det))
    passes, moved = 0, float("inf")
    centres, whole, base = Centres(fits.loc, fits.factor), Expansion.zero(*fits.loc.shape), 0.0
    while passes < MAX_PASSES and not moved < SETTLED:
        passes += 1
        centres = Centres(fits.loc, jnp.linalg.inv(fits.factor))
        whole = expand_all(source, centres)
        base = float(np.max(whole.value))
        whole = eqx.tree_at(lambda e: e.value, whole, whole.value - base)
        target = _correct(target, centres, narrow(whole), source.estimate)
        fits = refit_gaussians(target, fits, jax.random.fold_in(keys[1], passes))
        shift = jnp.einsum("cij,cj->ci", centres.inverse, fits.loc - centres.loc)
        moved = float(jnp.max(jnp.linalg.norm(shift, axis=1)))
    numbers = (base, passes, moved, modes.starts, modes.failed, modes.still_open)
    named = {name: np.asarray(x) for name, x in zip(NUMBERS, numbers, strict=True)}
    return named | numbered((fits, centres, whole))


@eqx.filter_jit
def _some_steps(
    state: State, over: Step, target: Target, estimate: Functions, batch: int, components: int
) -> tuple[State, Float[Array, " n"]]:
    fixed: Corrected = target.arguments

    def target_of(rows: Batch) -> Target:
        own = dataclasses.replace(fixed, batches=jax.tree.map(lambda leaf: leaf[None], rows))
        own = own.at(estimate.log_density, fixed.centres, fixed.whole)
        return dataclasses.replace(target, arguments=own)

    return steps(state, over, target_of, batch, components)


def minibatch_stretch(source: Source, target: Target, batch: int, components: int) -> Callable:
    """A stretch of training in which each step sees a random minibatch of its own."""
    at_once = source.divisor_at_once

    def stretch(state: State, key: Key, rates: Array) -> tuple[State, Array]:
        key_rows, key_steps = jax.random.split(key)
        generator = host_generator(key_rows)
        over = Step(jax.random.split(key_steps, STRETCH), rates_between(rates), None)
        bounds: list[Array] = []
        for start in range(0, STRETCH, at_once):
            rows = source.random(generator, at_once)
            given = jax.tree.map(lambda leaf, s=start: leaf[s : s + at_once], over)
            if len(bounds) > 1:
                # At most two chunks under way: their rows stay in memory.
                bounds[-2].block_until_ready()
            state, part = _some_steps(
                state, given._replace(rows=rows), target, source.estimate, batch, components
            )
            bounds.append(part)
        return state, jnp.concatenate(bounds)

    return stretch


def _numbers(
    source: Source, found: Centred, mixture: ImplicitMixture, key: Key
) -> tuple[Bracket, Importance, float]:
    """Bounds and importance weights, and the largest usual error of a draw's log density."""
    key_draws, key_rows = jax.random.split(key)
    proposed = propose(mixture, key_draws)
    log_p = log_densities(source, found.centres, found.whole, proposed.z, key_rows)
    values = jnp.asarray(log_p.values, proposed.z.dtype)
    bounds, weights = summarise(weighed(proposed, values))
    bounds = dataclasses.replace(
        bounds, lower=bounds.lower + found.base, upper=bounds.upper + found.base
    )
    weights = dataclasses.replace(weights, log_evidence=weights.log_evidence + found.base)
    return bounds, weights, float(np.median(log_p.errors))


def _verdict(verdict: Verdict, found: Centred, error: float, rows: RowFit | None) -> Verdict:
    reasons = list(verdict.reasons)
    if not found.moved < SETTLED:
        reasons.append(f"the Gaussian start was still moving after {found.passes} passes")
    if not error < MAX_ERROR:
        reasons.append(f"the log density of a draw is known to ±{error:.2f} nats only")
    reason = None if rows is None else row_reason(rows.integrals)
    reasons += [] if reason is None else [reason]
    return Verdict(not reasons, tuple(reasons))


def row_reason(found: RowIntegrals) -> str | None:
    """What speaks against integrals over the latents of each row, if anything does."""
    if found.shift < MAX_SHIFT:
        return None
    return (
        f"integrals over the latents of each row by {found.draws} points may have moved a mean by "
        f"{found.shift:.2f} posterior sds; give Inference more row_draws"
    )


def run_minibatches(
    source: Source,
    key: Key,
    *,
    starts: int,
    max_steps: int,
    journal: Journal,
    progress: Callable[[int, int], None] | None = None,
) -> Posterior:
    """A posterior from minibatches; see :meth:`avb.Inference.run`."""
    keys = jax.random.split(key, 4)
    if source.rows is not None:
        source = fit_rows(source, jax.random.fold_in(key, 4), journal)
    found = find_centres(source, keys[0], starts, journal)
    finished = read_finished(journal, found.target, source)
    if finished is not None:
        return finished
    frames, log_weights = weigh_fits(found.target, found.fits, keys[1])
    mixture = start_mixture(frames, log_weights, keys[2])
    errors = []

    def train_one(underway: Underway, key: Key, budget: Budget, tell: Tell) -> Trained:
        components = shared_components(budget, frames.loc.shape[0])
        stretch = minibatch_stretch(source, found.target, budget.batch, components)
        return train_by(stretch, underway, key, budget, tell)

    def measure_one(mixture: ImplicitMixture, key: Key) -> tuple[Bracket, Importance]:
        bounds, weights, error = _numbers(source, found, mixture, key)
        errors.append(error)
        return bounds, weights

    refined = refine_by(train_one, measure_one, mixture, keys[3], max_steps, journal, progress)
    trained, bounds, weights = refined.trained, refined.bounds, refined.weights
    verdict = judge(
        bounds,
        weights,
        stalled=trained.stalled,
        steps=len(trained.history),
        lost=trained.lost,
        modes_open=found.still_open,
    )
    fit = Fit.of_mixture(trained, starts=found.starts, failed=found.failed, seconds=0.0)
    z = jax.vmap(trained.mixture.sample)(jax.random.split(jax.random.fold_in(key, 5), CHECKS))
    rows = row_fit(source, z, jax.random.fold_in(key, 6))
    verdict = _verdict(verdict, found, errors[-1], rows)
    return Posterior(trained.mixture, found.target, bounds, weights, verdict, fit, rows)
