"""What keeps a posterior back in many latent dimensions: its critic? And does a KL warm-up help?

    python -m experiments.warmup --data-dir DIR

Posteriors of the same networks on MNIST, with and without a KL warm-up: the diagonal Gaussian,
one with full covariance and an exact density, the implicit one of `avb_adaptive` with its critic,
and the same with the critic held at T = 0, that is with a Gaussian entropy. If the last one trains
as the third does, the critic is not at fault; if the second is slow too, correlations are. Judged
by importance weighting on validation images; test data are not used.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import avb
from avb import Architecture, FitConfig, Method
from avb._presets import FLOOR, REACH, _split
from avb._types import Datum, Features, Key
from avb.contrasts import AbstractContrast, AnchoredMomentContrast, GaussianContrast
from avb.critics import ResidualCritic
from avb.evaluation import thickness
from avb.nets._affine import forward
from avb.posteriors import (
    AbstractImplicitPosterior,
    BasisPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    ImplicitPosterior,
)
from avb.posteriors._base import feature_size
from experiments._corrected import CorrectedMomentContrast
from experiments._results import RESULTS, markdown_table, spread, write_json
from experiments._standardised import standardised

# Adam's steps have this size: over a whole run T moves by less than a millionth.
STANDS_STILL = 1e-12
DIAGNOSED = 50


def full_gaussian(architecture: Architecture, *, key: Key) -> Method:
    """A variational autoencoder with correlated latent dimensions."""
    model, encoder, shapes, key_posterior, _, _ = _split(architecture, key)
    return Method(model, FullGaussianPosterior(encoder, **shapes, key=key_posterior))


class DeeperEncoder(eqx.Module):
    """Features of an encoder, and what more layers make of them.

    Args:
        encoder: Features of one datum.
        size: How many.
        width: Units of each further layer.
        depth: Hidden layers.
        key: PRNG key.
    """

    encoder: Callable
    network: eqx.nn.MLP

    def __init__(self, encoder: Callable, size: int, *, width: int, depth: int, key: Key):
        self.encoder = encoder
        self.network = eqx.nn.MLP(size, width, width, depth, activation=jax.nn.silu, key=key)

    def __call__(self, x: Datum) -> Features:
        features = self.encoder(x)
        return jnp.concatenate([features, forward(self.network, features)])


def _deeper(architecture: Architecture, width: int, depth: int, key: Key) -> tuple:
    """Model, deeper encoder, shapes and a key, otherwise as the presets have them."""
    model, encoder, shapes, key_posterior, key_deeper, _ = _split(architecture, key)
    size = feature_size(encoder, architecture.data_shape)
    encoder = DeeperEncoder(encoder, size, width=width, depth=depth, key=key_deeper)
    return model, encoder, shapes, key_posterior


def deeper_gaussian(architecture: Architecture, *, key: Key) -> Method:
    """The diagonal Gaussian with the layers that `avb_adaptive` has between features and draw."""
    model, encoder, shapes, key_posterior = _deeper(architecture, 128, 2, key)
    return Method(model, GaussianPosterior(encoder, **shapes, key=key_posterior))


def deeper_adaptive(architecture: Architecture, *, key: Key) -> Method:
    """`avb_adaptive` with more layers that no noise passes."""
    method = avb.PRESETS["avb_adaptive"](architecture, key=key)
    _, encoder, shapes, key_posterior = _deeper(architecture, 256, 3, key)
    latent_dim = architecture.latent_dim
    posterior = ImplicitPosterior(
        encoder, **shapes, noise_dim=latent_dim, floor=FLOOR, reach=REACH, key=key_posterior
    )
    size = feature_size(encoder, architecture.data_shape)
    critic = ResidualCritic(size, latent_dim, key=_split(architecture, key)[5])
    return eqx.tree_at(
        lambda method: (method.posterior, method.critic), method, (posterior, critic)
    )


def larger_noise_network(
    architecture: Architecture, *, reach: float | None = None, key: Key
) -> Method:
    """`avb_adaptive` with as many more units that noise passes."""
    larger = dataclasses.replace(architecture, noise_width=256, noise_depth=3, noise_reach=reach)
    return avb.PRESETS["avb_adaptive"](larger, key=key)


def weighted_adaptive(
    architecture: Architecture, *, gradient_draws: int | None = None, key: Key
) -> Method:
    """`avb_adaptive` on the importance-weighted bound of 5 draws, as `iwae` has it."""
    method = avb.PRESETS["avb_adaptive"](architecture, key=key)
    return dataclasses.replace(method, importance_samples=5, gradient_draws=gradient_draws)


def other_contrast(
    architecture: Architecture,
    *,
    contrast: Callable[..., AbstractContrast],
    fit_draws: int = 1,
    key: Key,
) -> Method:
    """The larger noise network with a contrast made of its posterior, the sizes and a key."""
    method = larger_noise_network(architecture, key=key)
    posterior = method.posterior
    size = feature_size(posterior.encoder, architecture.data_shape)
    made = contrast(posterior, size, architecture.latent_dim, key=_split(architecture, key)[4])
    return dataclasses.replace(method, contrast=made, fit_draws=fit_draws)


def with_128_points(posterior: Any, *sizes: int, key: Key) -> AbstractContrast:
    return AnchoredMomentContrast(posterior.noise_size, num_anchors=128)


def corrected(posterior: Any, *sizes: int, key: Key) -> AbstractContrast:
    return CorrectedMomentContrast(posterior.noise_size, *sizes, key=key)


def learned(posterior: Any, *sizes: int, key: Key) -> AbstractContrast:
    return GaussianContrast(*sizes, key=key)


def basis(architecture: Architecture, *, key: Key) -> Method:
    """`avb_adaptive` with the posterior of the paper's images: noise networks that see no datum."""
    method = avb.PRESETS["avb_adaptive"](architecture, key=key)
    _, encoder, shapes, key_posterior, _, _ = _split(architecture, key)
    posterior = BasisPosterior(encoder, **shapes, num_basis=16, noise_dim=8, key=key_posterior)
    contrast = AnchoredMomentContrast(posterior.noise_size)
    return eqx.tree_at(lambda m: (m.posterior, m.contrast), method, (posterior, contrast))


