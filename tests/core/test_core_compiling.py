"""Options of the compiler."""

import equinox as eqx
import jax.numpy as jnp

from avb._compiling import for_one_call, optimised


def test_a_level_of_the_process_comes_first(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert optimised(2) == {"xla_backend_optimization_level": 2}
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=1")
    assert optimised(2) == {}


def test_a_program_for_one_call_gives_the_same(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    options = for_one_call()
    doubled = eqx.filter_jit(lambda x: 2.0 * x, compiler_options=options)  # pyright: ignore
    assert doubled(jnp.ones(3)).tolist() == [2.0, 2.0, 2.0]
