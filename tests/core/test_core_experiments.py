"""Every experiment can be started: a name that moves must not break a rarely run command."""

import dataclasses
import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from experiments import (
    _distorted,
    _sharpness,
    copies,
    margins as margins_command,
    mnist_presets,
    paired_bounds,
)
from experiments._bounds import SETTINGS, Margin, levels, margins, mixture, regressed
from scipy.special import logsumexp

import avb
from avb.data import Dataset, load_dataset
from avb.models import Bernoulli, LatentVariableModel

FOLDER = Path(__file__).parents[2] / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_has_a_main(name):
    assert callable(importlib.import_module(f"experiments.{name}").main)


def test_annealing_of_some_images_corrects_the_margin_on_all():
    rng = np.random.default_rng(0)
    evidence = {name: rng.normal(size=400) for name in ("ahead", "behind")}
    slack = {"ahead": rng.exponential(0.1, size=400), "behind": rng.exponential(0.3, size=400)}
    ahead, behind = (
        {
            "importance": list(evidence[name] - slack[name]),
            "annealed": list(evidence[name][:200]),
        }
        for name in ("ahead", "behind")
    )
    found = margins(ahead, behind)
    truth = Margin.over(evidence["ahead"] - evidence["behind"])
    both = found["both, first 400"]
    assert found["annealing, first 200"].nats == pytest.approx(
        np.mean((evidence["ahead"] - evidence["behind"])[:200])
    )
    # The correction is known from half the images, far better than the margin itself.
    assert both.nats == pytest.approx(truth.nats, abs=0.1)
    assert both.error == pytest.approx(truth.error, rel=0.2)
    assert both.error < found["annealing, first 200"].error


def test_regression_allows_for_annealed_images_that_are_easy_ones():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        weighted = np.sort(rng.normal(-80.0, 20.0, size=2000))[::-1]
        added = 0.5 - 0.04 * (weighted + 80.0) + rng.normal(0.0, 0.5, size=2000)
        # Every other one of the better half.
        order = np.r_[0:1000:2, 1:1000:2, 1000:2000]
        weighted, evidence = weighted[order], (weighted + added)[order]
        run = {"importance": list(weighted), "annealed": list(evidence[:500])}
        estimate = regressed(run, 500)
        found.append((estimate.nats - evidence.mean()) / estimate.error)
        assert estimate.error < 0.1
        assert levels(run)[0] < evidence.mean() - 0.5
    assert abs(np.mean(found)) < 0.6
    assert np.std(found) == pytest.approx(1.0, abs=0.4)


def bounds_file(folder: Path, name: str, added: float, annealed: int) -> Path:
    known = np.random.default_rng(0).normal(-80.0, 20.0, size=300)
    path = folder / name
    path.write_text(
        json.dumps({"importance": list(known), "annealed": list(known[:annealed] + added)})
    )
    return path


def test_stages_of_a_run_are_compared_on_the_images_that_both_have(tmp_path, capsys):
    before = bounds_file(tmp_path, "margins-avb_adaptive-0.json", 0.5, 200)
    after = bounds_file(tmp_path, "margins-avb_adaptive_flow_started-0.json", 0.75, 150)
    paired_bounds.main(paired_bounds.Config(before, (after,)))
    printed = capsys.readouterr().out
    assert "| annealing, first 150 | +0.25 | 0.00 |" in printed
    assert "| importance weighting, first 300 | +0.00 | 0.00 |" in printed
    assert "| both, first 300 | +0.25 | 0.00 |" in printed


def test_two_runs_are_one_model_that_draws_from_either(tmp_path, capsys):
    # As likely as the better of them, less log 2, where they are far apart.
    before = bounds_file(tmp_path, "margins-avb_adaptive-0.json", 0.0, 200)
    after = bounds_file(tmp_path, "margins-avb_adaptive-1.json", 40.0, 150)
    mixed = mixture(*(json.loads(path.read_text()) for path in (before, after)))
    assert len(mixed["annealed"]) == 150
    alone = json.loads(after.read_text())
    gain = np.subtract(mixed["annealed"], alone["annealed"])
    np.testing.assert_allclose(gain, -np.log(2.0), atol=1e-6)
    np.testing.assert_allclose(mixed["importance"], alone["importance"], atol=1e-6)
    paired_bounds.main(paired_bounds.Config(before, (after,)))
    assert f"| annealing, first 150 | {np.mean(mixed['annealed']):.2f} |" in capsys.readouterr().out


