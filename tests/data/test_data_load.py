import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from test_data_helpers import assert_refused

UNKNOWN = (
    "is neither a known data set nor an existing folder: expected digits, mnist, fashion-mnist, "
    "a .npy or .npz file, or a folder of images (.png, .jpg, .jpeg, .bmp, .pgm, .gif, .tif)"
)


class BadName(NamedTuple):
    name: str
    message: str


BAD = [
    BadName("minst", f"'minst' {UNKNOWN}; did you mean 'mnist'?"),
    BadName("FashionMNIST", f"'FashionMNIST' {UNKNOWN}; did you mean 'fashion-mnist'?"),
    BadName("digit", f"'digit' {UNKNOWN}; did you mean 'digits'?"),
    BadName("faces/", f"'faces/' {UNKNOWN}."),
    BadName("", f"'' {UNKNOWN}."),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_unknown_name_lists_what_is_accepted(bad: BadName, tmp_path: Path):
    assert_refused(bad.message, tmp_path, bad.name)


@pytest.mark.parametrize("name", ["digits", "x.npy"])
def test_data_dir_is_refused_where_it_has_no_use(name: str, tmp_path: Path):
    message = (
        "data_dir (--data-dir) is for mnist and fashion-mnist only, got {dir} with "
        f"{name!r}; leave it out."
    )
    assert_refused(message, tmp_path, name, tmp_path)


def test_import_brings_in_no_heavy_library():
    program = (
        "import sys, avb.data; "
        "print(sorted({'jax', 'sklearn', 'PIL', 'scipy'} & {m.split('.')[0] for m in sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
