"""Runs that are stopped, killed and called again: the posterior of an unbroken run, bit for bit."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from avb import Inference, RunError
from avb.inference import Posterior, _inference, _methods, _minibatch, _restarts, _rounds
from avb.inference._identity import arguments_in_words
from avb.inference._journal import differences
from avb.inference._restarts import Agreement
from avb.inference._train import Budget
from avb.inference._verdict import Verdict

SEED, BEND = 3, np.float32(0.2)


def banana(z, bend):
    bent = z[1] - bend * (z[0] ** 2 - 1.0)
    return -0.5 * z[0] ** 2 - 0.5 * bent**2


class Stop(Exception):
    """Raised by a test's progress."""


def stop_at(stretch: int):
    def progress(done: int, most: int) -> None:
        if done == stretch:
            raise Stop

    return progress


def cheap_budget(index: int, max_steps: int) -> Budget:
    """One steady stretch and one in which the rate falls, of few draws."""
    return Budget(batch=16, components=32, max_steps=max_steps, decay_stretches=1)


def small(method="self", model=banana, **settings) -> Inference:
    return Inference(model, dim=2, method=method, max_steps=500, starts=2, **settings)


@pytest.fixture(scope="module", autouse=True)
def cheap():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_rounds, "budget_of", cheap_budget)
        patch.setattr(_rounds, "MAX_ROUNDS", 2)
        patch.setattr(_rounds, "CLOSE", -1.0)
        yield


@pytest.fixture(scope="module")
def inference() -> Inference:
    return small()


@pytest.fixture(scope="module")
def unbroken(inference) -> Posterior:
    return inference.run(jax.random.key(SEED), BEND)


def expect_same(one: Posterior, other: Posterior) -> None:
    arrays = [jax.tree.leaves(eqx.filter(q.approximation, eqx.is_array)) for q in (one, other)]
    for a, b in zip(*arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.elbo, one.importance, one.verdict) == (other.elbo, other.importance, other.verdict)
    assert dataclasses.replace(one.fit, seconds=0.0) == dataclasses.replace(other.fit, seconds=0.0)


def test_stopped_in_every_part_of_two_rounds(inference, unbroken, tmp_path):
    assert unbroken.fit.steps == 4 * 500
    for stretch in (1, 2, 3):
        with pytest.raises(Stop):
            inference.run(
                jax.random.key(SEED), BEND, checkpoint_dir=tmp_path, progress=stop_at(stretch)
            )
    resumed = inference.run(jax.random.key(SEED), BEND, checkpoint_dir=tmp_path)
    expect_same(resumed, unbroken)


KILLED = """
import os, signal, sys
import jax
sys.path.insert(0, sys.argv[1])
from test_inference_resume import BEND, SEED, cheap_budget, small
from avb.inference import _rounds
_rounds.budget_of, _rounds.MAX_ROUNDS, _rounds.CLOSE = cheap_budget, 2, -1.0

replace = os.replace
def kill_before(source, target, **kwargs):
    # While the second stretch is written down: its draft is there, the first is what counts.
    if str(target).endswith("training.npz"):
        kill_before.count += 1
        if kill_before.count == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target, **kwargs)
kill_before.count = 0
os.replace = kill_before
small().run(jax.random.key(SEED), BEND, checkpoint_dir=sys.argv[2])
"""


def test_killed_while_it_writes(inference, unbroken, tmp_path):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "training.npz.tmp").exists()
    done = []
    resumed = inference.run(
        jax.random.key(SEED), BEND, checkpoint_dir=tmp_path, progress=lambda n, _: done.append(n)
    )
    assert done[0] == 2
    expect_same(resumed, unbroken)


def test_finished_is_returned_at_once(inference, unbroken, tmp_path, monkeypatch, key):
    first = inference.run(jax.random.key(SEED), BEND, checkpoint_dir=tmp_path)
    expect_same(first, unbroken)
    assert sorted(os.listdir(tmp_path)) == ["LOCK", "modes.npz", "posterior.npz", "run.json"]
    for name in ("find_modes", "refine"):
        monkeypatch.setattr(_inference, name, None)
    again = inference.run(jax.random.key(SEED), BEND, checkpoint_dir=tmp_path)
    expect_same(again, unbroken)
    assert again.fit == first.fit
    np.testing.assert_array_equal(
        again.sample(key, (5,), resample=True)["z"], first.sample(key, (5,), resample=True)["z"]
    )


def test_the_search_for_modes_is_kept(inference, unbroken, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_inference, "refine", None)
        with pytest.raises(TypeError):
            inference.run(jax.random.key(SEED), BEND, checkpoint_dir=tmp_path)
    monkeypatch.setattr(_inference, "find_modes", None)
    resumed = inference.run(jax.random.key(SEED), BEND, checkpoint_dir=tmp_path)
    expect_same(resumed, unbroken)


