"""Likelihoods chosen by the data, and data that they refuse."""

import re

import numpy as np
import pytest

from avb import ConfigError, DataError, Dataset
from avb.data import binarise_once
from avb.runs import METHODS, RunConfig
from avb.runs._prepare import held_out_values, moments, resolve, training_values


def dataset(train: np.ndarray) -> Dataset:
    return Dataset("toy", train, train, train, {})


BYTES = np.arange(240, dtype=np.uint8).reshape(40, 6)
COUNTS = BYTES.astype(np.int32)
REALS = BYTES.astype(np.float32) - 3


def test_table_of_methods_is_that_of_the_presets():
    from avb import PRESETS

    assert {info.name for info in METHODS} == set(PRESETS)


@pytest.mark.parametrize(
    ("array", "likelihood"),
    [(BYTES, "bernoulli"), (COUNTS, "poisson"), (COUNTS - 1, "normal"), (REALS, "normal")],
)
def test_default_likelihood(array: np.ndarray, likelihood: str):
    assert resolve(RunConfig("toy"), dataset(array)).likelihood == likelihood


@pytest.mark.parametrize("likelihood", ["categorical", "poisson", "negative-binomial"])
def test_pixels_as_integers_keep_their_values(likelihood: str):
    resolved = resolve(RunConfig("toy", likelihood=likelihood), dataset(BYTES))
    for values in (
        training_values(BYTES, resolved.values),
        held_out_values(BYTES, resolved.values, seed=0),
    ):
        assert values.dtype == np.int32
        np.testing.assert_array_equal(values, BYTES)
    assert resolved.input_shift == pytest.approx(BYTES.mean())


def test_pixels_as_reals_are_scaled_alike_in_training_and_evaluation():
    from avb.training._batches import as_real

    resolved = resolve(RunConfig("toy", likelihood="normal"), dataset(BYTES))
    held_out = held_out_values(BYTES, resolved.values, seed=0)
    np.testing.assert_allclose(held_out, as_real(training_values(BYTES, resolved.values)), 1e-6)
    assert resolved.input_shift == pytest.approx(BYTES.mean() / 255)
    assert resolved.input_scale == pytest.approx(BYTES.std() / 255)


def test_floats_from_0_to_1_are_binarised_as_pixels():
    unit = (BYTES / 255).astype(np.float32)
    np.testing.assert_array_equal(training_values(unit, "binary"), BYTES)
    np.testing.assert_array_equal(
        held_out_values(unit, "binary", seed=3), binarise_once(BYTES, seed=3)
    )


def test_moments_of_constant_data_leave_the_scale_at_one():
    assert moments(np.full((5, 2), 7, np.float32)) == (7.0, 1.0)


BAD = [
    (
        REALS, "bernoulli",
        "toy, train split: the bernoulli likelihood expects uint8 pixels or floats from 0 to 1, "
        "got float32 values from -3 to 236; rescale them, or use the normal or poisson likelihood",
    ),
    (
        BYTES % 2, "bernoulli",
        "toy, train split: the bernoulli likelihood expects uint8 pixels from 0 to 255, got only "
        "0 and 1; save binary data as booleans, or multiply them by 255",
    ),
    (
        REALS, "poisson",
        "toy, train split: the poisson likelihood expects integers of at least 0, got float32 "
        "values from -3 to 236; use the normal likelihood, or save counts as integers",
    ),
    (
        COUNTS - 1, "negative-binomial",
        "toy, train split: the negative-binomial likelihood expects integers of at least 0, got "
        "int32 values from -1 to 238; use the normal likelihood, or save counts as integers",
    ),
    (
        COUNTS + 30, "categorical",
        "toy, train split: the categorical likelihood expects integers from 0 to 255, got int32 "
        "values from 30 to 269; set num_classes to 270",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("array", "likelihood", "message"), BAD)
def test_values_that_the_likelihood_cannot_take(array, likelihood, message):
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        resolve(RunConfig("toy", likelihood=likelihood), dataset(array))


GRADIENT_DRAWS = "gradient_draws: expected at least 1 and fewer than importance_samples, "


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "avb-adaptve"},
            "method: expected one of gaussian_vae, iwae, flow_vae, avb, avb_adaptive, sivi, "
            "avb_self, got 'avb-adaptve'; did you mean 'avb_adaptive'?",
        ),
        ({"seed": -1}, "seed: expected 0 to 2^32 - 1, got -1"),
        ({"num_classes": 1}, "num_classes: expected at least 2, got 1"),
        ({"latent_dim": 0}, "latent_dim: expected at least 1, got 0"),
        ({"importance_samples": 0}, "importance_samples: expected at least 1, got 0"),
        (
            {"importance_samples": 5, "method": "sivi"},
            "importance_samples: expected 1 with sivi, got 5; use avb_self, whose critic learns "
            "what the weights need",
        ),
        ({"gradient_draws": 0, "importance_samples": 5}, GRADIENT_DRAWS + "got 0 of 5"),
        ({"gradient_draws": 5, "importance_samples": 5}, GRADIENT_DRAWS + "got 5 of 5"),
        (
            {"gradient_draws": 1},
            "gradient_draws without importance_samples: give both or neither",
        ),
        ({"hmc_transitions": -1}, "hmc_transitions: expected zero or more, got -1"),
        ({"network": "rnn"}, "network: expected one of mlp, conv, got 'rnn'"),
    ],
)
def test_settings_out_of_range(settings: dict, message: str):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        RunConfig("digits", **settings)
