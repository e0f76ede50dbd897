"""``avb diagnose``: numbers, a sentence and a picture, for runs that have a critic."""

import json
from pathlib import Path

import numpy as np
import pytest

from avb.cli import main
from avb.evaluation import Diagnosis
from avb.evaluation._verdict import Finding

FAST = ("--num-data", "16", "--draws", "4", "--steps", "3")


@pytest.fixture(scope="module")
def with_critic(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = "--method avb_self --latent-dim 2 --width 8 --depth 1 --epochs 1"
    assert main(["train", "digits", "--run-dir", str(folder), *settings.split()]) == 0
    return folder


@pytest.fixture(scope="module")
def diagnosed(with_critic: Path) -> Path:
    assert main(["diagnose", str(with_critic), *FAST]) == 0
    return with_critic


def test_diagnose_keeps_numbers_and_a_picture(diagnosed: Path):
    document = json.loads((diagnosed / "diagnosis.json").read_text())
    assert document["settings"]["num_data"] == 16
    assert document["reference"] == "mixture of 1024 conditionals"
    assert (diagnosed / "adversary.png").read_bytes().startswith(b"\x89PNG")


FOUND = Finding(1.5, 0.01)
DIAGNOSIS = Diagnosis(
    fault="contrast",
    sentence="The contrast is at fault.",
    reference="fresh critics",
    divergence=FOUND,
    misfit=FOUND,
    too_high=FOUND,
    refitted_too_high=FOUND,
    excess=FOUND,
    loss=2.0,
    refitted_loss=1.9,
    best_loss=1.8,
    accuracy=0.6,
    best_accuracy=0.7,
    logits=(-1.0, 0.0, 1.0) * 2,
    slope_error=0.25,
    thickness=0.5,
    gradient_norms={"critic": 0.5},
    scatter=(np.zeros((4, 2)), np.ones((4, 2))),
)


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_diagnose_prints_a_table_and_a_sentence_or_json(option, with_critic, monkeypatch, capsys):
    monkeypatch.setattr("avb.cli._diagnose.diagnose_run", lambda *_, **__: DIAGNOSIS)
    assert main(["diagnose", str(with_critic), *option]) == 0
    out, err = capsys.readouterr()
    assert err == f"wrote {with_critic / 'adversary.png'}\n"
    if option:
        assert json.loads(out)["divergence"] == {"nats": 1.5, "error": 0.01}
        return
    for name in ("KL(q‖r)", "misfit", "missed", "E_r[exp T] − 1", "thickness", "slope error"):
        assert name in out
    assert out.endswith("The contrast is at fault.\n")


def test_diagnose_wants_a_critic(trained: Path, capsys):
    assert main(["diagnose", str(trained)]) == 1
    assert capsys.readouterr().err == (
        "error: a diagnosis is of a critic: expected a method with one, got 'sivi'; "
        "use 'avb evaluate'\n"
    )


def test_diagnose_wants_data(with_critic: Path, capsys):
    assert main(["diagnose", str(with_critic), "--num-data", "0"]) == 1
    assert capsys.readouterr().err == "error: num_data: expected at least 1, got 0\n"
