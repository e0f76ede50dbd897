"""What a run folder holds, and folders that cannot be used."""

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_runs_helpers import TINY

from avb import FitConfig, Outcome, RunError
from avb.runs import RunConfig, load_run, resume_run, train_run
from avb.runs._lock import locked
from avb.runs._metrics import read_rows


def refused(message: str):
    return pytest.raises(RunError, match=f"^{re.escape(message)}$")


def test_folder_holds_what_is_documented(trained: Path):
    assert sorted(path.name for path in trained.iterdir()) == [
        "LOCK", "checkpoints", "config.json", "metrics.jsonl",
    ]  # fmt: skip
    document = json.loads((trained / "config.json").read_text())
    assert document["format"] == 17
    assert document["config"] == {**dataclasses.asdict(TINY), "channels": [16, 32, 32]}
    assert document["resolved"]["likelihood"] == "bernoulli"
    assert document["data"]["sizes"] == {"train": 1197, "validation": 300, "test": 300}
    assert [row["step"] for row in read_rows(trained)] == [108, 117]
    assert len(list((trained / "checkpoints").iterdir())) == 3


def test_loaded_run_is_the_trained_one(trained: Path):
    run = load_run(trained)
    assert run.step == 117
    assert run.record.config == TINY
    assert run.held_out("test").shape == (300, 8, 8)
    assert set(np.unique(run.held_out("test"))) == {0, 1}


def test_resuming_a_complete_run_changes_nothing(run_dir: Path):
    before = (run_dir / "metrics.jsonl").read_text()
    assert resume_run(run_dir).outcome is Outcome.COMPLETED
    assert (run_dir / "metrics.jsonl").read_text() == before


def test_training_again_points_to_resume(run_dir: Path):
    message = (
        f"{run_dir} holds a run with this configuration already: go on with it by "
        f"'avb resume {run_dir}', or choose another run folder"
    )
    with refused(message):
        train_run(TINY, run_dir)


def test_another_configuration_is_refused_with_its_differences(run_dir: Path):
    fit = dataclasses.replace(TINY.fit, epochs=20)
    other = dataclasses.replace(TINY, latent_dim=16, fit=fit)
    message = (
        f"{run_dir} holds a run with another configuration (latent_dim: 2 in the folder, 16 "
        "asked for; epochs: 13 in the folder, 20 asked for): choose another run folder"
    )
    with refused(message):
        train_run(other, run_dir)


def test_other_files_are_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").touch()
    message = (
        f"{tmp_path} holds other files (thesis.tex): expected an empty or a new folder; choose "
        "another run folder"
    )
    with refused(message):
        train_run(TINY, tmp_path)


def test_missing_folder(tmp_path: Path):
    with refused(f"{tmp_path / 'a'} is no folder: expected a run that 'avb train' began"):
        resume_run(tmp_path / "a")


def test_folder_without_config(tmp_path: Path):
    message = (
        f"{tmp_path} has no config.json: it is no run, or one that was stopped before it began; "
        "train again, after deleting it if it is not empty"
    )
    with refused(message):
        resume_run(tmp_path)


