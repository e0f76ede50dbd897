"""Pictures of bounds against their budget, and of the weights behind one."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from avb._errors import ConfigError
from avb.evaluation import Estimate
from avb.report._figure import COLOURS, INK, MUTED, figure

LOWER, UPPER, WRONG = COLOURS[0], COLOURS[1], COLOURS[4]
ERRORS = 2.0
TRUSTED_K = 0.7


def _check(
    what: str, budgets: Sequence[int], lower: Sequence[Estimate], upper: Sequence[Estimate] | None
) -> None:
    """Raise a ``ConfigError`` unless there is an estimate for every budget, all positive."""
    counts = [len(lower)] if upper is None else [len(lower), len(upper)]
    if not budgets or any(count != len(budgets) for count in counts):
        raise ConfigError(
            f"{what}: expected one estimate for each of {len(budgets)} budgets, at least one, "
            f"got {' and '.join(map(str, counts))}"
        )
    if min(budgets) < 1:
        raise ConfigError(f"{what}: expected positive budgets, got {min(budgets)}")


def _draw_bound(
    axes: Axes, budgets: np.ndarray, estimates: Sequence[Estimate], colour: str, marker: str
) -> np.ndarray:
    """Means with bars of two standard errors; the means."""
    means = np.array([estimate.mean for estimate in estimates])
    bars = ERRORS * np.array([estimate.standard_error for estimate in estimates])
    kind, estimator = estimates[-1].kind, estimates[-1].estimator
    axes.errorbar(
        budgets,
        means,
        bars,
        color=colour,
        marker=marker,
        markersize=4,
        capsize=2.5,
        linewidth=1.2,
        label=f"{kind} ({estimator})",
        zorder=3,
    )
    return means


def _draw_bounds(
    axes: Axes,
    budgets: Sequence[int],
    lower: Sequence[Estimate],
    upper: Sequence[Estimate] | None,
    xlabel: str,
) -> None:
    """Bounds over a logarithmic axis with a tick at each budget."""
    order = np.argsort(budgets, kind="stable")
    at = np.asarray(budgets)[order]
    # The bars of both bounds stand side by side, lest one hide the other.
    aside = 1.0 if upper is None else 1.03
    low = _draw_bound(axes, at / aside, [lower[i] for i in order], LOWER, "^")
    if upper is not None:
        high = _draw_bound(axes, at * aside, [upper[i] for i in order], UPPER, "v")
        axes.fill_between(at, low, high, color=MUTED, alpha=0.12, linewidth=0, zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([int(value) for value in at]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set(xlabel=xlabel, ylabel=f"{lower[0].quantity}, nats per datum")


def draw_bracket(
    path: str | os.PathLike,
    components: Sequence[int],
    lower_estimates: Sequence[Estimate],
    upper_estimates: Sequence[Estimate],
) -> None:
    """Show how the bracket of a semi-implicit posterior's ELBO narrows with K.

    Args:
        path: Where to write the PNG file.
        components: The values of K.
        lower_estimates: The lower bound at each K, means over data with two standard errors.
        upper_estimates: The upper bound at each K.

    Raises:
        ConfigError: Another number of estimates than of values of K, or a K below 1.
        RunError: The file cannot be written.
    """
    _check("picture of the bracket", components, lower_estimates, upper_estimates)
    last = int(np.argmax(components))
    width = upper_estimates[last].mean - lower_estimates[last].mean
    with figure(path, 5.2, 3.4) as drawn:
        axes = drawn.subplots()
        _draw_bounds(axes, components, lower_estimates, upper_estimates, "components K")
        axes.set_title(f"{width:.2g} nats wide at K = {components[last]:,}")
        axes.legend(loc="best", fontsize=8, title="mean ± 2 s.e.", title_fontsize=8)


def draw_annealing(
    path: str | os.PathLike,
    temperatures: Sequence[int],
    lower_estimates: Sequence[Estimate],
    upper_estimates: Sequence[Estimate] | None = None,
    truth: float | None = None,
) -> None:
    """Show annealed importance sampling against its number of temperatures.

    Args:
        path: Where to write the PNG file.
        temperatures: The numbers of temperatures.
        lower_estimates: The lower bound at each, means over data with two standard errors.
        upper_estimates: The upper bound of the reverse chains at each, on the same data.
        truth: The true mean of log p(x), where it is known.

    Raises:
        ConfigError: Another number of estimates than of temperatures, or one below 1.
        RunError: The file cannot be written.
    """
    _check("picture of annealing", temperatures, lower_estimates, upper_estimates)
    last = int(np.argmax(temperatures))
    title = f"lower bound {lower_estimates[last].mean:.2f}"
    if upper_estimates is not None:
        gap = upper_estimates[last].mean - lower_estimates[last].mean
        title = f"{gap:.2g} nats between the bounds"
    with figure(path, 5.2, 3.4) as drawn:
        axes = drawn.subplots()
        _draw_bounds(axes, temperatures, lower_estimates, upper_estimates, "temperatures")
        if truth is not None:
            axes.axhline(truth, color=INK, linewidth=0.9, linestyle="--", label="truth", zorder=2)
        axes.set_title(f"{title} at {temperatures[last]:,} temperatures")
        axes.legend(loc="best", fontsize=8, title="mean ± 2 s.e.", title_fontsize=8)


def draw_weights(path: str | os.PathLike, estimate: Estimate) -> None:
    """Show how far the importance weights behind a bound can be trusted, datum by datum.

    Left the Pareto k̂ of every datum, from the smallest to the largest; above 0.7 the average
    of the weights cannot be trusted. Right the effective sample size against k̂.

    Args:
        path: Where to write the PNG file.
        estimate: An importance-weighted estimate, with ``pareto_k`` and ``effective``.

    Raises:
        ConfigError: The estimate has no weights behind it.
        RunError: The file cannot be written.
    """
    if estimate.pareto_k is None or estimate.effective is None:
        raise ConfigError(
            "picture of weights: expected an estimate with pareto_k and effective, as "
            f"importance_bound gives, got one by {estimate.estimator}"
        )
    k = np.asarray(estimate.pareto_k)
    bad = k > TRUSTED_K
    with figure(path, 8.0, 3.4) as drawn:
        left, right = drawn.subplots(1, 2)
        order = np.argsort(k, kind="stable")
        _scatter(left, np.arange(1, len(k) + 1), k[order], bad[order])
        line = {"color": INK, "linewidth": 0.9, "linestyle": "--"}
        left.axhline(TRUSTED_K, **line, label="0.7: not to be trusted above")
        left.legend(loc="upper left", fontsize=8)
        left.set(xlabel="data, in order of k̂", ylabel="Pareto k̂")
        left.set_ylim(top=max(float(k.max()), TRUSTED_K) + 0.2)
        left.set_title(f"{bad.sum():,} of {len(k):,} data with k̂ above 0.7", color=_tone(bad))
        effective = np.asarray(estimate.effective)
        _scatter(right, k, effective, bad)
        right.axvline(TRUSTED_K, **line)
        right.set(xlabel="Pareto k̂", ylabel="effective samples", yscale="log")
        # From one power of ten to the next at least, so that there are two ticks.
        decade = 0.1 * 10.0 ** np.floor(np.log10(effective.max()))
        right.set_ylim(0.8 * min(effective.min(), decade), 1.5 * effective.max())
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        right.yaxis.set_minor_formatter(NullFormatter())
        right.set_title(f"median effective sample size {np.median(effective):,.0f}")
        drawn.suptitle(
            f"{estimate.quantity}, {estimate.kind}: {estimate.detail}",
            fontsize=8,
            color=MUTED,
            x=0.01,
            ha="left",
        )


def _tone(bad: np.ndarray) -> str:
    return WRONG if bad.any() else INK


def _scatter(axes: Axes, x: np.ndarray, y: np.ndarray, bad: np.ndarray) -> None:
    """Points, those with a k̂ too large in another colour."""
    for chosen, colour in ((~bad, COLOURS[0]), (bad, WRONG)):
        axes.plot(x[chosen], y[chosen], ".", color=colour, markersize=4, alpha=0.7)
