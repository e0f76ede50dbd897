"""How near to p(z|x) Hamiltonian transitions bring a trained posterior's draws.

    python -m experiments.refined_draws --run-dir RUN

It prints, and writes beside the results, the mean of log p(x|z) and log p(z) over the draws after
more and more transitions from the posterior's own, on validation data that are binarised once:
where the numbers no longer change, the draws are those of p(z|x).
"""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import tyro

import avb
from avb import Method
from avb.training._refine import Chains, refine
from experiments._results import RESULTS, markdown_table

HEADER = ["transitions", "log p(x\\|z)", "log p(z)", "log p(x, z)", "acceptance"]
CALLS_TO_ADAPT = 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment.

    Attributes:
        run_dir: A run folder.
        num_data: Validation data.
        transitions: How many transitions to look after.
        seed: Of the draws.
    """

    run_dir: Path
    num_data: int = 256
    transitions: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 64, 256)
    seed: int = 0


@eqx.filter_jit
def moved(method: Method, x: jax.Array, key: jax.Array, chains: Chains):
    """Means of both terms over moved draws, and the chains."""
    z, chains = refine(method, x, key, chains)
    log_likelihood = jnp.mean(method.model.log_likelihoods(x, z))
    return (log_likelihood, jnp.mean(jax.vmap(method.model.log_prior)(z))), chains


def main(config: Config) -> None:
    run = avb.load_run(config.run_dir)
    x = jnp.asarray(run.held_out("validation")[: config.num_data], jnp.float32)
    key, chains = jax.random.key(config.seed), Chains.first()
    adapting = dataclasses.replace(run.method, hmc_transitions=4)
    for key_call in jax.random.split(key, CALLS_TO_ADAPT):
        _, chains = moved(adapting, x, key_call, chains)
    rows = []
    for count in config.transitions:
        method = dataclasses.replace(run.method, hmc_transitions=count)
        (log_likelihood, log_prior), after = moved(method, x, key, chains)
        numbers = (log_likelihood, log_prior, log_likelihood + log_prior)
        acceptance = f"{after.acceptance:.2f}" if count else "–"
        rows.append([str(count), *(f"{float(number):.2f}" for number in numbers), acceptance])
    text = f"{x.shape[0]} validation data, nats.\n\n{markdown_table(HEADER, rows)}"
    name = f"{config.run_dir.absolute().parent.name}-{config.run_dir.absolute().name}.md"
    path = RESULTS / "refined_draws" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
