"""How much a critic's settings matter: one grid on three problems, side by side.

    python -m experiments.sensitivity                          # all problems, seed 0
    python -m experiments.sensitivity --problems digits
    python -m experiments.sensitivity --problems digits --seeds 0 1 2    # adds seeds 1 and 2

Pairs of settings, all else as in `avb_adaptive`: critic rate × contrast, objective × contrast, rate
× critic steps and rate × critic width, 42 cells a problem. All rates, objectives and seeds of one
structure are one compiled program, six a problem, of 5 or 9 runs a seed, by the library's own
`step`. The problems are four points (`experiments.four_point`), the banana of
`experiments.multimodal` under a purely implicit posterior, and the digits with `avb_adaptive` at
the library's defaults. Budgets are the same for all cells of a problem.

No cell is judged by its own critic: the toy by the exact mean log p(x); the banana by KL(q‖p),
counted over cells in coordinates in which p is N(0, I); the digits by the importance-weighted
bound on validation images. A run has *failed*, by a rule set before the grid was run, if too many
steps in a row were not finite (where `fit` raises a `TrainingError`), if its quality is not a
number, or if that lies more than 1 nat (toy 0.3) below the best cell's mean over seeds.
"""

import dataclasses
import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from avb.training import Rates
from experiments._grid import OBJECTIVES, RATES, Cell, Structure, programs
from experiments._grid_problems import PROBLEMS, Problem
from experiments._grid_report import Summary, picture, summary_table, worst_table
from experiments._results import RESULTS, write_json
from experiments._seeds import one_of, start_runs, train_runs


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        problems: Names; all by default.
        seeds: Seeds of each cell.
        out: Where results are written, ``.json``, ``.md`` and ``.png``.
    """

    problems: tuple[str, ...] = tuple(PROBLEMS)
    seeds: tuple[int, ...] = (0,)
    out: Path = RESULTS / "sensitivity"


def run_program(
    problem: Problem, structure: Structure, cells: list[Cell], seeds: tuple[int, ...]
) -> dict:
    """All cells and seeds of one structure, and the processor time they took."""
    config = dataclasses.replace(problem.fit, critic_steps=structure.steps)
    data = problem.device_data()
    runs = [(cell, seed) for cell in cells for seed in seeds]
    names = list(OBJECTIVES)
    keys = jnp.stack([jax.random.key(seed) for _, seed in runs])
    chosen = jnp.asarray([names.index(cell.objective) for cell, _ in runs])
    scale = jnp.asarray([cell.rate for cell, _ in runs])
    rates = Rates(jnp.full(len(runs), config.learning_rate), scale * config.critic_learning_rate)
    began = time.process_time()
    states = start_runs(problem.maker(structure), keys, data, config, chosen)
    states, gave_up = train_runs(states, data, config, rates=rates)
    trained = time.process_time()
    averaged = eqx.filter_vmap(lambda state: state.averaged)(states)
    skipped = np.asarray(states.faults.by_part).sum(axis=1)
    results = [
        {
            "objective": cell.objective,
            "rate": cell.rate,
            "seed": seed,
            "quality": problem.quality(one_of(averaged, index)),
            "gave_up": bool(gave_up[index]),
            "skipped": int(skipped[index]),
        }
        for index, (cell, seed) in enumerate(runs)
    ]
    ended = time.process_time()
    return {
        "structure": structure._asdict(),
        "training_seconds": trained - began,
        "measuring_seconds": ended - trained,
        "runs": results,
    }


def merged(before: dict | None, added: dict) -> dict:
    """One program's results of further seeds beside those at hand."""
    if before is None:
        return added
    joined = {name: before[name] + added[name] for name in added if name != "structure"}
    return {"structure": added["structure"], **joined}


def seeds_of(programs: list[dict]) -> list[int]:
    """The seeds that all of the programs have results of."""
    done = [{run["seed"] for run in program["runs"]} for program in programs]
    return sorted(set.intersection(*done)) if done else []


def summarise(problem: Problem, found: dict[str, dict]) -> Summary:
    """Cells from the programs' results, as they stand in the file."""
    runs: dict[Cell, list[dict]] = {}
    for program in found.values():
        structure = Structure(**program["structure"])
        for run in program["runs"]:
            runs.setdefault(Cell(structure, run["objective"], run["rate"]), []).append(run)
    return Summary.of(problem, runs)


def report(config: Config, results: dict[str, dict]) -> str:
    """The tables; writes the picture."""
    summaries = {
        name: summarise(PROBLEMS[name], results[name]) for name in PROBLEMS if name in results
    }
    picture(summaries, config.out.with_suffix(".png"))
    seeds = "; ".join(
        f"{PROBLEMS[name].title} {', '.join(map(str, seeds_of(list(results[name].values()))))}"
        for name in summaries
    )
    seconds = sum(p["training_seconds"] for found in results.values() for p in found.values())
    text = (
        "# Sensitivity to the critic's settings\n\n`python -m experiments.sensitivity`; "
        f"nats per datum; seeds: {seeds}; critic rates times "
        f"{', '.join(f'{rate:g}' for rate in RATES)}; {seconds / 60:.0f} minutes of one "
        "processor for all training, compiling included.\n\n"
        + summary_table(summaries)
        + "\nEach setting on its own, all else at the default: nats below the best cell, and "
        "runs that failed.\n\n" + worst_table(summaries)
    )
    config.out.with_suffix(".md").write_text(text)
    return text


def main(config: Config) -> None:
    """Run what has no result yet, then write tables and picture."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in config.problems:
        problem = PROBLEMS[name]
        found = results.setdefault(name, {})
        for structure, cells in programs(problem.default).items():
            before = found.get(structure.name)
            done = seeds_of([before] if before else [])
            missing = tuple(seed for seed in config.seeds if seed not in done)
            if not missing:
                continue
            added = run_program(problem, structure, cells, missing)
            found[structure.name] = merged(before, added)
            write_json(path, results)
            print(name, structure.name, f"{added['training_seconds']:.0f} s", flush=True)
    print(report(config, results))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
