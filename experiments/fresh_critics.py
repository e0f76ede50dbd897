"""What fresh critics find of a run's posterior, as they are and as they were.

    python -m experiments.fresh_critics --run-dir RUN

As they were, their blocks saw z alone, and features of the datum were not divided by the root of
their number (``experiments.shell`` tells why they are). One critic each, on validation data: how
often it tells a draw of q from one of its Gaussian, and its upper bound of the ELBO.
"""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import avb
from avb._types import Key
from avb.evaluation._fresh import _held_out, fix_density
from avb.evaluation._fresh_training import fresh_critic, prepare, train
from experiments._bounds import Margin
from experiments._results import RESULTS, keep, markdown_table
from experiments.shell import BATCH, undivided

DRAWS = 64


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run.

    Attributes:
        run_dir: Run folder.
        num_data: Validation data.
        steps: Of a critic.
    """

    run_dir: Path
    num_data: int = 500
    steps: int = 2000

    @property
    def path(self) -> Path:
        folder = RESULTS / self.run_dir.absolute().parent.name
        return folder / f"fresh_critics-{self.run_dir.name}.json"


def found_by(run: avb.Run, data: np.ndarray, *, today: bool, steps: int, key: Key) -> dict:
    """The bound of each datum, and the accuracy."""
    method, index = run.method, jnp.arange(len(data))
    key_moments, key_init, key_train, key_fix, key_test = jax.random.split(key, 5)
    arena = prepare(method.posterior, data, key=key_moments, batch_size=BATCH)
    critic = fresh_critic(arena, key_init, quadratic=today)
    if not today:
        arena, critic = undivided(arena, critic)
    critic = train(critic, arena, key_train, steps)
    density = fix_density(arena, (critic,), key=key_fix, batch_size=BATCH)
    parts = (method.model, density, DRAWS)
    held_out = eqx.filter_jit(lambda *batch: _held_out(parts, *batch))
    keys = jax.random.split(key_test, len(data))
    x = jnp.asarray(data, jnp.float32)
    batches = [slice(start, start + BATCH) for start in range(0, len(data), BATCH)]
    tested = [held_out(x[batch], index[batch], keys[batch]) for batch in batches]
    bound = np.concatenate([one.bound[0] + one.excess[0] for one in tested])
    accuracy = np.concatenate([one.accuracies for one in tested])
    return {"bound": bound.round(4).tolist(), "accuracy": round(float(np.mean(accuracy)), 4)}


def main(config: Config) -> None:
    run = avb.load_run(config.run_dir)
    data = run.held_out("validation")[: config.num_data]
    key = jax.random.key(2)
    found = {
        name: found_by(run, data, today=today, steps=config.steps, key=key)
        for name, today in (("as they were", False), ("as they are", True))
    }
    gain = Margin.over(np.subtract(*(one["bound"] for one in found.values())))
    rows = [
        [name, f"{one['accuracy']:.3f}", f"{np.mean(one['bound']):.2f}"]
        for name, one in found.items()
    ]
    own = float(avb.critic_elbo(run.method, data, key=key).mean)
    told = f"The bound falls by {gain.nats:.3f} ± {gain.error:.3f}; critic of training {own:.2f}."
    text = markdown_table(["fresh critics", "accuracy", "ELBO ≤"], rows)
    keep(config.path, found, f"{text}\n{told}\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