def test_several_runs_are_each_compared_with_the_first_and_together_one_model(tmp_path, capsys):
    names = [f"margins-decoder{index}-avb_adaptive-1.json" for index in range(3)]
    before, *others = (
        bounds_file(tmp_path, name, added, 150)
        for name, added in zip(names, (0.0, 0.5, -0.25), strict=True)
    )
    paired_bounds.main(paired_bounds.Config(before, tuple(others)))
    printed = capsys.readouterr().out
    assert "| annealing, first 150 | +0.50 | 0.00 |" in printed
    assert "| annealing, first 150 | -0.25 | 0.00 |" in printed
    _, mixed = printed.split("| log p(x) ≥, one model of 3 in equal shares | nats per datum |")
    level = np.mean(json.loads(before.read_text())["annealed"])
    level += np.log(np.mean(np.exp([0.0, 0.5, -0.25])))
    assert f"| annealing, first 150 | {level:.2f} |" in mixed


def test_a_run_is_not_compared_with_none(tmp_path):
    message = "after: expected the bounds of at least one other run, got none"
    with pytest.raises(ValueError, match=message):
        paired_bounds.Config(tmp_path / "margins-avb_adaptive-0.json", ())


def test_stages_of_other_images_are_not_compared(tmp_path):
    before = bounds_file(tmp_path, "margins-validation-avb_adaptive-0.json", 0.0, 100)
    after = bounds_file(tmp_path, "margins-avb_adaptive_started-0.json", 0.0, 100)
    message = (
        "expected bounds of the same images, got validation "
        "(margins-validation-avb_adaptive-0.json) and test (margins-avb_adaptive_started-0.json): "
        "run experiments.margins with --split validation"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        paired_bounds.Config(before, (after,))


def with_settings(path: Path, *settings: int) -> Path:
    path.write_text(json.dumps({SETTINGS: settings} | json.loads(path.read_text())))
    return path


def test_bounds_of_other_settings_are_not_compared(tmp_path):
    before = with_settings(bounds_file(tmp_path, "margins-a-0.json", 0.0, 100), 100, 500)
    after = with_settings(bounds_file(tmp_path, "margins-b-0.json", 0.0, 100), 500, 500)
    message = (
        "expected bounds of the same numbers of samples, temperatures, got [100, 500] and "
        "[500, 500]: run experiments.margins with --weighted-samples and --temperatures alike"
    )
    with pytest.raises(SystemExit, match=re.escape(message)):
        paired_bounds.main(paired_bounds.Config(before, (after,)))


def test_bounds_are_not_continued_with_other_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(margins_command, "RESULTS", tmp_path)
    config = margins_command.Config(tmp_path, methods=("avb_adaptive",), seeds=(0,))
    path = config.path("avb_adaptive", 0)
    path.parent.mkdir(parents=True)
    with_settings(bounds_file(path.parent, path.name, 0.0, 100), 100, 500)
    message = (
        f"{path} was made with --weighted-samples 100 --temperatures 500, got --weighted-samples "
        "500 --temperatures 500: give the former, or move it away"
    )
    with pytest.raises(SystemExit, match=re.escape(message)):
        margins_command.main(config)


@pytest.fixture(scope="module")
def strokes() -> np.ndarray:
    """Slanted grey bars, 20 pixels long as MNIST's digits are."""
    images = np.zeros((30, 28, 28), np.uint8)
    for row in range(20):
        images[:, 4 + row, 9 + row // 3 : 14 + row // 3] = (60, 180, 255, 200, 90)
    return images


def centres(images: np.ndarray) -> np.ndarray:
    pixels = np.indices(images.shape[1:])
    return np.einsum("nyx,iyx->ni", images, pixels) / np.sum(images, axis=(1, 2))[:, None]


def test_distorted_copies_are_normalised_as_the_images_are(strokes):
    made = _distorted.distorted(strokes, np.random.default_rng(0))
    assert np.all(np.any(made != strokes, axis=(1, 2)))
    assert len(np.unique(made, axis=0)) == len(made)
    # Rolled by whole pixels.
    np.testing.assert_allclose(centres(made), centres(strokes), atol=0.75)
    tall = np.sum(np.any(made >= _distorted.INK, axis=2), axis=1)
    assert np.all(np.abs(tall - 20) <= 1)
    assert abs(np.mean(tall) - 20) < 0.5


def test_distorted_copies_are_as_sharp_as_the_images(strokes):
    made = _distorted.distorted(strokes, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(made.reshape(30, -1)), np.sort(strokes.reshape(30, -1)))


def test_without_distortion_a_copy_is_the_image(strokes):
    made = _distorted.distorted(strokes[:2], np.random.default_rng(0), 0.0)
    np.testing.assert_array_equal(made, strokes[:2])


def test_an_empty_image_stays_empty():
    empty = np.zeros((1, 28, 28), np.uint8)
    np.testing.assert_array_equal(_distorted.distorted(empty, np.random.default_rng(0)), empty)


def test_a_file_with_copies_holds_the_images_first_and_others_as_they_are(strokes, tmp_path):
    dataset = load_dataset("digits")
    dataset = dataclasses.replace(dataset, train=strokes[:5], validation=strokes, test=strokes[:3])
    path = tmp_path / "runs" / "copies.npz"
    _distorted.write_with_copies(dataset, 2, path)
    kept = load_dataset(path)
    assert kept.train.shape == (15, 28, 28)
    np.testing.assert_array_equal(kept.train[:5], strokes[:5])
    np.testing.assert_array_equal(kept.validation, strokes)
    np.testing.assert_array_equal(kept.test, strokes[:3])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_copies_are_compared_with_the_images_they_are_of():
    found = {"train, 0": [-80.0, -90.0], "train, 1": [-81.0, -90.0], "validation, 0": [-9, -1]}
    assert copies.table(found).splitlines()[2:] == [
        "| train | 0 | -85.00 | – |",
        "| train | 1 | -85.50 | -0.50 ± 0.50 |",
        "| validation | 0 | -5.00 | – |",
    ]


def images_in_splits(train: int, validation: int, test: int) -> Dataset:
    rng = np.random.default_rng(0)
    splits = [rng.integers(0, 256, (n, 28, 28), np.uint8) for n in (train, validation, test)]
    fields = dict(zip(("train", "validation", "test"), splits, strict=True))
    return dataclasses.replace(load_dataset("digits"), **fields)


def test_mnist_is_split_elsewhere_and_its_test_images_stay():
    dataset = images_in_splits(5, 4, 3)
    moved = mnist_presets.resplit(dataset, 8)
    np.testing.assert_array_equal(moved.train[:5], dataset.train)
    np.testing.assert_array_equal(moved.train[5:], dataset.validation[:3])
    np.testing.assert_array_equal(moved.validation, dataset.validation[3:])
    np.testing.assert_array_equal(moved.test, dataset.test)


@pytest.mark.parametrize("count", [0, 9])
def test_a_split_without_images_to_train_on_or_to_validate_is_refused(count):
    text = f"--train-images: expected 1 to 8, the others to validate, got {count}"
    with pytest.raises(SystemExit, match=text):
        mnist_presets.resplit(images_in_splits(5, 4, 3), count)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "avb-3"),
        ({"train_images": 55_000}, "avb_train55000-3"),
        ({"train_images": 55_000, "copies": 2, "prior": "flow"}, "avb_train55000_copies2_flow-3"),
    ],
)
def test_a_run_on_other_training_images_has_another_name(changed, name):
    config = mnist_presets.Config(Path("mnist"), critic_final_rate=0.05, **changed)
    assert config.run_name("avb", 3) == name


