"""A training step against the matrix products of its own compiled program alone.

The products are read from the optimised program, so duplicates that the compiler removed
do not count; their operands are random matrices of the same shapes. A bare step, the gradient
of the same loss on data that stay and plain gradient descent, says how much of the rest no
arrangement of the step could spare: it has no Adam, clipping, averages, guard, sums or
binarisation. MLP 300-300, d = 8, batch 128, 784 binarised pixels.

    python -m benchmarks.step_speed
    python -m benchmarks.step_speed sivi avb_adaptive --one-core
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax
from tyro.conf import Positional

import avb
from avb._compiling import optimised
from avb._types import Key
from avb.training import DeviceData, State, init, run, step
from avb.training._losses import total_loss
from avb.training._state import copied
from avb.training._step import Inputs
from benchmarks._timing import interleaved, median_ratio, write_table

STEPS = 100
ROUNDS = 15
DATA = 20_000
RATE = 1e-4
CONFIG = avb.FitConfig(epochs=1000)


def weighted(name: str, gradient_draws: int | None = None) -> Callable[..., avb.Method]:
    """The preset on the importance-weighted bound of 5 draws."""

    def preset(architecture: avb.Architecture, *, key: Key) -> avb.Method:
        method = avb.PRESETS[name](architecture, key=key)
        return dataclasses.replace(method, importance_samples=5, gradient_draws=gradient_draws)

    return preset


METHODS = avb.PRESETS | {
    f"{name}_iw5{suffix}": weighted(name, draws)
    for name in ("flow_vae", "avb_adaptive")
    for suffix, draws in (("", None), ("_back1", 1))
}

_DEFINITION = re.compile(r"%?([\w.\-]+) = (?:f32|bf16|f16)\[([\d,]*)\]")
_DOT = re.compile(
    r" dot\(%?([\w.\-]+), %?([\w.\-]+)\)"
    r"(?:, lhs_batch_dims=\{([\d,]*)\})?, lhs_contracting_dims=\{([\d,]*)\}"
    r"(?:, rhs_batch_dims=\{([\d,]*)\})?, rhs_contracting_dims=\{([\d,]*)\}"
)


def _ints(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",")) if text else ()


def products(program: str) -> list[tuple]:
    """(lhs shape, rhs shape, dimension numbers) of every product in an optimised program."""
    # Names repeat across computations; a product's operands are in its own.
    found, shapes = [], {}
    for line in program.splitlines():
        if line.endswith("{"):
            shapes = {}
            for name, shape in re.findall(r"%?([\w.\-]+): f32\[([\d,]*)\]", line):
                shapes[name] = _ints(shape)
        definition = _DEFINITION.search(line)
        if definition:
            shapes[definition.group(1)] = _ints(definition.group(2))
        dot = _DOT.search(line)
        if dot:
            lhs, rhs, lhs_batch, lhs_contract, rhs_batch, rhs_contract = dot.groups()
            numbers = (
                (_ints(lhs_contract), _ints(rhs_contract)),
                (_ints(lhs_batch), _ints(rhs_batch)),
            )
            found.append((shapes[lhs], shapes[rhs], numbers))
    return found


def flops(lhs: tuple[int, ...], rhs: tuple[int, ...], numbers: tuple) -> int:
    """Additions and multiplications of one product."""
    (_, rhs_contract), (_, rhs_batch) = numbers
    free = math.prod(
        size for axis, size in enumerate(rhs) if axis not in (*rhs_contract, *rhs_batch)
    )
    return 2 * math.prod(lhs) * free


def products_alone(found: list[tuple]) -> Callable[[], None]:
    """A call that computes the products ``STEPS`` times and nothing else."""
    rng = np.random.default_rng(0)

    def operand(shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    operands = [(operand(lhs), operand(rhs)) for lhs, rhs, _ in found]
    numbers = [n for _, _, n in found]

    @jax.jit
    def once(operands):
        return [lax.dot_general(a, b, n) for (a, b), n in zip(operands, numbers, strict=True)]

    def call() -> None:
        out = None
        for _ in range(STEPS):
            out = once(operands)
        jax.block_until_ready(out)

    return call


def bare_steps(state: State, data: DeviceData) -> Callable[[], None]:
    """A call that takes ``STEPS`` steps of plain gradient descent on one batch."""
    x = data.batch(jnp.arange(data.batch_size), jnp.zeros((), jnp.int32), jax.random.key(2))
    arrays, static = eqx.partition(copied(state.method), eqx.is_inexact_array)

    def descend(number, arrays):
        key = jax.random.fold_in(jax.random.key(3), number)

        def loss(arrays):
            return total_loss(eqx.combine(arrays, static), x, key, jnp.ones(()))[0]

        return jax.tree.map(
            lambda value, slope: value - RATE * slope, arrays, jax.grad(loss)(arrays)
        )

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=optimised(2))
    def many(arrays):
        return lax.fori_loop(0, STEPS, descend, arrays)

    holder = [arrays]

    def call() -> None:
        holder[0] = jax.block_until_ready(many(holder[0]))

    return call


def compiled_text(state: State, data: DeviceData) -> str:
    arrays, static = eqx.partition(state, eqx.is_array)

    def one_step(arrays):
        return eqx.filter(step(eqx.combine(arrays, static), data, CONFIG), eqx.is_array)

    return jax.jit(one_step).lower(arrays).compile().as_text()


def steps_of(state: State, data: DeviceData) -> Callable[[], None]:
    """A call that takes ``STEPS`` training steps."""
    holder = [state]

    def call() -> None:
        state = holder[0]
        until = state.step + STEPS
        holder[0] = run(Inputs(data, CONFIG, until), state)
        jax.block_until_ready(holder[0].step)

    return call


class Options(NamedTuple):
    """What to time.

    Attributes:
        methods: Presets, beside the Gaussian VAE; all if none is named. `_iw5`: by the
            importance-weighted bound of 5 draws, `_back1`: one of which goes back.
        one_core: On one core alone (Linux), with its table in a file of its own.
    """

    methods: Positional[tuple[str, ...]] = ()
    one_core: bool = False


def stay_on_one_core() -> None:
    """Keep this process on one core; before the first array, when XLA starts its threads."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"