def test_restarts(tmp_path, monkeypatch):
    alike = Agreement((0.5, 0.5), (0.0, 0.0), 1.0, 0.5)
    monkeypatch.setattr(_restarts, "agree", lambda *_: alike)
    inference = small(restarts=2)
    unbroken = inference.run(jax.random.key(SEED), BEND)
    with pytest.raises(Stop):
        inference.run(jax.random.key(SEED), BEND, checkpoint_dir=tmp_path, progress=stop_at(1))
    done = []
    resumed = inference.run(
        jax.random.key(SEED), BEND, checkpoint_dir=tmp_path, progress=lambda n, _: done.append(n)
    )
    assert done[0] == 2
    expect_same(resumed, unbroken)


def test_another_method(tmp_path, monkeypatch):
    monkeypatch.setattr(_methods, "SAVE_SECONDS", 0.0)
    inference = Inference(banana, dim=2, max_steps=300, starts=4, method="gaussian")
    unbroken = inference.run(jax.random.key(SEED), BEND)
    steps = []

    def stop(done: int, most: int) -> None:
        steps.append(done)
        if len(steps) == 3:
            raise Stop

    with pytest.raises(Stop):
        inference.run(jax.random.key(SEED), BEND, checkpoint_dir=tmp_path, progress=stop)
    more = []
    resumed = inference.run(
        jax.random.key(SEED), BEND, checkpoint_dir=tmp_path, progress=lambda n, _: more.append(n)
    )
    assert 0 < steps[-1] < more[0]
    expect_same(resumed, unbroken)


def test_a_flow_after_the_mixture(tmp_path, monkeypatch):
    doubt = Verdict(converged=False, reasons=("it was told to",))
    monkeypatch.setattr(_inference, "judge", lambda *_, **__: doubt)
    monkeypatch.setattr(_methods, "SAVE_SECONDS", 0.0)
    inference = small("auto")
    unbroken = inference.run(jax.random.key(SEED), BEND)

    def run(stop=None):
        told = []

        def progress(done: int, most: int) -> None:
            told.append((done, most))
            if stop is not None and stop(*told[-1]):
                raise Stop

        folder = {"checkpoint_dir": tmp_path, "progress": progress}
        return inference.run(jax.random.key(SEED), BEND, **folder), told

    # In the mixture's training, where it counts stretches, and twice in the flow's.
    for stop in (lambda n, _: n == 1, lambda _, most: most == 500, lambda _, most: most == 500):
        with pytest.raises(Stop):
            run(stop)
    assert (tmp_path / "mixture.npz").exists()
    monkeypatch.setattr(_inference, "refine", None)
    resumed, told = run()
    assert all(most == 500 for _, most in told)
    expect_same(resumed, unbroken)
    assert sorted(os.listdir(tmp_path)) == ["LOCK", "modes.npz", "posterior.npz", "run.json"]


def line(x, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y), subsample_size=50) as index:
        numpyro.sample("y", dist.StudentT(4.0, slope * x[index], 0.5), obs=y[index])


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=520).astype(np.float32)
    for name, array in (("x", x), ("y", 0.7 * x + 0.5 * rng.normal(size=520).astype(np.float32))):
        np.save(tmp_path / f"{name}.npy", array)
    return [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y")]


def test_minibatches(rows, tmp_path, monkeypatch, key):
    inference, folder = Inference(line, max_steps=500, starts=4), tmp_path / "run"
    unbroken = inference.run(jax.random.key(SEED), *rows)
    with pytest.raises(Stop):
        inference.run(jax.random.key(SEED), *rows, checkpoint_dir=folder, progress=stop_at(1))
    # Neither the search nor the passes over the rows are done again.
    for name in ("find_modes", "expand_all"):
        monkeypatch.setattr(_minibatch, name, None)
    resumed = inference.run(jax.random.key(SEED), *rows, checkpoint_dir=folder)
    expect_same(resumed, unbroken)
    monkeypatch.setattr(_minibatch, "refine_by", None)
    again = inference.run(jax.random.key(SEED), *rows, checkpoint_dir=folder)
    expect_same(again, unbroken)
    np.testing.assert_array_equal(
        again.sample(key, (5,), resample=True)["slope"],
        unbroken.sample(key, (5,), resample=True)["slope"],
    )


@pytest.fixture
def begun(inference, tmp_path) -> Path:
    """The folder of a run that was stopped after its first stretch."""
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        inference.run(jax.random.key(SEED), BEND, checkpoint_dir=folder, progress=stop_at(1))
    return folder


def in_words(array: np.float32) -> str:
    return f"float32 scalar of SHA-256 {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def refusal(folder: Path, differing: str) -> str:
    return (
        f"{folder} holds the run of something else ({differing}): give another folder, or delete "
        "it to begin anew"
    )


def test_another_key_or_setting_is_refused(begun):
    with pytest.raises(RunError) as error:
        small(restarts=2).run(jax.random.key(4), BEND, checkpoint_dir=begun)
    assert str(error.value) == refusal(
        begun, "key is 0 3 there and 0 4 here; restarts is 1 there and 2 here"
    )


def test_other_data_are_refused(inference, begun):
    other = np.float32(0.4)
    with pytest.raises(RunError) as error:
        inference.run(jax.random.key(SEED), other, checkpoint_dir=begun)
    both = f"{in_words(BEND)} there and {in_words(other)} here"
    start, end = refusal(begun, f"argument 0 is {both}; log density is ").split("log density is ")
    assert str(error.value).startswith(start)
    assert str(error.value).endswith(end.removeprefix(")"))


def test_a_changed_model_is_refused(begun):
    changed = small(model=lambda z, bend: 2.0 * banana(z, bend))
    with pytest.raises(RunError) as error:
        changed.run(jax.random.key(SEED), BEND, checkpoint_dir=begun)
    z = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 2))
    there = [float(banana(one, 0.2)) for one in z]
    words = [" ".join(f"{scale * value:.6g}" for value in there) for scale in (1, 2)]
    both = f"is {words[0]} there and {words[1]} here"
    assert str(error.value) == refusal(begun, f"log density {both}; log density of 'z' {both}")


