"""More decoders for the latent space of a trained run, to be averaged with its own.

    python -m experiments.decoders --run-dir RUN --fresh 3

The run's posterior and prior stay as they are. Draws z of each training image, moved by the run's
own Hamiltonian transitions where it has any, are made once; then decoders of the same shape, from
other random weights, learn p(x|z) from them, each by itself. What each learns by chance about
images that it has not seen differs, and the mean of their logits has less of it. With
``--student`` one decoder, of the same shape again, learns that mean, so that the model is no larger
than the run's. Draws and decoders lie beside the run's folder, in ``RUN_decoders``; what exists is
not done again. It prints, and keeps, log p(x) of training and validation images by importance
weighting for each decoder, for the mean of the first of them, and for the student;
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
from avb.training._batches import binarise
from avb.training._draws import drawn
from avb.training._refine import Chains, refine
from experiments._averaged import averaged, folder_of, member_path, members_of, student_path
from experiments._results import RESULTS, markdown_table, write_json

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
        student: Whether one more decoder, from the run's own, learns the mean of all: a model of
            the size of the run's.
        num_data: Images of each split to judge by.
        samples: Samples of the importance-weighted bound.
    """

    run_dir: Path
    fresh: int = 3
    draws: int = 6
    epochs: int = 24
    student: bool = False
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


def divergence(teacher: Callable, student: Callable, z: Array) -> Array:
    """KL(p_teacher(x|z) ‖ p_student(x|z)) of Bernoulli likelihoods, in nats per image."""
    a, b = over_rows(teacher)(z), over_rows(student)(z)
    of_pixels = jax.nn.sigmoid(a) * (a - b) + jax.nn.softplus(b) - jax.nn.softplus(a)
    return jnp.sum(of_pixels) / len(z)


def descend(decoder: Callable, epochs: int, epoch_of: Callable, loss_of: Callable) -> Callable:
    """The decoder after all epochs: the running mean of its parameters.

    Args:
        decoder: Where to start.
        epochs: How many.
        epoch_of: From an epoch's number to what its steps take, stacked, and what all of them take.
        loss_of: From the decoder and both of these to the loss of a step.
    """
    began = time.perf_counter()
    params, static = eqx.partition(decoder, eqx.is_array)
    steps = epochs * len(epoch_of(0)[0])
    optimiser = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps, FINAL_SHARE))

    def step(carry, item, shared):
        params, state, mean = carry
        value, gradient = jax.value_and_grad(
            lambda params: loss_of(eqx.combine(params, static), item, shared)
        )(params)
        updates, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda m, p: DECAY * m + (1 - DECAY) * p, mean, params)
        return (params, state, mean), value

    @eqx.filter_jit
    def epoch(carry, items, shared):
        return lax.scan(lambda carry, item: step(carry, item, shared), carry, items)

    carry = (params, optimiser.init(params), params)
    for number in range(epochs):
        carry, losses = epoch(carry, *epoch_of(number))
        seconds = time.perf_counter() - began
        told = f"loss {float(jnp.mean(losses)):.3f}, {seconds:.0f} s"
        print(f"epoch {number + 1} of {epochs}: {told}", flush=True)
    return eqx.combine(carry[2], static)


def train_member(
    config: Config, model: LatentVariableModel, decoder: Callable, paths: list[Path], key: Key
) -> Callable:
    """A decoder that learns p(x|z) from the draws, one draw of each image an epoch."""
    files = [np.load(path) for path in paths]
    count = len(files[0]["z"])

    def epoch_of(number):
        kept = files[number % len(files)]
        x = np.unpackbits(kept["bits"], axis=1, count=int(np.prod(model.data_shape)))
        order = jax.random.permutation(jax.random.fold_in(key, number), count)
        x = jnp.asarray(x.reshape(count, *model.data_shape))
        return order.reshape(-1, BATCH), (x, jnp.asarray(kept["z"]))

    def loss_of(decoder, index, draws):
        x, z = draws
        return loss(decoder, model, x[index].astype(jnp.float32), z[index])

    return descend(decoder, config.epochs, epoch_of, loss_of)


