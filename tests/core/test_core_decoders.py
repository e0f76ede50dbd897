"""Decoders that are trained after a run and averaged with its own."""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import decoders
from experiments._averaged import AveragedDecoder, averaged, member_path, members_of, replaced
from experiments.margins import Config as Margins

import avb
from avb.models import Bernoulli, LatentVariableModel
from avb.models._latent import standard_normal
from avb.nets import MLPDecoder

IMAGES = 256


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A short run on images whose upper and lower halves are lit or not."""
    rng = np.random.default_rng(0)
    halves = np.repeat(rng.integers(0, 2, (IMAGES + 64, 2)), [8, 8], axis=1)
    images = (230 * halves).astype(np.uint8).reshape(-1, 4, 4)
    folder = tmp_path_factory.mktemp("decoders")
    splits = {"train": images[:IMAGES], "validation": images[-64:-32], "test": images[-32:]}
    np.savez(folder / "halves.npz", **splits)
    config = avb.RunConfig(
        data=str(folder / "halves.npz"),
        method="gaussian_vae",
        latent_dim=2,
        width=32,
        hmc_transitions=1,
        fit=avb.FitConfig(epochs=100, batch_size=64, learning_rate=1e-2),
    )
    avb.train_run(config, folder / "runs" / "run")
    return folder / "runs" / "run"


@pytest.fixture(scope="module")
def config(run_dir) -> decoders.Config:
    return decoders.Config(run_dir, fresh=2, draws=2, epochs=200, num_data=32, samples=10)


@pytest.fixture(scope="module")
def trained(config) -> avb.Run:
    run = avb.load_run(config.run_dir)
    decoders.train_all(config, run)
    return run


def mlp_decoder(seed: int) -> MLPDecoder:
    return MLPDecoder(2, (1, 3, 3), width=5, key=jax.random.key(seed))


def test_the_mean_of_logits_is_at_least_as_likely_as_its_members_are_on_average():
    members = [mlp_decoder(seed) for seed in range(3)]
    key_z, key_x = jax.random.split(jax.random.key(3))
    z = 3 * jax.random.normal(key_z, (20, 2))
    x = jax.random.bernoulli(key_x, 0.5, (20, 3, 3)).astype(jnp.float32)

    def log_likelihoods(decoder):
        model = LatentVariableModel(standard_normal(2), decoder, Bernoulli(), (3, 3))
        return np.asarray(model.log_likelihoods(x, z))

    of_members = np.mean([log_likelihoods(member) for member in members], axis=0)
    assert np.all(log_likelihoods(AveragedDecoder(members)) > of_members)


def test_the_mean_of_equal_decoders_is_each_for_a_latent_vector_and_for_rows():
    member, z = mlp_decoder(0), jnp.asarray([[0.3, -2.0], [1.0, 0.0]])
    mean = AveragedDecoder([member, member])
    np.testing.assert_allclose(mean(z[0]), member(z[0]), rtol=1e-6)
    np.testing.assert_allclose(mean.of_rows(z)[1], member(z[1]), rtol=1e-5, atol=1e-6)


def test_a_decoder_that_was_trained_after_a_run_explains_its_draws(config, trained):
    model = trained.method.model
    draws = np.load(decoders.folder_of(config.run_dir) / "draws-0.npz")
    x = jnp.asarray(np.unpackbits(draws["bits"], axis=1).reshape(-1, 4, 4), jnp.float32)
    untrained = trained.record.architecture.build_model(key=jax.random.key(5)).decoder
    member, _ = members_of(config.run_dir, trained.method, 2)
    before, after = (float(decoders.loss(d, model, x, draws["z"])) for d in (untrained, member))
    assert after < before - 1.0


def test_members_have_other_weights_and_draws_other_pixels(config, trained):
    first, second = members_of(config.run_dir, trained.method, 2)
    z = jnp.zeros((1, 2))
    assert not np.allclose(jax.vmap(first)(z), jax.vmap(second)(z))
    folder = decoders.folder_of(config.run_dir)
    bits = [np.load(folder / f"draws-{index}.npz")["bits"] for index in range(2)]
    assert len(bits[0]) == IMAGES
    assert not np.array_equal(*bits)


def test_what_exists_is_not_done_again_and_what_is_missing_comes_out_the_same(config, trained):
    first, second = (member_path(config.run_dir, index) for index in (1, 2))
    kept, written = second.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    decoders.train_all(config, trained)
    assert second.read_bytes() == kept
    assert first.stat().st_mtime_ns == written


def test_each_decoder_and_each_mean_is_judged_on_both_splits(config, trained):
    found = decoders.judged(config, trained)
    titles = ["the run's own", "fresh 1", "mean with 1 fresh", "fresh 2", "mean with 2 fresh"]
    assert [list(of_split) for of_split in found.values()] == [titles, titles]
    assert list(found) == ["train", "validation"]
    rows = decoders.table(found).splitlines()[2:]
    assert len(rows) == 10
    own = np.mean(found["train"]["the run's own"])
    assert rows[0] == f"| train | the run's own | {own:.2f} | 0.00 | 0.00 |"


def test_one_of_the_decoders_takes_the_place_of_the_runs_own(config, trained):
    model, z = replaced(config.run_dir, trained.method, 2), jnp.asarray([0.3, -1.0])
    _, second = members_of(config.run_dir, trained.method, 2)
    np.testing.assert_array_equal(model.decoder(z), second(z))
    assert not np.allclose(model.decoder(z), trained.method.model.decoder(z))


def test_a_decoder_that_was_not_trained_is_asked_for(config, trained):
    message = (
        f"{member_path(config.run_dir, 3)} does not exist: python -m experiments.decoders "
        f"--run-dir {config.run_dir} --fresh 3 trains it"
    )
    with pytest.raises(SystemExit) as refused:
        averaged(config.run_dir, trained.method, 3)
    assert str(refused.value) == message


def test_a_run_whose_images_are_not_binarised_is_refused(config, monkeypatch):
    record = SimpleNamespace(resolved=SimpleNamespace(values="real"))
    monkeypatch.setattr(avb, "load_run", lambda path: SimpleNamespace(record=record))
    message = f"{config.run_dir}: expected a run on images that are binarised, got values 'real'"
    with pytest.raises(SystemExit, match=re.escape(message)):
        decoders.main(config)


@pytest.mark.parametrize("name", ["fresh", "draws", "epochs"])
def test_none_of_something_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        decoders.Config(Path("run"), **{name: 0})


def test_margins_of_averaged_decoders_have_another_name():
    config = Margins(Path("mnist"), fresh_decoders=3, mixed_sharpness=True, methods=("avb",))
    assert config.what == "-decoders3-sharpness"


def test_margins_of_another_decoder_have_another_name():
    config = Margins(Path("mnist"), decoder=2, split="validation", methods=("avb",))
    assert config.what == "-validation-decoder2"


def test_another_decoder_and_the_mean_of_several_are_not_asked_for_at_once():
    message = "expected either decoder or fresh_decoders, got 2 and 3"
    with pytest.raises(ValueError, match=message):
        Margins(Path("mnist"), decoder=2, fresh_decoders=3, methods=("avb",))