def named(methods: tuple[str, ...]) -> list[str]:
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise SystemExit(f"methods: expected some of {', '.join(METHODS)}, got {unknown[0]}")
    return list(dict.fromkeys(("gaussian_vae", *(methods or METHODS))))


def main(options: Options) -> None:
    names = named(options.methods)
    if options.one_core:
        stay_on_one_core()
    rng = np.random.default_rng(0)
    raw = (rng.random((DATA, 28, 28)) < 0.2).astype(np.uint8) * 255
    data = DeviceData(raw, "binarise", CONFIG.batch_size)
    architecture = avb.Architecture((28, 28), input_shift=0.13, input_scale=0.31)
    candidates, work = {}, {}
    for name in names:
        method = METHODS[name](architecture, key=jax.random.key(0))
        state = init(method, data, CONFIG, key=jax.random.key(1))
        found = products(compiled_text(state, data))
        work[name] = sum(flops(*product) for product in found)
        candidates[name] = steps_of(state, data)
        candidates[f"{name} products"] = products_alone(found)
        candidates[f"{name} bare"] = bare_steps(state, data)
    times = interleaved(candidates, ROUNDS)

    lines = [
        "| method | MFLOP a step | ms a step | step rate / rate of its products | bare step's "
        "| × Gaussian VAE |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in names:
        share = median_ratio(times[f"{name} products"], times[name])
        bare_share = median_ratio(times[f"{name} products"], times[f"{name} bare"])
        slower = median_ratio(times[name], times["gaussian_vae"])
        milliseconds = 1e3 * float(np.median(times[name])) / STEPS
        megaflops = work[name] / 1e6
        lines.append(
            f"| `{name}` | {megaflops:.0f} | {milliseconds:.2f} | {share:.2f} | {bare_share:.2f} "
            f"| {slower:.2f} |"
        )
    write_table(
        "step_speed_one_core" if options.one_core else "step_speed", "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
