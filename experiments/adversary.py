"""Contrasts, rates, steps and critics, one change at a time: is the critic's ELBO right?

    python -m experiments.adversary                                    # digits
    python -m experiments.adversary --data mnist --data-dir DIR        # networks of 300 units
    python -m experiments.adversary --data mnist --data-dir DIR --width 100 --epochs 10

Every variant is `avb_adaptive`, without its floor and KL warm-up, and with the critic's rate
falling as low as the others', but for one change. Each is
trained, and diagnosed on validation data (`avb.diagnose`): by how much the critic's ELBO is too
high, how much of KL(q‖r) a Gaussian with q's own moments would have spared the critic, the error
of its slope, and log p(x) of the model by importance weighting. The last column is processor time
a training step over that of the learned contrast. Results of finished runs are kept, each with a
picture that shows which part is at fault; test data are not used.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import avb
from avb import Architecture, FitConfig, FitResult, Method
from avb._presets import _split
from avb._types import Key
from avb.contrasts import (
    AbstractContrast,
    AnchoredMomentContrast,
    GaussianContrast,
    MixtureContrast,
    MomentContrast,
)
from avb.critics import AbstractCritic, ResidualCritic, TelescopingCritic
from avb.objectives import AbstractObjective, WeightedLogistic
from avb.posteriors import ImplicitPosterior
from avb.report import draw_diagnosis
from experiments._driven import fit_driven
from experiments._regularised import FilmCritic, NoisyCritic, SlopeCritic, SlopePenalty
from experiments._results import RESULTS, markdown_table, spread, write_json
from experiments._standardised import standardised

CONTRAST_DRAWS = 4
DRIVING_DATA = 1000
REFERENCE = "learned"
DEFAULT_OBJECTIVE = WeightedLogistic()


@dataclasses.dataclass(frozen=True)
class Variant:
    """One change.

    Attributes:
        title: In words.
        contrast: From feature size, posterior and key.
        critic: From the sizes of features and latent vector, width and key.
        critic_width: Hidden units of the critic.
        objective: What the critic minimises.
        fit: Settings of training that differ from the defaults.
        fit_draws: Draws of q that a learned contrast is fitted to, a datum.
        driven: Whether a held-out loss decides the number of critic steps.
    """

    title: str
    contrast: Callable[[int, ImplicitPosterior, Key], AbstractContrast]
    critic: Callable[..., AbstractCritic] = ResidualCritic
    critic_width: int = 128
    objective: AbstractObjective = DEFAULT_OBJECTIVE
    fit: dict[str, Any] = dataclasses.field(default_factory=dict)
    fit_draws: int = 1
    driven: bool = False

    def method(self, architecture: Architecture, key: Key) -> Method:
        """All parts; model, encoder and posterior start alike in every variant."""
        model, encoder, shapes, key_posterior, key_contrast, key_critic = _split(architecture, key)
        posterior = ImplicitPosterior(encoder, **shapes, key=key_posterior)
        contrast = self.contrast(architecture.width, posterior, key_contrast)
        critic = self.critic(
            architecture.width, architecture.latent_dim, width=self.critic_width, key=key_critic
        )
        return Method(
            model,
            posterior,
            contrast,
            critic,
            self.objective,
            contrast_draws=CONTRAST_DRAWS,
            fit_draws=self.fit_draws,
        )


def learned(size: int, posterior: ImplicitPosterior, key: Key) -> AbstractContrast:
    return GaussianContrast(size, posterior.latent_dim, key=key)


def anchored(size: int, posterior: ImplicitPosterior, key: Key) -> AbstractContrast:
    return AnchoredMomentContrast(posterior.noise_size)


def mixture(size: int, posterior: ImplicitPosterior, key: Key) -> AbstractContrast:
    return MixtureContrast(size, posterior.latent_dim, key=key)


VARIANTS = {
    "learned": Variant("learned Gaussian", learned),
    "anchored": Variant("moments at 32 points of noise (default)", anchored),
    "anchored-64": Variant(
        "moments at 64 points of noise",
        lambda _, posterior, __: AnchoredMomentContrast(posterior.noise_size, num_anchors=64),
    ),
    "moments-32": Variant("moments of 32 draws", lambda *_: MomentContrast("full", 32)),
    "moments-128": Variant("moments of 128 draws", lambda *_: MomentContrast("full", 128)),
    "mixture": Variant("learned mixture of 4 Gaussians", mixture),
    "telescoping": Variant("fixed noise, telescoping critic", anchored, critic=TelescopingCritic),
    "draws-8": Variant("learned from 8 draws a datum", learned, fit_draws=8),
    "draws-8-rate-2": Variant(
        "the same, rate × 2", learned, fit={"critic_learning_rate": 4e-3}, fit_draws=8
    ),
    "draws-8-rate-4": Variant(
        "the same, rate × 4", learned, fit={"critic_learning_rate": 8e-3}, fit_draws=8
    ),
    "rate-2": Variant("learned, rate × 2", learned, fit={"critic_learning_rate": 4e-3}),
    "rate-4": Variant("learned, rate × 4", learned, fit={"critic_learning_rate": 8e-3}),
    "steps-2": Variant("learned, 2 critic steps", learned, fit={"critic_steps": 2}),
    "steps-5": Variant("learned, 5 critic steps", learned, fit={"critic_steps": 5}),
    "steps-driven": Variant("learned, 1 to 8 critic steps by held-out loss", learned, driven=True),
    "wide": Variant("learned, critic of 256 units", learned, critic_width=256),
    "noise": Variant(
        "learned, instance noise of 0.1 scales", learned, critic=partial(NoisyCritic, noise=0.1)
    ),
    "slope": Variant(
        "learned, slope penalty R1 (γ = 0.1)",
        learned,
        critic=SlopeCritic,
        objective=SlopePenalty(DEFAULT_OBJECTIVE, 0.1),
    ),
    "film": Variant("learned, x scales and shifts the critic's units (FiLM)", learned, FilmCritic),
    "anchored-rate-2": Variant(
        "fixed noise, rate × 2", anchored, fit={"critic_learning_rate": 4e-3}
    ),
    "anchored-steps-2": Variant("fixed noise, 2 critic steps", anchored, fit={"critic_steps": 2}),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison.

    Attributes:
        data: ``digits`` or ``mnist``.
        data_dir: Folder of the MNIST files.
        latent_dim: Number of latent dimensions.
        width: Units of encoder and decoder.
        epochs: Epochs of each run; by default 300 of the digits, 30 of MNIST.
        seeds: Seeds of each variant.
        variants: What to compare.
        num_data: Validation data for importance weighting; the diagnosis takes half of them.
        steps: Steps of the diagnosis' critics.
    """

    data: str = "digits"
    data_dir: Path | None = None
    latent_dim: int = 8
    width: int = 300
    epochs: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: tuple[str, ...] = tuple(VARIANTS)
    num_data: int = 200
    steps: int = 1000

    @property
    def passes(self) -> int:
        return self.epochs or (300 if self.data == "digits" else 30)

    @property
    def name(self) -> str:
        return f"adversary_{self.data}_d{self.latent_dim}_w{self.width}_e{self.passes}"