def test_another_version_is_refused(inference, begun, monkeypatch):
    here = importlib.metadata.version("avb")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "99.0")
    with pytest.raises(RunError) as error:
        inference.run(jax.random.key(SEED), BEND, checkpoint_dir=begun)
    assert str(error.value) == refusal(begun, f"version of avb is {here} there and 99.0 here")


def test_two_at_once_are_refused(inference, begun):
    def again(done: int, most: int) -> None:
        inference.run(jax.random.key(SEED), BEND, checkpoint_dir=begun)

    with pytest.raises(RunError, match=f"^{begun} is in use by process {os.getpid()}: "):
        inference.run(jax.random.key(SEED), BEND, checkpoint_dir=begun, progress=again)


def test_a_folder_of_other_files_is_refused(inference, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError) as error:
        inference.run(jax.random.key(SEED), BEND, checkpoint_dir=tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds other files (thesis.tex): expected an empty or a new folder, or that "
        "of an earlier run; give another folder"
    )


@pytest.mark.parametrize("left", ["run.json.tmp", "run.json"])
def test_killed_before_it_kept_anything(inference, unbroken, tmp_path, left):
    (tmp_path / "LOCK").touch()
    (tmp_path / left).write_text('{"form')
    expect_same(inference.run(jax.random.key(SEED), BEND, checkpoint_dir=tmp_path), unbroken)


def test_a_damaged_part_is_made_again(inference, unbroken, begun):
    file = begun / "training.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="training.npz cannot be read .* is done again"):
        resumed = inference.run(jax.random.key(SEED), BEND, checkpoint_dir=begun)
    expect_same(resumed, unbroken)


def test_a_damaged_record_is_refused(inference, begun):
    (begun / "run.json").write_text("{")
    with pytest.raises(RunError) as error:
        inference.run(jax.random.key(SEED), BEND, checkpoint_dir=begun)
    assert str(error.value).startswith(f"{begun / 'run.json'} cannot be read (Expecting property")


def test_time_adds_up(inference, begun):
    with np.load(begun / "training.npz") as file:
        before = json.loads(file["about"].tobytes())["seconds"]
    resumed = inference.run(jax.random.key(SEED), BEND, checkpoint_dir=begun)
    assert resumed.fit.seconds > before > 0.0


def test_arguments_in_words():
    x, names = np.zeros((2, 3), np.float32), {"sites": ["left", object()]}
    assert arguments_in_words((names, None, 2), {"x": x, "key": jax.random.key(7)}) == {
        "argument 0['sites'][0]": "'left'",
        "argument 0['sites'][1]": "object",
        "argument 2": "2",
        "argument 'x'": f"float32 2×3 of SHA-256 {hashlib.sha256(bytes(24)).hexdigest()[:16]}",
        "argument 'key'": "uint32 2 of SHA-256 "
        + hashlib.sha256(np.array([0, 7], np.uint32).tobytes()).hexdigest()[:16],
    }
    assert differences({"a": "1", "b": "2"}, {"a": "1", "c": "3"}) == [
        "c is not given there and 3 here",
        "b is 2 there and not given here",
    ]
