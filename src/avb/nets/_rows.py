"""Networks of many examples."""

from collections.abc import Callable

import jax


def over_rows(network: Callable) -> Callable:
    """A network of every row of its input, by its own ``of_rows`` where it has one.

    Networks see one example. One whose products have axes besides that of the examples may be
    faster on many at once than mapped over them, and says so by a method ``of_rows``.
    """
    of_rows = getattr(network, "of_rows", None)
    return jax.vmap(network) if of_rows is None else of_rows
