"""Data sets by name or path."""

import os
from difflib import get_close_matches
from pathlib import Path

from avb._errors import DataError
from avb.data._arrays import ARRAY_SUFFIXES, load_array_file
from avb.data._dataset import Dataset
from avb.data._digits import load_digits
from avb.data._files import is_folder
from avb.data._images import IMAGE_SUFFIXES, load_image_folder
from avb.data._mnist import MNIST_NAMES, load_mnist

_NAMES = ("digits", *MNIST_NAMES)


def load_dataset(name: str | os.PathLike, *, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Loads a data set by its name, or from a file or folder.

    Args:
        name: `"digits"`, `"mnist"`, `"fashion-mnist"`, or the path of a .npy file, a .npz
            file or a folder of images.
        data_dir: The folder of the IDX files, for `"mnist"` and `"fashion-mnist"` only.

    Returns:
        The data set, split into train, validation and test.

    Raises:
        DataError: If the name is unknown or the data cannot be used.
    """
    name = os.fspath(name)
    if name in MNIST_NAMES:
        return load_mnist(name, None if data_dir is None else Path(data_dir))
    if data_dir is not None:
        raise DataError(
            f"data_dir (--data-dir) is for {' and '.join(MNIST_NAMES)} only, got {data_dir} "
            f"with {name!r}; leave it out."
        )
    if name == "digits":
        return load_digits()
    path = Path(name)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return load_array_file(path)
    # An empty name would be the current folder.
    if name and is_folder(path):
        return load_image_folder(path)
    raise DataError(_unknown(name))


def _unknown(name: str) -> str:
    message = (
        f"{name!r} is neither a known data set nor an existing folder: expected "
        f"{', '.join(_NAMES)}, a {' or '.join(ARRAY_SUFFIXES)} file, "
        f"or a folder of images ({', '.join(IMAGE_SUFFIXES)})"
    )
    closest = get_close_matches(name.lower(), _NAMES, n=1)
    return f"{message}; did you mean {closest[0]!r}?" if closest else f"{message}."