def test_half_written_config(run_dir: Path):
    path = run_dir / "config.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(RunError, match=r"config.json is damaged \(no valid JSON: "):
        load_run(run_dir)


def test_config_that_lacks_a_setting(run_dir: Path):
    path = run_dir / "config.json"
    document = json.loads(path.read_text())
    del document["config"]["fit"]
    path.write_text(json.dumps(document))
    message = (
        f"{path} is damaged ('fit'): restore it from a copy, or train again into another folder"
    )
    with refused(message):
        resume_run(run_dir)


def test_another_format(run_dir: Path):
    path = run_dir / "config.json"
    path.write_text(json.dumps({"format": 18, "avb": "9.0"}))
    message = (
        f"{run_dir} was written in format 18 by avb 9.0: expected format 7 to 17; use that "
        "version of avb, or train again into another folder"
    )
    with refused(message):
        resume_run(run_dir)


def test_the_format_before_the_sizes_of_the_noise_network(run_dir: Path):
    path = run_dir / "config.json"
    document = json.loads(path.read_text())
    document["format"] = 7
    later = "prior start_from channels noise_width noise_depth noise_reach importance_samples"
    for name in [*later.split(), "gradient_draws", "hmc_transitions"]:
        del document["config"][name]
    path.write_text(json.dumps(document))
    config = load_run(run_dir).record.config
    assert (config.noise_width, config.prior, config.hmc_transitions) == (None, "normal", 0)


def test_the_format_before_the_critics_final_rate(run_dir: Path):
    path = run_dir / "config.json"
    document = json.loads(path.read_text())
    document["format"] = 10
    document["config"]["fit"]["final_rate"] = 0.07
    del document["config"]["fit"]["critic_final_rate"]
    path.write_text(json.dumps(document))
    assert load_run(run_dir).record.config.fit.critic_final_rate == 0.07


def test_no_checkpoint(run_dir: Path):
    shutil.rmtree(run_dir / "checkpoints")
    message = (
        f"{run_dir} holds no checkpoint: it was stopped before training began; delete the folder "
        "and train again"
    )
    with refused(message):
        load_run(run_dir)
    with refused(message):
        resume_run(run_dir)


def test_changed_data(tmp_path: Path):
    rng = np.random.default_rng(0)
    path, folder = tmp_path / "x.npy", tmp_path / "run"
    np.save(path, rng.normal(size=(40, 3)).astype(np.float32))
    fit = FitConfig(epochs=1, batch_size=8)
    train_run(dataclasses.replace(TINY, data=str(path), fit=fit), folder)
    np.save(path, rng.normal(size=(40, 3)).astype(np.float32))
    with pytest.raises(RunError, match=r"x\.npy has changed since the run began: expected data"):
        resume_run(folder)
    assert load_run(folder).step == 4


def test_lock_names_the_process_that_holds_it(run_dir: Path):
    code = (
        "import sys, pathlib; from avb.runs._lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout.readline() == "held\n"
        message = (
            f"{run_dir} is in use by process {other.pid}: wait for it to end, or stop it with "
            f"'kill {other.pid}': its checkpoints stay"
        )
        with refused(message):
            resume_run(run_dir)
        assert load_run(run_dir).step == 117
        other.kill()
    with locked(run_dir):
        pass


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(run_dir: Path, trained: Path):
    newest = run_dir / "checkpoints" / "117"
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:500])
    before = sorted(int(p.name) for p in newest.parent.iterdir())[-2]
    with pytest.warns(UserWarning, match="the checkpoint at step 117 cannot be read"):
        assert load_run(run_dir).step == before
    with pytest.warns(UserWarning, match="the one before it is used"):
        assert resume_run(run_dir).outcome is Outcome.COMPLETED
    assert load_run(run_dir).step == 117
    assert (run_dir / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_no_checkpoint_that_can_be_read(run_dir: Path):
    for path in (run_dir / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(RunError, match=r"none of the checkpoints .*117 can be read; restore"):
        load_run(run_dir)


def test_a_row_that_was_cut_short_is_written_again(run_dir: Path, trained: Path):
    shutil.rmtree(run_dir / "checkpoints" / "117")
    path = run_dir / "metrics.jsonl"
    path.write_text(path.read_text()[:-30])
    resume_run(run_dir)
    assert path.read_text() == (trained / "metrics.jsonl").read_text()


def full(*_: object, **__: object):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_in_metrics_loses_nothing(tmp_path: Path, trained: Path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("avb.runs._metrics.os.fsync", fail_from_call(3, os.fsync))
        with pytest.raises(RunError) as caught:
            train_run(TINY, folder, checkpoint_seconds=0)
    assert str(caught.value) == write_message(folder / "metrics.jsonl")
    resume_run(folder)
    assert (folder / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()


def test_full_disk_in_a_checkpoint_loses_nothing(tmp_path: Path, trained: Path, monkeypatch):
    import orbax.checkpoint as ocp

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        save = fail_from_call(3, ocp.CheckpointManager.save)
        patch.setattr(ocp.CheckpointManager, "save", save)
        with pytest.raises(RunError, match="No space left on device"):
            train_run(TINY, folder, checkpoint_seconds=0)
    assert resume_run(folder).outcome is Outcome.COMPLETED
    assert (folder / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()


def test_full_disk_is_noticed_before_a_checkpoint_begins(run_dir: Path, monkeypatch):
    shutil.rmtree(run_dir / "checkpoints" / "117")
    usage = shutil.disk_usage(run_dir)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr("avb.runs._checkpoints.shutil.disk_usage", lambda _: usage)
        with pytest.raises(RunError, match=r"No space left on device: \d+ bytes needed, 1000 free"):
            resume_run(run_dir, checkpoint_seconds=0)
    assert resume_run(run_dir).outcome is Outcome.COMPLETED


def test_unwritable_parent(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"run could not be written \(Not a directory\)"):
        train_run(TINY, tmp_path / "file" / "run")


def test_configuration_with_paths_is_found_from_another_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((10, 3), np.float32))
    assert RunConfig("x.npy").settled().data == str(tmp_path / "x.npy")
    assert RunConfig("digits").settled().data == "digits"


def fail_from_call(first: int, function):
    """The function, which from the given call on finds the disk full."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        return function(*args, **kwargs) if calls < first else full()

    return wrapped


def write_message(path: Path) -> str:
    return (
        f"{path} could not be written (No space left on device); nothing before the run's last "
        "checkpoint is lost: make room or make the folder writable, then go on with 'avb resume', "
        "or with 'avb train' where nothing was trained yet"
    )