def without_floor(architecture: Architecture, *, key: Key) -> Method:
    """`avb_adaptive`, all of whose noise is bent, as far as it goes."""
    return with_reach(architecture, reach=4.0, floor=0.0, key=key)


def with_reach(architecture: Architecture, *, reach: float, floor: float, key: Key) -> Method:
    """`avb_adaptive` with another reach and floor."""
    further = dataclasses.replace(architecture, noise_reach=reach)
    return avb.PRESETS["avb_adaptive"](further, floor=floor, key=key)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method, and what training it has that others have not.

    Attributes:
        title: In words.
        make: From an architecture and a key.
        critic_rate: Adam's peak rate of the critic.
        critic_final_rate: That of ``FitConfig``, as low as the model's but where it is compared.
    """

    title: str
    make: Callable[..., Method]
    critic_rate: float = FitConfig.critic_learning_rate
    critic_final_rate: float = FitConfig.final_rate


def with_final_rate(share: float) -> Variant:
    """`avb_adaptive` whose critic's rate falls to a share of its peak."""
    return Variant(
        f"`avb_adaptive`, critic's final rate {share:g}",
        avb.PRESETS["avb_adaptive"],
        critic_final_rate=share,
    )


def adaptive(reach: float, floor: float = FLOOR, critic_speed: float = 1.0) -> Variant:
    """`avb_adaptive` with another reach or floor, or with a faster critic."""
    speed = "" if critic_speed == 1.0 else f" at {critic_speed:g} times the rate"
    return Variant(
        f"implicit with a floor of {floor:g} and a reach of {reach:g}, critic{speed}",
        functools.partial(with_reach, reach=reach, floor=floor),
        critic_speed * FitConfig.critic_learning_rate,
    )


