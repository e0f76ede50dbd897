"""More decoders for the latent space of a trained run, to be averaged with its own.

    python -m experiments.decoders --run-dir RUN --fresh 3

The run's posterior and prior stay as they are. Draws z of each training image, moved by the run's
own Hamiltonian transitions where it has any, are made once; then decoders of the same shape, from
other random weights, learn p(x|z) from them, each by itself. What each learns by chance about
images that it has not seen differs, and the mean of their logits has less of it. Draws and
decoders lie beside the run's folder, in ``RUN_decoders``, and what exists is not done again (remove
it for other settings). It prints, and keeps, log p(x) of training and validation images by
importance weighting for each decoder and for the mean of the first of them;
``experiments.margins --fresh-decoders`` tells that of test images, with annealing.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import lax
from jaxtyping import Array

import avb
from avb._types import Key
from avb.evaluation import importance_bound
from avb.models import LatentVariableModel
from avb.nets._rows import over_rows
from avb.runs._prepare import training_values
from avb.training._batches import binarise
from avb.training._draws import drawn
from avb.training._refine import Chains, refine
from experiments._averaged import averaged, folder_of, member_path, members_of
from experiments._bounds import Margin
from experiments._results import RESULTS, keep, markdown_table

BATCH = 128
LEARNING_RATE = 2e-3
# Of the rate, at the end of a cosine.
FINAL_SHARE = 0.02
# Of the running mean of the parameters, a step.
DECAY = 0.995


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run, and how many decoders.

    Attributes:
        run_dir: Run folder of a model of binary images.
        fresh: Decoders to train besides the run's own.
        draws: Posterior draws of each training image, each with its pixels drawn anew.
        epochs: Of each decoder, each over one draw of every image.
        num_data: Images of each split to judge by.
        samples: Samples of the importance-weighted bound.
    """

    run_dir: Path
    fresh: int = 3
    draws: int = 4
    epochs: int = 24
    num_data: int = 1000
    samples: int = 100

    def __post_init__(self):
        for name in ("fresh", "draws", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def path(self) -> Path:
        name = f"decoders-{self.run_dir.name}.json"
        return RESULTS / self.run_dir.absolute().parent.name / name


@eqx.filter_jit
def draw_batch(
    method: avb.Method, raw: Array, key: Key, chains: Chains
) -> tuple[Array, Array, Chains]:
    """Pixels of each image drawn anew, a posterior draw of each, and the chains' step size."""
    key_pixels, key_draws = jax.random.split(key)
    x = binarise(raw, key_pixels)
    if method.hmc_transitions:
        z, chains = refine(method, x, key_draws, chains)
    else:
        z = drawn(method, over_rows(method.posterior.encoder)(x), key_draws)
    return x.astype(jnp.uint8), z, chains


def write_draws(path: Path, method: avb.Method, images: np.ndarray, key: Key) -> None:
    """Write one draw of every image of the whole batches."""
    began, chains, found = time.perf_counter(), Chains.first(), []
    for start in range(0, len(images) - BATCH + 1, BATCH):
        raw = jnp.asarray(images[start : start + BATCH])
        x, z, chains = draw_batch(method, raw, jax.random.fold_in(key, start), chains)
        found.append((np.packbits(np.asarray(x).reshape(BATCH, -1), axis=1), np.asarray(z)))
    bits, latents = (np.concatenate(each) for each in zip(*found, strict=True))
    unfinished = path.with_name(f"unfinished-{path.name}")
    np.savez(unfinished, bits=bits, z=latents)
    os.replace(unfinished, path)
    seconds = time.perf_counter() - began
    print(f"{path.name}: acceptance {float(chains.acceptance):.2f}, {seconds:.0f} s", flush=True)


def loss(decoder: Callable, model: LatentVariableModel, x: Array, z: Array) -> Array:
    """−log p(x|z) under another decoder, in nats per image."""
    model = eqx.tree_at(lambda model: model.decoder, model, decoder)
    return -jnp.mean(model.log_likelihoods(x, z))


def train_member(
    config: Config, model: LatentVariableModel, decoder: Callable, paths: list[Path], key: Key
) -> Callable:
    """The decoder after all epochs: the running mean of its parameters."""
    began, files = time.perf_counter(), [np.load(path) for path in paths]
    count = len(files[0]["z"])
    params, static = eqx.partition(decoder, eqx.is_array)
    steps = config.epochs * (count // BATCH)
    optimiser = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps, FINAL_SHARE))

    def step(carry, x, z):
        params, state, mean = carry
        value, gradient = jax.value_and_grad(
            lambda params: loss(eqx.combine(params, static), model, x, z)
        )(params)
        updates, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda m, p: DECAY * m + (1 - DECAY) * p, mean, params)
        return (params, state, mean), value

    @jax.jit
    def epoch(carry, order, x, z):
        def of_batch(carry, index):
            return step(carry, x[index].astype(jnp.float32), z[index])

        return lax.scan(of_batch, carry, order)

    carry = (params, optimiser.init(params), params)
    for number in range(config.epochs):
        kept = files[number % len(files)]
        x = np.unpackbits(kept["bits"], axis=1, count=int(np.prod(model.data_shape)))
        x = jnp.asarray(x.reshape(count, *model.data_shape))
        order = jax.random.permutation(jax.random.fold_in(key, number), count)
        carry, losses = epoch(carry, order.reshape(-1, BATCH), x, jnp.asarray(kept["z"]))
        seconds = time.perf_counter() - began
        told = f"log p(x|z) {-float(jnp.mean(losses)):.2f} on training images, {seconds:.0f} s"
        print(f"epoch {number + 1} of {config.epochs}: {told}", flush=True)
    return eqx.combine(carry[2], static)