def test_mnist_of_another_split_is_read_from_a_file_that_is_written_once(tmp_path, monkeypatch):
    dataset = images_in_splits(6, 2, 1)
    monkeypatch.setattr(mnist_presets, "load_dataset", lambda name, data_dir: dataset)
    config = mnist_presets.Config(tmp_path, runs_dir=tmp_path / "runs", train_images=7)
    source = mnist_presets.data_source(config)
    assert source == {"data": str(tmp_path / "runs" / "mnist_train7.npz")}
    monkeypatch.delattr(mnist_presets, "load_dataset")
    assert mnist_presets.data_source(config) == source
    kept = load_dataset(source["data"])
    assert [len(kept.train), len(kept.validation), len(kept.test)] == [7, 1, 1]


def decoder(z):
    return jnp.stack([jnp.outer(z, z)])


def test_a_mixture_over_sharpness_is_that_of_the_models_with_each_factor():
    prior = dist.Normal(0.0, 1.0).expand((3,)).to_event(1)
    model = LatentVariableModel(prior, decoder, Bernoulli(), (3, 3))
    z, x = model.sample(jax.random.key(0))
    weights, factors = (0.7, 0.2, 0.1), (1.0, 0.5, 0.25)
    mixed = _sharpness.with_sharpness(model, weights, factors)
    each = [
        LatentVariableModel(prior, lambda z, t=t: t * decoder(z), Bernoulli(), (3, 3))
        for t in factors
    ]
    expected = logsumexp([of_one.log_likelihood(x, z) for of_one in each], b=weights)
    assert float(mixed.log_likelihood(x, z)) == pytest.approx(expected, abs=1e-5)
    mean = sum(w * of_one.mean(z) for w, of_one in zip(weights, each, strict=True))
    np.testing.assert_allclose(mixed.mean(z), mean, rtol=1e-5)
    assert mixed.sample(jax.random.key(1))[1].shape == (3, 3)