def train(
    config: Config, variant: Variant, seed: int, data: np.ndarray, held_out: np.ndarray
) -> tuple[FitResult, float]:
    """What training gave, and the processor time of one step in milliseconds."""
    architecture = standardised(data, latent_dim=config.latent_dim, width=config.width)
    key_init, key_fit = jax.random.split(jax.random.key(seed))
    clock: list[tuple[float, int]] = []

    def note(progress: avb.training.Progress) -> None:
        clock.append((time.process_time(), progress.step))

    fit = partial(fit_driven, held_out=held_out) if variant.driven else avb.fit
    result = fit(
        variant.method(architecture, key_init),
        data,
        config=FitConfig(
            epochs=config.passes,
            kl_warmup=0.0,
            critic_final_rate=FitConfig.final_rate,
            **variant.fit,
        ),
        key=key_fit,
        on_progress=note,
    )
    # The first stretch compiles.
    (began, first), (ended, last) = clock[0], clock[-1]
    return result, 1e3 * (ended - began) / max(last - first, 1)


def measure(config: Config, name: str, result: FitResult, seed: int, data: np.ndarray) -> dict:
    """The diagnosis, its picture beside the results, and what the model is worth."""
    method = result.method
    key_diagnosis, key_bound = jax.random.split(jax.random.key(1000 + seed))
    diagnosis = avb.diagnose(
        method, data[: config.num_data // 2], key=key_diagnosis, steps=config.steps
    )
    picture = RESULTS / config.name / f"{name}-{seed}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_diagnosis(picture, f"{VARIANTS[name].title}, seed {seed}", diagnosis, result.history)
    bound = avb.importance_bound(method.model, method.posterior, data, key=key_bound, samples=500)
    estimate = avb.critic_elbo(method, data, key=key_bound)
    return {
        "diagnosis": diagnosis.as_dict(),
        "log_evidence": bound.mean,
        "log_evidence_error": bound.standard_error,
        "critic_elbo": estimate.mean,
    }


HEADER = [
    "variant",
    "seeds",
    "ELBO too high by",
    "KL(q‖r)",
    "misfit of r",
    "slope error",
    "critic's ELBO",
    "log p(x) ≥ (IW)",
    "cost",
]


def table(config: Config) -> str:
    """One row for each variant with results; a step's cost is over the learned contrast's."""
    files = sorted((RESULTS / config.name).glob("*.json"))
    results = [json.loads(file.read_text()) for file in files]
    runs = {name: [run for run in results if run["variant"] == name] for name in VARIANTS}
    reference = [run["step_ms"] for run in runs.get(REFERENCE, [])]
    rows = []
    for name, found in runs.items():
        if not found:
            continue

        def finding(key: str, found=found) -> str:
            return spread([run["diagnosis"][key]["nats"] for run in found])

        cost = np.mean([run["step_ms"] for run in found])
        rows.append(
            [
                VARIANTS[name].title,
                str(len(found)),
                finding("too_high"),
                finding("divergence"),
                finding("misfit"),
                spread([run["diagnosis"]["slope_error"] for run in found]),
                spread([run["critic_elbo"] for run in found]),
                spread([run["log_evidence"] for run in found]),
                f"{cost / np.mean(reference):.2f}" if reference else "–",
            ]
        )
    return markdown_table(HEADER, rows)


def main(config: Config) -> None:
    dataset = avb.load_dataset(config.data, data_dir=config.data_dir)
    held_out = avb.binarise_once(dataset.validation[: config.num_data], seed=1)
    others = avb.binarise_once(dataset.validation[config.num_data :][:DRIVING_DATA], seed=2)
    for seed in config.seeds:
        for name in config.variants:
            path = RESULTS / config.name / f"{name}-{seed}.json"
            if path.exists():
                continue
            result, step_ms = train(config, VARIANTS[name], seed, dataset.train, others)
            found = measure(config, name, result, seed, held_out)
            write_json(path, {"variant": name, "seed": seed, "step_ms": step_ms} | found)
            print(f"{name} seed {seed}: {found['diagnosis']['sentence']}", flush=True)
    text = table(config)
    (RESULTS / config.name / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
