"""What a protocol measures: a model on a split of a catalogue; and the head and scores that all results share.

    subject = open_subject("runs/plain", ["data/catalogue"], "val")
    images = embed_images(subject.model, subject.pictures)
    result = head("retrieval", subject, counts) | {"metrics": mean_scores(values, items)}

Results are plain JSON: schema, protocol, model {name, fingerprint}, checkpoint, catalogue, split, command, counts,
bootstrap {resamples, seed, level, unit}, metrics {name: {"value", "low", "high"}}, baselines {name: metrics}.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import known_mean
from eval.metrics.uncertainty import interval, ratio_samples
from eval.scores import LEVEL, Score, score

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.embedding import ImageEmbeddings
    from fclip.model import Model

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
    import torch

    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import groups_of, select_split
    from fclip.pretrained import open_model

    paths = [str(catalogue)] if isinstance(catalogue, (str, Path)) else [str(path) for path in catalogue]
    whole = open_catalogue(paths[0] if len(paths) == 1 else paths, format=catalogue_format)
    pictures = select_split(whole, split)
    model = open_model(checkpoint, groups_of(whole))
    return Subject(
        model.to("cuda") if torch.cuda.is_available() else model, whole, pictures, str(checkpoint), paths, split
    )


def embed_images(model: Model, pictures: Dataset, *, batch_size: int = 64, progress: bool = False) -> ImageEmbeddings:
    """Unit vectors of the pictures that can be read, and who cannot."""
    from fclip.embedding import embed_catalogue

    return embed_catalogue(model, pictures, batch_size=batch_size, progress=progress)


def embed_texts(model: Model, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of texts (N, D)."""
    from fclip.embedding import embed_texts as embed

    return embed(model, texts)


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