def test_weights_of_sharpness_are_those_of_the_data():
    # Two components that hardly overlap, and one that fits nothing.
    share = np.random.default_rng(0).uniform(size=1000) < 0.3
    evidence = np.stack([np.where(share, -50.0, -80.0), np.where(share, -70.0, -60.0)], axis=1)
    evidence = np.concatenate([evidence, np.full((1000, 1), -200.0)], axis=1)
    weights = _sharpness.fit_weights(evidence)
    assert weights == pytest.approx((share.mean(), 1 - share.mean(), 0.0), abs=1e-5)
    assert sum(weights) == pytest.approx(1.0)


def test_weights_of_sharpness_are_not_judged_on_images_that_they_are_fitted_to():
    message = (
        "mixed_sharpness: expected --split test or train, got validation, whose images the weights "
        "are fitted to"
    )
    with pytest.raises(ValueError, match=message):
        margins_command.Config(Path("mnist"), split="validation", mixed_sharpness=True)


def test_weights_of_sharpness_are_fitted_once_to_the_last_validation_images(monkeypatch):
    images = images_in_splits(2, 6, 2).validation
    fitted_to = []
    monkeypatch.setattr(margins_command, "FITTED_TO", 4)

    def fit(config, method, data):
        fitted_to.append(data)
        return [0.7, 0.1, 0.1, 0.1]

    monkeypatch.setattr(margins_command, "sharpness_weights", fit)
    architecture = avb.Architecture((28, 28), latent_dim=2)
    run = SimpleNamespace(
        method=avb.gaussian_vae(architecture, key=jax.random.key(0)),
        held_out=lambda split: {"validation": images}[split],
    )
    config = margins_command.Config(Path("mnist"), mixed_sharpness=True)
    kept = {}
    for _ in range(2):
        method = margins_command.evaluated_method(config, run, kept)
        np.testing.assert_allclose(method.model.likelihood.family.weights, [0.7, 0.1, 0.1, 0.1])
    assert len(fitted_to) == 1
    np.testing.assert_array_equal(fitted_to[0], images[-4:])
