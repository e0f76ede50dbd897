"""Why a critic ends behind its posterior: what training it alone, on other data, still finds.

    python -m experiments.critic_lag

`avb_adaptive` on the digits as `avb train digits` has it, with the critic's rate falling to one
share of its peak or another. Then posterior and contrast stand still, and the critic goes on at
fresh draws of the *training* images. By how much that lowers its ELBO on validation images says
what it had missed: not for want of data or of units, since both are as before. Told beside it is
how much posteriors bend: the largest singular value of E[w ⊗ vec(w wᵀ)], w a draw whitened by its
posterior's moments, which is 0 for a Gaussian. Test data are not used.
"""

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float

import avb
from avb import FitConfig, Method
from avb._types import Key
from avb.evaluation._refit import refit_critic
from avb.posteriors import AbstractPosterior
from experiments._results import RESULTS, markdown_table, write_json
from experiments._standardised import standardised

DRAWS = 4000


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        seeds: Seeds; 13 is the one of twenty whose critic lagged, 3 one whose did not.
        final_rates: Of critic and contrast (``FitConfig.critic_final_rate``).
        steps: Further steps of the critic alone.
        num_data: Validation images.
        out: Where results are written, ``.json`` and ``.md``.
    """

    seeds: tuple[int, ...] = (13, 3)
    final_rates: tuple[float, ...] = (0.05, FitConfig.critic_final_rate, 1.0)
    steps: tuple[int, ...] = (200, 2000)
    num_data: int = 50
    out: Path = RESULTS / "critic_lag"


@eqx.filter_jit
def bends(posterior: AbstractPosterior, data: Array, key: Key) -> Float[Array, " n"]:
    """The largest singular value of each datum's third moments."""

    def datum(given: tuple[Array, Key]) -> Array:
        x, key = given
        z = posterior.sample(key, x, (DRAWS,))
        centred = z - jnp.mean(z, axis=0)
        scale_tril = jnp.linalg.cholesky(jnp.cov(z, rowvar=False))
        white = jax.scipy.linalg.solve_triangular(scale_tril, centred.T, lower=True).T
        third = jnp.einsum("ni,nj,nk->ijk", white, white, white) / DRAWS
        return jnp.linalg.svd(third.reshape(len(third), -1), compute_uv=False)[0]

    return jax.lax.map(datum, (data, jax.random.split(key, len(data))))


def found_alone(method: Method, train: Array, held_out: np.ndarray, steps: int) -> dict:
    """By how much further steps of the critic lower its ELBO on held-out images."""
    key_refit, key_elbo = jax.random.split(jax.random.key(steps))
    further = refit_critic(method, train, key_refit, steps)
    before, after = (
        avb.critic_elbo(one, held_out, key=key_elbo, draws=256) for one in (method, further)
    )
    found = before.values - after.values
    return {"mean": float(found.mean()), "least": float(found.min()), "most": float(found.max())}


def run(config: Config, dataset: avb.Dataset, seed: int, final_rate: float) -> dict:
    """One run, and what its critic had missed."""
    architecture = standardised(dataset.train, latent_dim=8, width=300)
    key_init, key_fit = jax.random.split(jax.random.key(seed))
    method = avb.fit(
        avb.PRESETS["avb_adaptive"](architecture, key=key_init),
        dataset.train,
        config=FitConfig(critic_final_rate=final_rate),
        key=key_fit,
    ).method
    held_out = avb.binarise_once(dataset.validation, seed=1)[: config.num_data]
    train = jnp.asarray(avb.binarise_once(dataset.train, seed=1), jnp.float32)
    bend = bends(method.posterior, jnp.asarray(held_out, jnp.float32), jax.random.key(1))
    return {
        "seed": seed,
        "final_rate": final_rate,
        "found": {str(n): found_alone(method, train, held_out, n) for n in config.steps},
        "bend": float(jnp.mean(bend)),
    }


def table(config: Config, results: list[dict]) -> str:
    """One row a run."""
    header = ["seed", "`critic_final_rate`"]
    header += [f"found in {steps} steps alone (over images)" for steps in config.steps]
    rows = []
    for result in results:
        found = [result["found"][str(steps)] for steps in config.steps]
        cells = [f"{f['mean']:.2f} ({f['least']:.2f} … {f['most']:.2f})" for f in found]
        rows.append(
            [str(result["seed"]), f"{result['final_rate']:g}", *cells, f"{result['bend']:.2f}"]
        )
    return markdown_table([*header, "bend"], rows)


def main(config: Config) -> None:
    """Run what has no result yet, then write the table."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else []
    dataset = avb.load_dataset("digits")
    for seed in config.seeds:
        for final_rate in config.final_rates:
            if (seed, final_rate) not in [(r["seed"], r["final_rate"]) for r in results]:
                results.append(run(config, dataset, seed, final_rate))
                write_json(path, results)
                print(results[-1], flush=True)
    text = (
        "# What critics that lag still find\n\n`python -m experiments.critic_lag`; nats per datum, "
        f"{config.num_data} validation images of the digits; the critic alone trained on at the "
        "training images; mean, least and most over images; bend is 0 for Gaussian posteriors."
        "\n\n" + table(config, results)
    )
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
