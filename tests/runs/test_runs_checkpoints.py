"""States to named arrays and back."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_runs_helpers import TINY

from avb.data import load_dataset
from avb.runs import METHODS
from avb.runs._checkpoints import digest, from_arrays, named_leaves, to_arrays
from avb.runs._prepare import resolve
from avb.runs._record import RunRecord
from avb.runs._state import initial_state


def _changed(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(array, 1)
    return array + 1


@pytest.mark.parametrize("method", [info.name for info in METHODS])
def test_every_method_comes_back_as_it_was(method: str):
    config = dataclasses.replace(TINY, method=method)
    dataset = load_dataset("digits")
    record = RunRecord.of(config, resolve(config, dataset), dataset)
    like = initial_state(record)
    arrays, static = eqx.partition(like, eqx.is_array)
    state = eqx.combine(jax.tree.map(_changed, arrays), static)
    again = from_arrays(to_arrays(state), like)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    for got, expected in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        if isinstance(expected, jax.Array):
            assert got.dtype == expected.dtype
            assert bool(jnp.all(got == expected))


def test_names_do_not_depend_on_the_order_of_numpyro():
    import numpyro.distributions as dist

    prior = dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1)
    leaves = dict(named_leaves({"prior": prior}))
    np.testing.assert_array_equal(leaves["['prior'].base_dist.loc"], 0)
    np.testing.assert_array_equal(leaves["['prior'].base_dist.scale"], 1)
    ours = [leaf for _, leaf in named_leaves(prior)]
    assert all(a is b for a, b in zip(ours, jax.tree.leaves(prior), strict=True))


def test_digest_tells_of_one_flipped_bit_and_of_another_name():
    values = np.zeros(3, np.float32)
    flipped = values.copy()
    flipped.view(np.uint32)[1] ^= 1
    digests = {bytes(digest(a)) for a in ({"a": values}, {"a": flipped}, {"b": values})}
    assert len(digests) == 3
