"""Choosing among draws by their importance weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb.inference._resample import choose

DRAWS = 4000


@pytest.fixture(scope="module")
def z():
    return jnp.arange(DRAWS, dtype=jnp.float32)[:, None]


def test_equal_weights_repeat_no_draw(z, key):
    chosen = np.asarray(choose(z, jnp.zeros(DRAWS), key, 1000)).ravel()
    assert len(np.unique(chosen)) == 1000
    # In no order, so that some of the first are as good as any.
    assert abs(np.corrcoef(chosen, np.arange(1000))[0, 1]) < 0.15


def test_each_occurs_as_often_as_its_weight_says(z, key):
    # The tail is smoothed, in the same order: only weights below it are as they were.
    weights = np.random.default_rng(0).gamma(2.0, 1.0, DRAWS)
    chosen = np.asarray(choose(z, jnp.log(weights), key, DRAWS)).ravel().astype(int)
    counts = np.bincount(chosen, minlength=DRAWS)
    expected = DRAWS * weights / weights.sum()
    bulk = weights < np.quantile(weights, 0.9)
    assert np.max(np.abs(counts - expected)[bulk]) < 1.05


def test_every_draw_has_its_chance(z):
    seen = [choose(z[:5], jnp.zeros(5), jax.random.key(i), 1)[0, 0] for i in range(60)]
    assert set(np.asarray(seen)) == set(range(5))


def test_a_draw_of_no_weight_is_never_chosen(z, key):
    log_weights = jnp.where(jnp.arange(DRAWS) % 2 == 0, 0.0, -jnp.inf)
    chosen = np.asarray(choose(z, log_weights, key, 1000)).ravel().astype(int)
    assert np.all(chosen % 2 == 0)