VARIANTS = {
    "diagonal": Variant("diagonal Gaussian", avb.PRESETS["gaussian_vae"]),
    "diagonal-deeper": Variant(
        "diagonal Gaussian, deeper encoder by 2 × 128 units", deeper_gaussian
    ),
    "full": Variant("full Gaussian", full_gaussian),
    "implicit": Variant("implicit, critic", without_floor),
    "floor": adaptive(reach=4.0),
    "reach-2": adaptive(reach=2.0),
    "reach": adaptive(reach=1.0),
    "reach-0.5": adaptive(reach=0.5),
    "floor-0.5": adaptive(reach=1.0, floor=0.5),
    "critic-2x": adaptive(reach=1.0, critic_speed=2.0),
    "critic-final-0.05": with_final_rate(0.05),
    "critic-final-0.3": with_final_rate(0.3),
    "critic-final-1": with_final_rate(1.0),
    "bend-256x3": Variant(
        "as the preset's, noise through 3 × 256 units, critic", larger_noise_network
    ),
    "bend-256x3-reach-4": Variant(
        "noise through 3 × 256 units, reach 4, critic",
        functools.partial(larger_noise_network, reach=4.0),
    ),
    "bend-256x3-128": Variant(
        "through 3 × 256 units, the contrast's moments at 128 points instead of 64 (d = 32)",
        functools.partial(other_contrast, contrast=with_128_points),
    ),
    "bend-256x3-corrected": Variant(
        "through 3 × 256 units, the contrast's moments corrected by a learned head",
        functools.partial(other_contrast, contrast=corrected),
    ),
    "bend-256x3-learned": Variant(
        "through 3 × 256 units, learned Gaussian contrast",
        functools.partial(other_contrast, contrast=learned),
    ),
    "bend-256x3-learned-2x": Variant(
        "the same, critic and contrast at twice the rate",
        functools.partial(other_contrast, contrast=learned),
        2.0 * FitConfig.critic_learning_rate,
    ),
    "bend-256x3-learned-9": Variant(
        "the same, the contrast fitted to 9 draws",
        functools.partial(other_contrast, contrast=learned, fit_draws=9),
        2.0 * FitConfig.critic_learning_rate,
    ),
    "basis-8": Variant("sum of 16 noise networks that see no datum, critic", basis),
    "deeper-256x3": Variant(
        "as the preset's, deeper encoder by 3 × 256 units, critic", deeper_adaptive
    ),
    "weighted": Variant(
        "implicit with a floor of 0.3 and a reach of 1, critic, weighted bound of 5 draws",
        weighted_adaptive,
    ),
    "weighted-one": Variant(
        "the same, one of the 5 draws goes back",
        functools.partial(weighted_adaptive, gradient_draws=1),
    ),
    "no-critic": Variant("implicit, T = 0", without_floor, STANDS_STILL),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        data_dir: Folder of the MNIST files.
        latent_dim: Number of latent dimensions.
        epochs: Epochs of each run.
        warmups: Epochs over which the weight of log p(z) − log q(z|x) rises from 0 to 1.
        seeds: Seeds of each.
        variants: What to compare.
        width: Units of each hidden layer of encoder and decoder.
        depth: Hidden layers of each.
        num_data: Validation images.
        samples: Importance samples an image.
    """

    data_dir: Path
    latent_dim: int = 32
    epochs: int = 8
    warmups: tuple[float, ...] = (0.0, 4.0)
    seeds: tuple[int, ...] = (0,)
    variants: tuple[str, ...] = tuple(VARIANTS)
    width: int = 300
    depth: int = 2
    num_data: int = 500
    samples: int = 300

    @property
    def path(self) -> Path:
        sizes = "" if (self.width, self.depth) == (300, 2) else f"_n{self.width}x{self.depth}"
        images = "" if self.num_data == 500 else f"_v{self.num_data}"
        return RESULTS / f"warmup_d{self.latent_dim}_e{self.epochs}{sizes}{images}.json"


def run(config: Config, dataset: avb.Dataset, variant: Variant, warmup: float, seed: int) -> dict:
    """Train one variant and weigh its model."""
    architecture = standardised(
        dataset.train, latent_dim=config.latent_dim, width=config.width, depth=config.depth
    )
    key_init, key_fit = jax.random.split(jax.random.key(seed))
    began = time.process_time()
    result = avb.fit(
        variant.make(architecture, key=key_init),
        dataset.train,
        config=FitConfig(
            epochs=config.epochs,
            kl_warmup=warmup,
            critic_learning_rate=variant.critic_rate,
            critic_final_rate=variant.critic_final_rate,
        ),
        key=key_fit,
    )
    held_out = avb.binarise_once(dataset.validation[: config.num_data], seed=1)
    method, last = result.method, result.history[-1]
    bound = avb.importance_bound(
        method.model,
        method.posterior,
        held_out,
        key=jax.random.key(5),
        samples=config.samples,
    )
    thin = None
    if isinstance(method.posterior, AbstractImplicitPosterior):
        thin = thickness(method.posterior, held_out, key=jax.random.key(6))
    too_high = None
    if method.critic is not None:
        diagnosis = avb.diagnose(method, held_out[:DIAGNOSED], key=jax.random.key(7))
        too_high = diagnosis.as_dict()["too_high"]["nats"]
    return {
        "thickness": thin,
        "too_high": too_high,
        "elbo": last["elbo"],
        "log_likelihood": last["log_likelihood"],
        "log_evidence": bound.mean,
        "error": bound.standard_error,
        "cpu_seconds": time.process_time() - began,
    }


def table(results: dict[str, dict[str, dict]]) -> str:
    """One row a variant and warm-up that there are results of."""
    rows = []
    warmups = sorted({float(cell.split(", ")[1]) for cell in results})
    for name in VARIANTS:
        for warmup in warmups:
            runs = list(results.get(f"{name}, {warmup:g}", {}).values())
            if not runs:
                continue
            elbo = np.array([run["elbo"] for run in runs])
            likelihood = np.array([run["log_likelihood"] for run in runs])
            rows.append(
                [
                    VARIANTS[name].title,
                    f"{warmup:g}",
                    str(len(runs)),
                    spread(elbo),
                    spread(likelihood - elbo),
                    spread([run["log_evidence"] for run in runs]),
                    spread([run["thickness"] for run in runs if run["thickness"] is not None], 3),
                    spread([run["too_high"] for run in runs if run.get("too_high") is not None]),
                ]
            )
    header = [
        "posterior", "KL warm-up, epochs", "seeds", "ELBO of training", "its divergence",
        "log p(x) ≥ (IW, validation)", "thickness of q", "critic's ELBO too high by",
    ]  # fmt: skip
    return markdown_table(header, rows)


def main(config: Config) -> None:
    """Run what has no result yet, then write the table."""
    dataset = avb.load_dataset("mnist", data_dir=config.data_dir)
    results = json.loads(config.path.read_text()) if config.path.exists() else {}
    for seed in config.seeds:
        for name in config.variants:
            for warmup in config.warmups:
                runs = results.setdefault(f"{name}, {warmup:g}", {})
                if str(seed) in runs:
                    continue
                runs[str(seed)] = run(config, dataset, VARIANTS[name], warmup, seed)
                write_json(config.path, results)
                print(name, warmup, seed, runs[str(seed)], flush=True)
    config.path.with_suffix(".md").write_text(report(config, results))
    print(report(config, results))


def report(config: Config, results: dict[str, dict[str, dict]]) -> str:
    """The table with its heading."""
    command = (
        f"python -m experiments.warmup --data-dir DIR --latent-dim {config.latent_dim} "
        f"--epochs {config.epochs}"
    )
    if (config.width, config.depth) != (300, 2):
        command += f" --width {config.width} --depth {config.depth}"
    if config.num_data != 500:
        command += f" --num-data {config.num_data}"
    return (
        "# What keeps a posterior back in many latent dimensions\n\n"
        f"`{command}`: MNIST, {config.depth} hidden layers of {config.width} units; the ELBO "
        "without a critic's part is no bound (T = 0); nats per datum.\n\n" + table(results)
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
