"""The picture of a posterior over a reference."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from avb import ConfigError, DataError, Inference
from avb.inference import _pairs

DRAWS = 300


def model():
    rate = numpyro.sample("rate", dist.Gamma(2.0, 3.0))
    shift = numpyro.sample("shift", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.deterministic("sum", rate + shift.sum())


@pytest.fixture(scope="module")
def posterior():
    return Inference(model, method="gaussian", max_steps=100).run(jax.random.key(0))


@pytest.fixture(scope="module")
def reference(posterior):
    return posterior.sample(jax.random.key(1), (DRAWS,))


def test_picture(posterior, reference, tmp_path):
    path = tmp_path / "pairs.png"
    posterior.draw_pairs(path, reference, draws=DRAWS)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_columns_are_the_scalars_of_the_sites(posterior, reference, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr("avb.report.draw_two_samples", lambda *given: shown.append(given))
    # A reference may have fewer sites.
    some = {name: np.asarray(reference[name]) for name in ("shift", "sum")}
    posterior.draw_pairs(tmp_path / "x.png", some, draws=DRAWS, key=jax.random.key(1))
    posterior.draw_pairs(tmp_path / "x.png", reference, sites=["sum"], draws=DRAWS)
    (ours, theirs, _, names), (alone, *_) = shown
    assert names == ["shift[0]", "shift[1]", "sum"]
    np.testing.assert_array_equal(theirs, np.column_stack([some["shift"], some["sum"]]))
    np.testing.assert_array_equal(ours, theirs)
    assert alone.shape == (DRAWS, 1)


def test_messages(posterior, reference, tmp_path):
    drawn = {name: np.asarray(values) for name, values in reference.items()}
    both = "of 'rate', 'shift', 'sum' in the posterior and 'rate', 'scale' in the reference"
    wrong = {"rate": drawn["rate"], "scale": drawn["rate"]}
    for sites, got in ((["scale", "shift"], "'scale', 'shift'"), ([], "none")):
        given = wrong if sites else {"scale": drawn["rate"]}
        where = both if sites else both.replace("'rate', 'scale' in", "'scale' in")
        with pytest.raises(ConfigError) as error:
            _pairs.draw_site_pairs(tmp_path / "x.png", drawn, given, sites)
        assert str(error.value) == f"sites: expected some that both have, {where}, got {got}"
    with pytest.raises(ConfigError) as error:
        posterior.draw_pairs(tmp_path / "x.png", reference, sites="rate", draws=DRAWS)
    assert str(error.value) == "sites: expected names in a list, got the string 'rate'"
    with pytest.raises(DataError) as error:
        posterior.draw_pairs(tmp_path / "x.png", {"shift": drawn["shift"][:, :1]}, draws=DRAWS)
    assert str(error.value) == (
        f"reference of site 'shift': expected shape (draws, 2), got ({DRAWS}, 1)"
    )
    assert not (tmp_path / "x.png").exists()
