"""Help, usage errors, and what importing the command line costs."""

import dataclasses
import subprocess
import sys

import pytest

from avb import FitConfig
from avb.cli import main
from avb.cli._train import Train, default_run_dir
from avb.runs import METHODS, RunConfig

COMMANDS = (
    *("train", "resume", "evaluate", "diagnose", "compare"),
    *("sample", "reconstruct", "encode", "methods"),
)


def help_of(*args: str, capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*args, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_lists_the_commands(capsys):
    text = help_of(capsys=capsys)
    assert all(f" {command} " in text for command in COMMANDS)
    assert "$ avb train digits --epochs 100" in text


@pytest.mark.parametrize("command", COMMANDS[:-1])
def test_help_of_each_command_has_an_example(command: str, capsys):
    assert f"$ avb {command} " in help_of(command, capsys=capsys)


def test_help_of_train_has_every_setting_with_its_default(capsys):
    text = " ".join(help_of("train", capsys=capsys).replace("│", " ").split())
    fields = [*dataclasses.fields(RunConfig), *dataclasses.fields(FitConfig)]
    for field in fields:
        if field.name not in ("data", "fit"):
            assert f"--{field.name.replace('_', '-')} " in text
            several = isinstance(field.default, tuple)
            default = " ".join(map(str, field.default)) if several else field.default
            assert f"(default: {default})" in text


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["methods"]])
def test_no_jax_before_it_is_needed(args: list[str]):
    code = (
        "import sys\nfrom avb.cli import main\n"
        f"try: main({args})\nexcept SystemExit: pass\n"
        "heavy = {'jax', 'orbax', 'matplotlib', 'sklearn', 'scipy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_methods(capsys):
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(info.name in out and info.paper in out for info in METHODS)


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"error: command: expected one of {', '.join(COMMANDS)}, got 'trian'; "
        "did you mean 'train'?\n"
    )


@pytest.mark.parametrize(
    "args", [[], ["train"], ["train", "digits", "--epoch", "3"], ["resume"], ["methods", "x"]]
)
def test_wrong_usage_exits_with_2(args: list[str], capsys):
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err != ""


def test_unknown_option_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        main(["train", "digits", "--epoch", "3"])
    assert "--epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--epochs", "0"], "epochs: expected at least 1, got 0"),
        (["--ema-decay", "1"], "ema_decay: expected a number in [0, 1), got 1.0"),
        (
            ["--method", "avb_adaptiv"],
            "method: expected one of gaussian_vae, iwae, flow_vae, avb, avb_adaptive, sivi, "
            "avb_self, got 'avb_adaptiv'; did you mean 'avb_adaptive'?",
        ),
        (
            ["--prior", "flow"],
            "prior: a flow is fitted to the posterior of a trained run or kept from it, got no run "
            "to start from; train one first, and give it as start_from",
        ),
        (
            ["--method", "avb", "--prior", "flow", "--start-from", "runs/first"],
            "prior: expected normal with avb, whose critic compares with the prior, got 'flow'; "
            "use avb_adaptive",
        ),
        (
            ["--latent-dim", "1", "--prior", "flow", "--start-from", "runs/first"],
            "a flow as prior: expected at least 2 latent dimensions, got 1",
        ),
        (["--seed", "-1"], "seed: expected 0 to 2^32 - 1, got -1"),
    ],
)
def test_settings_out_of_range_are_one_sentence(args: list[str], message: str, capsys):
    assert main(["train", "digits", *args]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_unknown_data_suggest_the_nearest(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digit"]) == 1
    assert capsys.readouterr().err.endswith("; did you mean 'digits'?\n")
    assert list(tmp_path.iterdir()) == []


def test_default_run_folder_tells_the_run():
    config = Train("data/faces.npz", method="avb", latent_dim=32, seed=3).config
    assert str(default_run_dir(config)) == "runs/faces-avb-d32-s3"


def test_default_run_folder_lies_beside_the_run_it_starts_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Train("digits", start_from="runs/faces-avb-d32-s3/").config
    assert default_run_dir(config) == tmp_path / "runs" / "faces-avb-d32-s3-further"
