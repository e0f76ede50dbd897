"""What an evaluation costs: 1,000 MNIST-sized images, fully connected networks, d = 8.

    python -m benchmarks.evaluation_cost

Times the whole evaluation of a semi-implicit posterior with compilation, its peak memory,
and how the cost of each part grows when its size doubles (2.0 is linear). The images are
simulated and the networks untrained: neither changes the work.
"""

import resource
import time
from collections.abc import Callable

import jax
import numpy as np

import avb
from avb.evaluation import EvaluationConfig
from benchmarks._timing import interleaved, median_ratio, write_table

IMAGES = 1000
LATENT_DIM = 8
ROUNDS = 3
CONFIG = EvaluationConfig(
    bracket_width=1e-9,
    max_components=1000,
    importance_samples=2000,
    annealed_data=100,
    temperatures=500,
    chains=4,
)


def method_and_images() -> tuple[avb.Method, np.ndarray]:
    architecture = avb.Architecture((28, 28), LATENT_DIM)
    method = avb.sivi(architecture, key=jax.random.key(0))
    images = np.random.default_rng(0).random((IMAGES, 28, 28)) < 0.13
    return method, images.astype(np.float32)


def doublings(method: avb.Method, images: np.ndarray) -> dict[str, list[Callable[[], None]]]:
    """Each part at a size and at twice that size."""
    model, posterior, key = method.model, method.posterior, jax.random.key(1)

    def bracket(data: int, components: int) -> Callable[[], None]:
        return lambda: avb.elbo_bracket(
            model, posterior, images[:data], key=key, components=components
        )

    def importance(data: int, samples: int) -> Callable[[], None]:
        return lambda: avb.importance_bound(
            model, posterior, images[:data], key=key, samples=samples
        )

    def annealed(data: int, temperatures: int) -> Callable[[], None]:
        return lambda: avb.annealed_bound(
            model, posterior, images[:data], key=key, temperatures=temperatures, chains=4
        )

    return {
        "bracket, images": [bracket(256, 1024), bracket(512, 1024)],
        "bracket, K": [bracket(128, 2048), bracket(128, 4096)],
        "importance weighting, images": [importance(128, 500), importance(256, 500)],
        "importance weighting, samples": [importance(128, 500), importance(128, 1000)],
        "annealing, images": [annealed(32, 100), annealed(64, 100)],
        "annealing, temperatures": [annealed(32, 100), annealed(32, 200)],
    }


def main() -> None:
    method, images = method_and_images()
    began = time.perf_counter()
    parts: dict[str, tuple[float, float]] = {}

    def note(name: str, done: int, total: int) -> None:
        now = time.perf_counter()
        parts[name] = (parts.get(name, (now, now))[0], now)

    avb.evaluate(method, images, key=jax.random.key(2), config=CONFIG, progress=note)
    seconds = time.perf_counter() - began
    gibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = [
        "| whole evaluation of 1,000 images, compilation included | |",
        "| --- | ---: |",
        f"| seconds | {seconds:.0f} |",
        f"| peak memory, GiB | {gibibytes:.2f} |",
        "",
        "| part | seconds | time at twice the size / time |",
        "| --- | ---: | ---: |",
    ]
    for name, (single, double) in doublings(method, images).items():
        times = interleaved({"single": single, "double": double}, ROUNDS, warmups=1)
        ratio = median_ratio(times["double"], times["single"])
        lines.append(f"| {name} | {np.median(times['single']):.2f} | {ratio:.2f} |")
    write_table("evaluation_cost", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
