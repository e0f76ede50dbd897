"""Programs with several batched factorisations end, however few cores run them.

jaxlib 0.10.0 to 0.10.2 wait for the parts of a batched LAPACK call on the threads that are to
work on those parts, so a program with as many such calls at a time as there are cores never
ends. Contrasts, proposals and users' models are full of them. Raise the bound on JAX in
``pyproject.toml`` only to a version that passes this.
"""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax
import jax.numpy as jnp

def total(solve, arrays):
    return sum(jnp.sum(solve(a)) for a in arrays)

def solve(a):
    tril = jnp.tril(a) + 5.0 * jnp.eye(8)
    return jax.scipy.linalg.solve_triangular(tril, a, lower=True)

def factor(a):
    return jnp.linalg.cholesky(a @ a.T + jnp.eye(8))

arrays = list(jax.random.normal(jax.random.key(0), (8, 4096, 8, 8)))
for one in (solve, factor):
    program = jax.jit(lambda arrays: total(jax.vmap(one), arrays))
    for _ in range(50):
        program(arrays).block_until_ready()
print("ended")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_batched_linear_algebra_ends_on_two_cores():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout == "ended\n"
