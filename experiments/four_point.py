"""The four-point toy: which posteriors can tile the prior, and at what evidence.

    python -m experiments.four_point                       # all methods, seeds 0-9
    python -m experiments.four_point --methods critic

Four one-hot data of four pixels, a two-dimensional latent vector, independent Bernoulli pixels
(Mescheder, Nowozin & Geiger 2017, https://arxiv.org/abs/1701.04722, section 4.1). No model can
have a mean log p(x) above -log 4 = -1.3863, and one comes near it only as its four posteriors
become disjoint pieces of the prior. Evidence is exact, by quadrature over a grid.

An implicit posterior has no bound of its ELBO from below. Its row is bounded with a little noise
added to it (``smoothed_bracket``, noise in units of the posterior's own scales): a posterior
like any other, whose ELBO is what a user of the implicit one can certainly have. The
semi-implicit rows have the bracket of their own ELBO.
"""

import dataclasses
import json
import math
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro

from avb import Method
from avb._types import Key
from avb.evaluation import elbo, elbo_bracket, smoothed_bracket
from avb.posteriors import AbstractTractablePosterior, SemiImplicitPosterior
from experiments._four_point import DATA, RECIPES, Recipe, log_evidence
from experiments._results import RESULTS, markdown_table, spread, write_json
from experiments._seeds import mean_terms, train_seeds

LIMIT = -math.log(4.0)
SMOOTHING = 0.02
PANELS = 6
EVALUATION_DRAWS = 512
PAPER = {"gaussian": ("−1.568", "−1.697")} | {
    name: ("−1.403", "≈ −1.421") for name in RECIPES if name.startswith("critic")
}
TARGETS = (-1.395, -1.41)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        methods: Names; all by default.
        seeds: Number of seeds, from ``first_seed``.
        first_seed: Settings were chosen on seeds 100 to 105.
        share: Share of the training steps, for a trial.
        out: Where results are written, ``.json``, ``.md`` and ``.png``.
    """

    methods: tuple[str, ...] = tuple(RECIPES)
    seeds: int = 10
    first_seed: int = 0
    share: float = 1.0
    out: Path = RESULTS / "four_point"


def bounds(method: Method, components: int, key: Key) -> tuple:
    """The ELBO, or its bounds, as two estimates."""
    model, posterior = method.model, method.posterior
    if isinstance(posterior, AbstractTractablePosterior):
        exact = elbo(model, posterior, DATA, key=key, draws=4096)
        return exact, exact
    bracket = partial(elbo_bracket, model, posterior)
    if not isinstance(posterior, SemiImplicitPosterior):
        bracket = partial(smoothed_bracket, model, posterior, noise=SMOOTHING)
    return bracket(DATA, key=key, draws=EVALUATION_DRAWS, components=components)


def measure(method: Method, trained_elbo: float, components: int, key: Key) -> dict:
    """Exact evidence and bounds of the ELBO of one trained method."""
    evidence = np.asarray(log_evidence(method.model, jnp.asarray(DATA)), np.float64)
    lower, upper = bounds(method, components, key)
    return {
        "log_evidence": float(evidence.mean()),
        "lower": lower.mean,
        "lower_error": lower.standard_error,
        "upper": upper.mean,
        "upper_error": upper.standard_error,
        "training_elbo": trained_elbo,
        "detail": lower.detail,
    }


def pictured(method: Method, key: Key, count: int = 400) -> list:
    """Draws of each of the four posteriors, shape (4, count, 2), as lists."""
    keys = jax.random.split(key, 4)
    draws = jax.vmap(lambda key, x: method.posterior.sample(key, x, (count,)))(keys, DATA)
    return np.round(np.asarray(draws, np.float64), 3).tolist()


def run(recipe: Recipe, config: Config) -> list[dict]:
    """All seeds of one method."""
    began = time.perf_counter()
    seeds = tuple(range(config.first_seed, config.first_seed + config.seeds))
    last = np.zeros(len(seeds))

    def report(step: int, states) -> None:
        last[:] = mean_terms(states)["elbo"]
        print(recipe.title, step, np.round(last, 4), flush=True)

    fit = recipe.fit_config(config.share)
    methods = train_seeds(recipe.make, DATA, fit, seeds, report, traced=recipe.traced)
    seconds = (time.perf_counter() - began) / len(seeds)
    results = []
    for seed, method, trained in zip(seeds, methods, last, strict=True):
        result = measure(method, float(trained), recipe.components, jax.random.key(1000 + seed))
        results.append({"seed": seed, "seconds": seconds, **result})
        print(results[-1], flush=True)
    results[0]["draws"] = pictured(methods[0], jax.random.key(seeds[0]))
    return results


def table(results: dict[str, list[dict]]) -> str:
    """The report."""
    header = [
        "method", "seeds", "mean log p(x)", "lower bound of the ELBO", "its width",
        "ELBO while training", "log p(x) ≥ −1.395", "lower ≥ −1.41", "paper: log p, ELBO",
        "seconds a seed",
    ]  # fmt: skip
    rows = []
    for name, runs in results.items():
        column = lambda key, runs=runs: [run[key] for run in runs]  # noqa: E731
        widths = [run["upper"] - run["lower"] for run in runs]
        rows.append(
            [
                RECIPES[name].title,
                str(len(runs)),
                spread(column("log_evidence"), 4),
                spread(column("lower"), 4),
                f"{max(widths):.4f}",
                spread(column("training_elbo"), 4),
                f"{sum(v >= TARGETS[0] for v in column('log_evidence'))} of {len(runs)}",
                f"{sum(v >= TARGETS[1] for v in column('lower'))} of {len(runs)}",
                ", ".join(PAPER.get(name, ("–",))),
                f"{np.mean(column('seconds')):.0f}",
            ]
        )
    return markdown_table(header, rows)


def picture(results: dict[str, list[dict]], path: Path) -> None:
    """The four posteriors of each method's first seed."""
    columns = min(len(results), PANELS)
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 3.9 * rows), squeeze=False, sharex=True, sharey=True
    )
    for axis in axes.flat[len(results) :]:
        axis.set_axis_off()
    for axis, (name, runs) in zip(axes.flat, results.items(), strict=False):
        for draws, colour in zip(runs[0]["draws"], ("C0", "C1", "C2", "C3"), strict=True):
            axis.plot(*np.asarray(draws).T, ".", ms=1.5, color=colour)
        title = RECIPES[name].title.replace(", ", "\n")
        axis.set_title(f"{title}: {runs[0]['log_evidence']:.3f}", fontsize=9)
        axis.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def main(config: Config) -> None:
    """Run what has no result yet, then write table and picture."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in config.methods:
        if len(results.get(name, [])) < config.seeds:
            results[name] = run(RECIPES[name], config)
            write_json(path, results)
    results = {name: results[name] for name in RECIPES if name in results}
    picture(results, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(
        "# Four points\n\n`python -m experiments.four_point`; nats per datum, mean and range over "
        f"seeds; no model is above −log 4 = {LIMIT:.4f}. Evidence by quadrature. The bounds of the "
        f"implicit row are those of that posterior with noise of {SMOOTHING:g} of its scales added "
        "to it.\n\n" + table(results)
    )
    print(table(results))


if __name__ == "__main__":
    main(tyro.cli(Config))
