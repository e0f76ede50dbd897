"""The record of where a data set came from."""

from collections.abc import Sequence
from typing import Any

from avb.data._files import FileRecord
from avb.data._splits import Splits


def describe(
    *, source: str, files: Sequence[FileRecord], rule: str, splits: Splits
) -> dict[str, Any]:
    """Builds the provenance of a data set, as values that JSON can hold.

    Args:
        source: What the data are, in words.
        files: The files they were read from.
        rule: How they were split, in words.
        splits: The splits, for their sizes.
    """
    return {
        "source": source,
        "files": list(files),
        "split": rule,
        "sizes": {split: len(array) for split, array in splits._asdict().items()},
    }
