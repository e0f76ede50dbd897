"""config.json: the configuration, and what the data decided."""

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from avb._architecture import Architecture
from avb._errors import ConfigError, RunError
from avb.data import Dataset
from avb.runs._config import RunConfig, config_from_json
from avb.runs._folder import CONFIG, write_json
from avb.runs._prepare import HELD_OUT_SEEDS, Resolved

FORMAT = 17
# Format 7 lacks the sizes of the noise network, 8 its reach, 9 the number of importance samples,
# which were then the defaults, 10 the critic's final rate, which was then the model's, 11 the
# number of draws that go back, which was all, 12 the channels, which were the default, 13 the run
# to start from, which was none, 14 the prior, which was normal, 15 Hamiltonian transitions, of
# which there were none, and 16 priors that are kept.
READABLE = range(7, FORMAT + 1)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """All that ``config.json`` holds.

    Attributes:
        config: The configuration.
        resolved: What the data decided.
        data: Name, fingerprint, dtype, sizes and provenance of the data set.
        avb: The version of this library that began the run.
        start_step: Steps taken then by the run that this one starts from, if it does.
        prior_gain: What a flow fitted to that run's posterior gained in ELBO, on data that it was
            not fitted to, and the standard error over them, in nats per datum.
    """

    config: RunConfig
    resolved: Resolved
    data: dict[str, Any]
    avb: str
    start_step: int | None = None
    prior_gain: tuple[float, float] | None = None

    @classmethod
    def of(cls, config: RunConfig, resolved: Resolved, dataset: Dataset) -> "RunRecord":
        """The record of a run that begins now."""
        data = {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "dtype": str(dataset.train.dtype),
            "sizes": {split: len(getattr(dataset, split)) for split in HELD_OUT_SEEDS},
            "binarisation_seeds": HELD_OUT_SEEDS if resolved.values == "binary" else None,
            "provenance": {k: v for k, v in dataset.provenance.items() if k != "sizes"},
        }
        return cls(config, resolved, data, version("avb"))

    @property
    def architecture(self) -> Architecture:
        """The networks."""
        return self.config.architecture(**vars(self.resolved))


def write_record(folder: Path, record: RunRecord) -> None:
    """Write ``config.json``, whole or not at all."""
    values = dataclasses.asdict(record)
    write_json(folder / CONFIG, {"format": FORMAT, "avb": values.pop("avb"), **values})


def read_record(folder: Path) -> RunRecord:
    """Read ``config.json``.

    Raises:
        RunError: No run is here, or it is half-written, damaged or of another format.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder: expected a run that 'avb train' began")
    document = _read_document(folder / CONFIG)
    if document.get("format") not in READABLE:
        raise RunError(
            f"{folder} was written in format {document.get('format')} by avb "
            f"{document.get('avb')}: expected format {READABLE[0]} to {FORMAT}; use that version "
            "of avb, or train again into another folder"
        )
    try:
        resolved, gain = document["resolved"], document.get("prior_gain")
        return RunRecord(
            config=config_from_json(_completed(document["config"])),
            resolved=Resolved(**{**resolved, "data_shape": tuple(resolved["data_shape"])}),
            data=document["data"],
            avb=document["avb"],
            start_step=document.get("start_step"),
            prior_gain=gain and tuple(gain),
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise RunError(
            f"{folder / CONFIG} is damaged ({error}): restore it from a copy, or train again into "
            "another folder"
        ) from error


def expect_same_networks(record: RunRecord, start: Path) -> None:
    """Refuse to start from a run whose networks do not fit.

    Raises:
        RunError: With what differs; or no run is there.
    """
    ours, theirs = (_networks(each) for each in (record, read_record(start)))
    if record.config.prior == "flow":
        # It is fitted anew, whatever the other's prior.
        del ours["prior"]
    differing = [
        f"{name}: expected {ours[name]}, got {theirs[name]}"
        for name in ours
        if ours[name] != theirs[name]
    ]
    if differing:
        raise RunError(
            f"start_from: {start} has other networks ({'; '.join(differing)}): start from a run "
            "of the same method and networks, or train one with its settings"
        )


def _networks(record: RunRecord) -> dict[str, Any]:
    """All that the shapes of the parameters follow from."""
    config = record.config
    values = {
        "method": config.method,
        "prior": "flow" if config.has_flow_prior else "normal",
        **dataclasses.asdict(record.architecture),
    }
    return {name: values[name] for name in values if not name.startswith("input_")}


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    fit = config["fit"]
    return {**config, "fit": {"critic_final_rate": fit["final_rate"], **fit}}


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{path.parent} has no {CONFIG}: it is no run, or one that was stopped before it "
            "began; train again, after deleting it if it is not empty"
        ) from error
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    except ValueError as error:
        raise RunError(
            f"{path} is damaged (no valid JSON: {error}): restore it from a copy, or train again "
            "into another folder"
        ) from error
    if not isinstance(document, dict):
        raise RunError(
            f"{path} is damaged (expected a JSON object, got {type(document).__name__}): restore "
            "it from a copy, or train again into another folder"
        )
    return document
