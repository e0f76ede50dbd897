"""Data sets that are published as MNIST is: two IDX files of images in one folder."""

from pathlib import Path

from avb._errors import DataError
from avb.data._dataset import Dataset
from avb.data._files import list_folder, record_file
from avb.data._idx import read_idx_images
from avb.data._provenance import describe
from avb.data._splits import SIXTH_RULE, hold_out_last_sixth

MNIST_NAMES = ("mnist", "fashion-mnist")

_EXPECTED = "train-images-idx3-ubyte and t10k-images-idx3-ubyte, plain or gzipped (.gz)"


def load_mnist(name: str, folder: Path | None) -> Dataset:
    """Loads one of `MNIST_NAMES` from the folder that holds its files."""
    if folder is None:
        raise DataError(
            f"{name} needs data_dir (--data-dir): the folder that holds {_EXPECTED}; got none."
        )
    train_path, test_path = (_find_images(folder, part) for part in ("train", "t10k"))
    train, test = read_idx_images(train_path), read_idx_images(test_path)
    splits = hold_out_last_sixth(train, test, label=str(train_path))
    provenance = describe(
        source=f"{name}, IDX files in {folder}",
        files=[record_file(train_path), record_file(test_path)],
        rule=SIXTH_RULE,
        splits=splits,
    )
    return Dataset(name, *splits, provenance)


def _find_images(folder: Path, part: str) -> Path:
    present = list_folder(folder)
    for spelling in (f"{part}-images-idx3-ubyte", f"{part}-images.idx3-ubyte"):
        for candidate in (spelling, f"{spelling}.gz"):
            if candidate in present:
                return folder / candidate
    raise DataError(
        f"{folder} holds no {part}-images-idx3-ubyte[.gz]: expected {_EXPECTED}; "
        "download what is missing, or correct data_dir (--data-dir)."
    )