def train_all(config: Config, run: avb.Run) -> None:
    """What does not exist yet: the draws, and the decoders that learn from them."""
    method, folder = run.method, folder_of(config.run_dir)
    folder.mkdir(exist_ok=True)
    key_draws, key_members = jax.random.split(jax.random.key(1))
    paths = [folder / f"draws-{index}.npz" for index in range(config.draws)]
    images = training_values(run.dataset().train, "binary")
    for index, path in enumerate(paths):
        if not path.exists():
            write_draws(path, method, images, jax.random.fold_in(key_draws, index))
    for index in range(1, config.fresh + 1):
        path = member_path(config.run_dir, index)
        if not path.exists():
            print(path.name, flush=True)
            key_init, key_order = jax.random.split(jax.random.fold_in(key_members, index))
            decoder = run.record.architecture.build_model(key=key_init).decoder
            write(path, train_member(config, method.model, decoder, paths, key_order))


def write(path: Path, decoder: Callable) -> None:
    """Write a decoder, whole or not at all."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    eqx.tree_serialise_leaves(unfinished, decoder)
    os.replace(unfinished, path)


def judged(config: Config, run: avb.Run) -> dict[str, dict[str, list[float]]]:
    """The bound of each image of both splits, of each decoder and of the mean of the first ones."""
    model, posterior = run.method.model, run.method.posterior
    models = {"the run's own": model}
    for index, member in enumerate(members_of(config.run_dir, run.method, config.fresh), start=1):
        models[f"fresh {index}"] = eqx.tree_at(lambda model: model.decoder, model, member)
        models[f"mean with {index} fresh"] = averaged(config.run_dir, run.method, index)
    found = {}
    for split in ("train", "validation"):
        data = run.held_out(split)[: config.num_data]
        found[split] = {}
        for title, changed in models.items():
            bound = importance_bound(
                changed, posterior, data, key=jax.random.key(0), samples=config.samples
            )
            found[split][title] = [round(float(value), 4) for value in bound.values]
            print(f"{split}, {title}: {np.mean(bound.values):.2f}", flush=True)
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    rows = []
    for split, bounds in found.items():
        own, *_ = bounds.values()
        for title, values in bounds.items():
            gain = Margin.over(np.subtract(values, own))
            told = [f"{number:.2f}" for number in (np.mean(values), gain.nats, gain.error)]
            rows.append([split, title, *told])
    return markdown_table(["images", "decoder", "log p(x) ≥ (IW)", "gain", "error"], rows)


def main(config: Config) -> None:
    run = avb.load_run(config.run_dir)
    if run.record.resolved.values != "binary":
        raise SystemExit(
            f"{config.run_dir}: expected a run on images that are binarised, got values "
            f"{run.record.resolved.values!r}"
        )
    train_all(config, run)
    found = judged(config, run)
    keep(config.path, found, table(found))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
