"""How many points of noise does the contrast of `avb_adaptive` need after long training?

    python -m experiments.contrast_points --run-dir RUN
    python -m experiments.contrast_points --run-dir RUN --epochs 4 --data-dir DIR

The contrast is the Gaussian with q's moments at fixed points of noise. First table: KL from the
Gaussian with the moments of many draws to it, mean and largest over validation data, by number of
points and seed of the Sobol sequence; 0.02 nats of it are those draws' own noise. With ``--epochs``
a run on MNIST is trained further, with as many points as it has and with 128. Second table, on
500 validation images: the critic's ELBO, an upper bound of the ELBO by one fresh critic, and the
importance-weighted bound of log p(x).
"""

import dataclasses
from pathlib import Path
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import tyro

import avb
from avb import Method
from avb._types import Key
from avb.contrasts import AnchoredMomentContrast
from avb.densities import FullGaussian
from avb.evaluation._fresh_training import prepare
from avb.posteriors import AbstractImplicitPosterior
from experiments._results import RESULTS, keep, markdown_table
from experiments.shell import BATCH

POINTS = (32, 64, 128, 256)
SEEDS = (0, 1, 2)
MISFIT_DATA = 100
MORE_POINTS = 128
JUDGED = 500
RATE, CRITIC_RATE = 5e-4, 2e-3


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run.

    Attributes:
        run_dir: Run folder, of `avb_adaptive`.
        epochs: To train further; none for the first table alone.
        data_dir: Folder of the MNIST files.
    """

    run_dir: Path
    epochs: int = 0
    data_dir: Path = Path()

    @property
    def path(self) -> Path:
        folder = RESULTS / self.run_dir.absolute().parent.name
        trained = f"_e{self.epochs}" if self.epochs else ""
        return folder / f"contrast_points{trained}-{self.run_dir.name}.json"


def divergence(p: FullGaussian, q: FullGaussian) -> jax.Array:
    """KL(p, q) of two Gaussians."""
    normal = lambda g: dist.MultivariateNormal(g.loc, scale_tril=g.scale_tril)  # noqa: E731
    return dist.kl_divergence(normal(p), normal(q))


def misfits(method: Method, data: np.ndarray, key: Key) -> list[dict]:
    """KL from the Gaussian with q's moments to each contrast, of all data."""
    posterior = cast(AbstractImplicitPosterior, method.posterior)
    arena = prepare(posterior, data, key=key, batch_size=BATCH)

    @eqx.filter_jit
    def of_data(contrast: AnchoredMomentContrast) -> jax.Array:
        def of_datum(of_one):
            features, gaussian = of_one
            r = contrast.condition(posterior, method.model.prior, features, key)
            return divergence(gaussian, r)

        return jax.lax.map(of_datum, (arena.features, arena.contrast))

    found = []
    for points in POINTS:
        for seed in SEEDS:
            contrast = AnchoredMomentContrast(posterior.noise_size, num_anchors=points, seed=seed)
            each = of_data(contrast)
            spread = {"mean": float(jnp.mean(each)), "largest": float(jnp.max(each))}
            found.append({"points": points, "seed": seed} | spread)
            print(found[-1], flush=True)
    return found


def judged(method: Method, data: np.ndarray, key: Key) -> dict[str, float]:
    """The critic's ELBO, and two bounds."""
    parts = method.model, method.posterior, data
    return {
        "critic's ELBO": avb.critic_elbo(method, data, key=key, draws=64).mean,
        "ELBO ≤": avb.fresh_critic_elbo(*parts, key=key, critics=1).upper.mean,
        "log p(x) ≥ (IW)": avb.importance_bound(*parts, key=key, samples=500).mean,
    }


def trained_further(method: Method, config: Config, held_out: np.ndarray) -> list[dict]:
    """The run as it is, and after more epochs with as many points and with more."""
    train = avb.load_dataset("mnist", data_dir=config.data_dir).train
    fit = avb.FitConfig(
        epochs=config.epochs,
        kl_warmup=0.0,
        learning_rate=RATE,
        critic_learning_rate=CRITIC_RATE,
    )
    key_fit, key_judge = jax.random.split(jax.random.key(1))
    posterior = cast(AbstractImplicitPosterior, method.posterior)
    own = len(cast(AnchoredMomentContrast, method.contrast).anchors)
    found = [{"points": own, "epochs": 0} | judged(method, held_out, key_judge)]
    for points in (own, MORE_POINTS):
        contrast = AnchoredMomentContrast(posterior.noise_size, num_anchors=points)
        changed = eqx.tree_at(lambda method: method.contrast, method, contrast)
        ended = avb.fit(changed, train, config=fit, key=key_fit).method
        found.append({"points": points, "epochs": config.epochs})
        found[-1] |= judged(ended, held_out, key_judge)
        print(found[-1], flush=True)
    return found


def main(config: Config) -> None:
    run = avb.load_run(config.run_dir)
    if not isinstance(run.method.contrast, AnchoredMomentContrast):
        raise SystemExit(f"{config.run_dir}: expected a run of avb_adaptive, got another contrast")
    held_out = run.held_out("validation")
    if config.epochs:
        found = trained_further(run.method, config, held_out[:JUDGED])
    else:
        found = misfits(run.method, held_out[:MISFIT_DATA], jax.random.key(0))
    decimals = lambda value: f"{value:.2f}" if isinstance(value, float) else str(value)  # noqa: E731
    rows = [[decimals(value) for value in one.values()] for one in found]
    keep(config.path, {"found": found}, markdown_table(list(found[0]), rows))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
