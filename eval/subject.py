"""What a protocol measures: a model on a split of a catalogue; and the head and scores that all results share.

    subject = open_subject("runs/plain", ["data/catalogue"], "val")
    images = embed_images(subject.model, subject.pictures)
    result = head("retrieval", subject, counts) | {"metrics": mean_scores(values, items)}

Results are plain JSON: schema, protocol, model {name, fingerprint}, checkpoint, catalogue, split, command, counts,
bootstrap {resamples, seed, level, unit}, metrics {name: {"value", "low", "high"}}, baselines {name: metrics}.
Under `torchrun` every process computes the same result; `write_result` writes that of the main one.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.encoding import embed_images, embed_texts
from eval.metrics.means import known_mean
from eval.metrics.uncertainty import interval, ratio_samples
from eval.scores import LEVEL, Score, score
from fclip.processes import is_main, on_device

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.model import Model

__all__ = [
    "SCHEMA",
    "Subject",
    "command",
    "embed_images",
    "embed_texts",
    "head",
    "mean_scores",
    "open_subject",
    "write_result",
]

SCHEMA = 1


@dataclass(frozen=True)
class Subject:
    """A model, a whole catalogue, and the split of it that is measured."""

    model: Model
    whole: Dataset
    pictures: Dataset
    checkpoint: str
    catalogue: list[str]
    split: str


def open_subject(
    checkpoint: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    split: str,
    catalogue_format: str | None = None,
) -> Subject:
    """Opens the catalogue first: a mistyped split is told before the model is loaded.

    Args:
        checkpoint: a checkpoint's folder, or what else `fclip.pretrained.open_model` knows: "fashionclip".
        catalogue: one or several catalogues.
        split: train, val, test, query, gallery or all.
        catalogue_format: of the catalogues, recognised when None.

    Raises:
        UserError: the checkpoint, catalogue or split is not usable.
    """
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.kinds import word_groups
    from fclip.catalogue.schema import select_split
    from fclip.pretrained import open_model

    paths = [str(catalogue)] if isinstance(catalogue, (str, Path)) else [str(path) for path in catalogue]
    whole = open_catalogue(paths[0] if len(paths) == 1 else paths, format=catalogue_format)
    pictures = select_split(whole, split)
    model = open_model(checkpoint, word_groups(whole))
    return Subject(on_device(model), whole, pictures, str(checkpoint), paths, split)


def write_result(file: str | Path | None, result: Mapping[str, Any]) -> None:
    """Writes a result as one line of JSON, whole or not at all: the main process does, where a file is named."""
    from fclip.files import write_json

    if file is not None and is_main():
        write_json(file, dict(result), indent=None)


def head(
    protocol: str, subject: Subject, counts: Mapping[str, Any], resamples: int, seed: int, unit: str = "product"
) -> dict[str, Any]:
    """What a result says of itself besides its scores."""
    return {
        "schema": SCHEMA,
        "protocol": protocol,
        "model": {"name": subject.model.name, "fingerprint": subject.model.fingerprint},
        "checkpoint": subject.checkpoint,
        "catalogue": subject.catalogue,
        "split": subject.split,
        "counts": dict(counts),
        "bootstrap": {"resamples": resamples, "seed": seed, "level": LEVEL, "unit": unit},
    }


def mean_scores(
    values: Mapping[str, NDArray[Any]], items: Sequence[str], resamples: int = 1000, seed: int = 0
) -> dict[str, Score]:
    """Means over queries (N,), nan where a query does not count, with intervals that resample their items."""
    columns = np.stack([np.asarray(v, np.float64) for v in values.values()], 1)
    known = ~np.isnan(columns)
    samples = ratio_samples(np.where(known, columns, 0), known.astype(np.float64), items, resamples, seed)
    low, high = interval(samples, LEVEL)
    return {name: score(*row) for name, *row in zip(values, known_mean(columns.T), low, high, strict=True)}


def command(protocol: str, options: Mapping[str, Any]) -> str:
    """The line that measures the same again; a list is an option given several times, True one without a value."""
    words = ["python", "-m", "eval", protocol]
    for name, value in options.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        for one in (v for v in values if v is not None and v is not False):
            words += [f"--{name}"] if one is True else [f"--{name}", str(one)]
    return shlex.join(words)
