"""How good posteriors are, datum by datum: the gaps of inference and what z knows of x.

Small models of scikit-learn's digits, the same networks and epochs for all:

    python -m experiments.posterior_quality          # about ten minutes on a core

Finished parts are kept, so the command can be interrupted.
"""

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np
import tyro

import avb
from experiments._results import RESULTS, markdown_table, write_json

HEADER = [
    "method",
    "d",
    "log p(x) ≥",
    "gap ≥",
    "approximation",
    "amortisation ≥",
    "active units",
    "I(x; z)",
    "KL(q(z) ‖ p(z))",
]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment.

    Attributes:
        methods: Presets to compare; their posteriors have a density or a bracket.
        latent_dims: Numbers of latent dimensions.
        epochs: Epochs of each run.
        width: Hidden units of the networks.
        num_data: Test images to evaluate on.
        samples: Importance samples a datum for log p(x).
        seed: Seed of networks, training and evaluation.
        out: Folder of the results.
    """

    methods: tuple[str, ...] = ("gaussian_vae", "sivi", "flow_vae")
    latent_dims: tuple[int, ...] = (2, 8)
    epochs: int = 100
    width: int = 100
    num_data: int = 200
    samples: int = 2000
    seed: int = 0
    out: Path = RESULTS


def measure(config: Config, method: str, latent_dim: int, data: avb.Dataset) -> dict:
    """Train one method and say how good its posterior is on test images."""
    keys = jax.random.split(jax.random.key(config.seed), 6)
    architecture = avb.Architecture(data.data_shape, latent_dim=latent_dim, width=config.width)
    fit = avb.fit(
        avb.PRESETS[method](architecture, key=keys[0]),
        data.train,
        config=avb.FitConfig(epochs=config.epochs, kl_warmup=0.0),
        key=keys[1],
    )
    model, posterior = fit.method.model, fit.method.posterior
    test = avb.binarise_once(data.test, seed=0)[: config.num_data]
    start = time.perf_counter()
    evidence = avb.importance_bound(model, posterior, test, key=keys[2], samples=config.samples)
    gaps = avb.inference_gaps(model, posterior, test, evidence, key=keys[3])
    share = float(np.mean(gaps.amortisation.values > 2.0 * gaps.amortisation.errors))
    information = avb.mutual_information(posterior, test, key=keys[4])
    divergence = avb.aggregate_kl(model, posterior, test, key=keys[5])
    return {
        "evidence": evidence.as_dict(),
        "gaps": gaps.as_dict(),
        "share_with_amortisation_gap": share,
        "active_units": avb.active_units(posterior, test, key=keys[4]).as_dict(),
        "information": [estimate.as_dict() for estimate in information],
        "aggregate_kl": [estimate.as_dict() for estimate in divergence],
        "seconds": time.perf_counter() - start,
    }


def number(summary: dict) -> str:
    """A mean and its standard error."""
    return f"{summary['nats_per_datum']:.3f} ± {summary['standard_error']:.3f}"


def between(pair: list[dict]) -> str:
    """Both bounds, or the one value where it is exact."""
    low, high = pair
    if low["kind"] == "exact":
        return number(low)
    return f"{low['nats_per_datum']:.3f} … {high['nats_per_datum']:.3f}"


def row(part: dict) -> list[str]:
    """A part's line of the table."""
    gaps = part["gaps"]
    return [
        f"`{part['method']}`",
        str(part["latent_dim"]),
        number(part["evidence"]),
        *(number(gaps[name]) for name in ("total", "approximation", "amortisation")),
        f"{part['active_units']['active_units']} of {part['latent_dim']}",
        between(part["information"]),
        between(part["aggregate_kl"]),
    ]


def report(config: Config, parts: list[dict]) -> str:
    """The Markdown page."""
    return (
        "# Quality of posteriors\n\n"
        f"`python -m experiments.posterior_quality`: digits, MLP {config.width}-{config.width}, "
        f"{config.epochs} epochs, {config.num_data} test images, nats per datum. The gap is that "
        "of log p(x), from below by importance weighting, less the ELBO. I(x; z) and the "
        "aggregate divergence are those of these images, the former at most "
        f"log {config.num_data} = {np.log(config.num_data):.2f}.\n\n"
        + markdown_table(HEADER, [row(part) for part in parts])
    )


def main(config: Config) -> None:
    """Run what is missing, print the table and write it."""
    path = config.out / "posterior_quality.json"
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k != "out"}
    settings = json.loads(json.dumps(settings))
    known = json.loads(path.read_text()) if path.exists() else {}
    parts = known["parts"] if known.get("settings") == settings else []
    data = avb.load_dataset("digits")
    for latent_dim in config.latent_dims:
        for method in config.methods:
            if any((p["method"], p["latent_dim"]) == (method, latent_dim) for p in parts):
                continue
            found = measure(config, method, latent_dim, data)
            parts.append({"method": method, "latent_dim": latent_dim, **found})
            write_json(path, {"settings": settings, "parts": parts})
    page = report(config, parts)
    path.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main(tyro.cli(Config))
