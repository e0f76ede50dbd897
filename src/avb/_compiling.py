"""How hard XLA tries, for programs whose users wait for the compiler more than for the program."""

import os

_LEVEL = "xla_backend_optimization_level"

CompilerOptions = dict[str, bool | int]


def optimised(level: int) -> CompilerOptions:
    """Options for ``jax.jit`` that ask for a level of LLVM's optimisation, 0 to 3.

    A level in the ``XLA_FLAGS`` of the process comes first: the user has chosen.
    """
    return {} if _LEVEL in os.environ.get("XLA_FLAGS", "") else {_LEVEL: level}


def for_one_call() -> CompilerOptions:
    """Options for ``jax.jit`` that compile a program soonest, however slow it is.

    XLA's older emitters of CPU code take half the time of those it uses by default.
    """
    return {**optimised(0), "xla_cpu_use_fusion_emitters": False}
