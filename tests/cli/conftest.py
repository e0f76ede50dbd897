from pathlib import Path

import pytest

from avb.cli import main


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A complete tiny run that the command line made."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = "--method sivi --latent-dim 2 --width 8 --depth 1 --epochs 2"
    assert main(["train", "digits", "--run-dir", str(folder), *settings.split()]) == 0
    return folder
