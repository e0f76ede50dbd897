"""Every command on one tiny run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from avb.cli import main
from avb.training import _prior

FAST = (
    *("--num-data", "20", "--draws", "4", "--max-components", "8", "--importance-samples", "8"),
    *("--annealed-data", "0", "--quality-data", "0"),
)


def test_train_leaves_the_documented_files(trained: Path):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints"} <= names
    assert {"samples.png", "reconstructions.png", "curves.png", "latent.png"} <= names


def test_train_prints_a_plain_line_a_report_when_not_on_a_terminal(tmp_path: Path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    settings = ["--method", "gaussian_vae", "--width", "4", "--epochs", "3", "--batch-size", "16"]
    args = ["train", str(tmp_path / "x.npy"), "--run-dir", str(tmp_path / "run"), *settings]
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert out == ""
    pattern = r"epoch 3/3, step 9, \d+ steps/s, ELBO -?[\d.]+, validation -?[\d.]+ nats"
    assert re.search(f"^{pattern}$", err, re.MULTILINE), err


@pytest.mark.parametrize(("further", "quantity"), [(0, "ELBO"), (1, "log p(x)")])
def test_training_further_says_that_a_flow_is_fitted_first(
    further: int, quantity: str, trained: Path, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setattr(_prior, "STEPS", 20)
    settings = "--method sivi --latent-dim 2 --width 8 --depth 1 --epochs 1 --prior flow"
    settings += f" --hmc-transitions {further}"
    start = ("--start-from", str(trained), "--run-dir", str(tmp_path / "run"))
    assert main(["train", "digits", *settings.split(), *start]) == 0
    err = capsys.readouterr().err
    assert f"first a flow is fitted to the posterior of {trained}\n" in err
    pattern = r"the flow gained -?\d\.\d\d ± \d\.\d\d nats of (.+) before training, on data that"
    found = re.search(pattern, err)
    assert found, err
    assert found[1] == quantity
    assert main(["evaluate", str(tmp_path / "run"), *FAST]) == 0
    assert "lower bound" in capsys.readouterr().out


def test_evaluate_json_is_all_of_stdout_and_is_kept_with_the_run(trained: Path, capsys):
    assert main(["evaluate", str(trained), "--json", *FAST]) == 0
    document = json.loads(capsys.readouterr().out)
    kinds = [(row["quantity"], row["kind"]) for row in document["rows"]]
    assert kinds == [
        ("ELBO", "lower bound"), ("ELBO", "upper bound"), ("log p(x)", "lower bound"),
    ]  # fmt: skip
    assert all(row["data"] == 20 for row in document["rows"])
    assert json.loads((trained / "evaluation.json").read_text()) == document


def test_evaluate_table_says_what_each_number_is(trained: Path, capsys):
    assert main(["evaluate", str(trained), *FAST]) == 0
    out = capsys.readouterr().out
    assert "sivi on digits, test split, 20 data, step 18" in out
    assert "lower bound" in out
    assert "upper bound" in out
    assert "nats per datum" in out


def test_compare_takes_what_was_evaluated(trained: Path, tmp_path: Path, capsys):
    main(["evaluate", str(trained), "--json", *FAST])
    other = shutil.copytree(trained, tmp_path / "other")
    capsys.readouterr()
    assert main(["compare", str(trained), str(other), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == second
    nothing = {"nats_per_datum": 0.0, "standard_error_over_data": 0.0, "data": 20}
    assert first["behind_best"] == {"estimator": "importance weighting", **nothing}
    assert main(["compare", str(trained), str(other)]) == 0
    out = capsys.readouterr().out
    assert out.count("sivi") == 2
    # The same bracket twice: neither run is ahead.
    assert out.count("1–2") == 4


def test_compare_takes_values_only_of_the_same_evaluation(trained: Path, tmp_path: Path, capsys):
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    main(["evaluate", str(trained), *FAST])
    main(["evaluate", str(other), *FAST])
    document = (other / "evaluation.json").read_bytes()
    main(["evaluate", str(other), *FAST, "--seed", "1"])
    # As a process leaves them that is killed between its two files.
    (other / "evaluation.json").write_bytes(document)
    capsys.readouterr()
    assert main(["compare", str(trained), str(other), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["behind_best"]["nats_per_datum"] == 0
    assert second["behind_best"] is None
    (other / "evaluation.npz").write_bytes(b"no archive")
    assert main(["compare", str(trained), str(other)]) == 0


def test_compare_refuses_other_data(trained: Path, tmp_path: Path, capsys):
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    path = other / "config.json"
    path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    assert main(["compare", str(trained), str(other)]) == 1
    assert "cannot be compared: the data's fingerprint is " in capsys.readouterr().err


def test_compare_refuses_numbers_of_another_part_of_the_data(trained: Path, tmp_path, capsys):
    main(["evaluate", str(trained), *FAST])
    other = shutil.copytree(trained, tmp_path / "other")
    main(["evaluate", str(other), *FAST, "--split", "validation"])
    assert main(["compare", str(trained), str(other)]) == 1
    assert "the split is test in the first and validation in the second" in capsys.readouterr().err


def test_sample(trained: Path):
    assert main(["sample", str(trained), "-n", "7"]) == 0
    with np.load(trained / "samples.npz") as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
    assert shapes == {"z": (7, 2), "mean": (7, 8, 8), "x": (7, 8, 8)}


def test_reconstruct(trained: Path):
    (trained / "reconstructions.png").unlink()
    assert main(["reconstruct", str(trained)]) == 0
    assert (trained / "reconstructions.png").exists()


def test_encode(trained: Path, tmp_path: Path):
    out = tmp_path / "z.npz"
    args = ["encode", str(trained), "digits", "--out", str(out), "--draws", "3"]
    assert main([*args, "--split", "validation"]) == 0
    with np.load(out) as arrays:
        z, mean = arrays["z"], arrays["mean"]
    assert z.shape == (300, 3, 2)
    np.testing.assert_allclose(mean, z.mean(axis=1), rtol=1e-6)


def test_encode_refuses_data_of_another_shape(trained: Path, tmp_path: Path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((10, 5), np.float32))
    args = ["encode", str(trained), str(tmp_path / "x.npy"), "--out", str(tmp_path / "z.npz")]
    assert main(args) == 1
    message = "error: x.npy: expected data of shape (8, 8) as in training, got (5,)\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("command", ["resume", "evaluate", "sample", "reconstruct"])
def test_a_folder_that_is_no_run(command: str, tmp_path: Path, capsys):
    assert main([command, str(tmp_path / "a")]) == 1
    message = f"error: {tmp_path / 'a'} is no folder: expected a run that 'avb train' began\n"
    assert capsys.readouterr().err == message


def test_resume_of_a_complete_run(trained: Path, capsys):
    assert main(["resume", str(trained)]) == 0
    assert capsys.readouterr().err.endswith(f"evaluate with: avb evaluate {trained}\n")


def test_a_disk_error_is_one_sentence(trained: Path, monkeypatch, capsys):
    def fail(*_: object):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("avb.runs._folder.os.fsync", fail)
    assert main(["sample", str(trained)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {trained / 'samples.png'} could not be written (No space left")
    assert err.count("\n") == 1


def test_interrupting_an_evaluation(trained: Path, monkeypatch, capsys):
    def interrupt(*_: object, **__: object):
        raise KeyboardInterrupt

    monkeypatch.setattr("avb.cli._evaluate.evaluate_run", interrupt)
    assert main(["evaluate", str(trained)]) == 1
    assert capsys.readouterr().err == "error: interrupted\n"