def train_student(
    config: Config, model: LatentVariableModel, teacher: Callable, paths: list[Path], key: Key
) -> Callable:
    """One decoder that learns the mean of several, which is known at every z.

    So no images are needed, and there is no end of draws: half of a batch is of the prior, half
    from the posterior draws. The loss is KL(p_teacher(x|z) ‖ p_student(x|z)).
    """
    pool = jnp.concatenate([jnp.asarray(np.load(path)["z"]) for path in paths])
    steps = len(pool) // len(paths) // BATCH

    def epoch_of(number):
        return jax.random.split(jax.random.fold_in(key, number), steps), (pool, teacher)

    def loss_of(decoder, key, shared):
        pool, teacher = shared
        key_pool, key_prior = jax.random.split(key)
        chosen = pool[jax.random.randint(key_pool, (BATCH // 2,), 0, len(pool))]
        keys = jax.random.split(key_prior, BATCH // 2)
        z = jnp.concatenate([chosen, jax.vmap(model.fixed_prior.sample)(keys)])
        return divergence(teacher, decoder, z)

    return descend(model.decoder, config.epochs, epoch_of, loss_of)


def train_all(config: Config, run: avb.Run) -> None:
    """What does not exist yet: the draws, decoders that learn from them, and their student."""
    method, folder = run.method, folder_of(config.run_dir)
    folder.mkdir(exist_ok=True)
    key_draws, key_members = jax.random.split(jax.random.key(1))
    paths = [folder / f"draws-{index}.npz" for index in range(config.draws)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    images = run.dataset().train if missing else None
    for index in missing:
        write_draws(paths[index], method, images, jax.random.fold_in(key_draws, index))
    for index in range(1, config.fresh + 1):
        path = member_path(config.run_dir, index)
        if not path.exists():
            print(path.name, flush=True)
            key_init, key_order = jax.random.split(jax.random.fold_in(key_members, index))
            decoder = run.record.architecture.build_model(key=key_init).decoder
            write(path, train_member(config, method.model, decoder, paths, key_order))
    path = student_path(config.run_dir, config.fresh)
    if config.student and not path.exists():
        print(path.name, flush=True)
        teacher = averaged(config.run_dir, method, config.fresh).decoder
        key = jax.random.fold_in(key_members, 0)
        write(path, train_student(config, method.model, teacher, paths, key))


def write(path: Path, decoder: Callable) -> None:
    """Write a decoder, whole or not at all."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    eqx.tree_serialise_leaves(unfinished, decoder)
    os.replace(unfinished, path)


def judged(config: Config, run: avb.Run) -> dict[str, dict[str, list[float]]]:
    """The bound of each image of both splits, of each decoder and of the mean of the first ones."""
    model, posterior = run.method.model, run.method.posterior
    models = {"the run's own": model}
    members = members_of(config.run_dir, run.method, config.fresh)
    for index, member in enumerate(members, start=1):
        models[f"fresh {index}"] = eqx.tree_at(lambda model: model.decoder, model, member)
        models[f"mean with {index} fresh"] = averaged(config.run_dir, run.method, index)
    if config.student:
        models["student of the mean"] = averaged(
            config.run_dir, run.method, config.fresh, student=True
        )
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
            gain = np.subtract(values, own)
            error = np.std(gain, ddof=1) / len(gain) ** 0.5
            rows.append([split, title, f"{np.mean(values):.2f}", f"{np.mean(gain):+.2f}"])
            rows[-1].append(f"{error:.2f}")
    return markdown_table(["images", "decoder", "log p(x) ≥ (IW)", "gain", "error"], rows)


def main(config: Config) -> None:
    run = avb.load_run(config.run_dir)
    train_all(config, run)
    found = judged(config, run)
    write_json(config.path, found)
    text = table(found)
    config.path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
