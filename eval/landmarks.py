"""Fashion landmark detection: normalised error and PDJ of predicted points, on a catalogue that has landmarks.

    python -m eval landmarks --predictions dfa.csv --catalogue data/landmarks --split test --json dfa.json

Definitions in `eval.metrics.landmarks`: visible points only. Distances are divided by (width, height) of the picture,
or of the garment's box with `scale="box"`, for models that see pictures cut to the box. The two give different numbers:
look which one a published error means before it stands beside yours.

The result is that of `eval.predictions.head_of_file` and

    scale             picture or box
    metrics           error (mean over landmarks of the mean distance), error_pooled (over points), pdj@T
    landmarks {name: {"error", "pdj@T", "visible"}}
    curve             thresholds and PDJ over all points, 0 … 0.2
    baselines         mean_position: each landmark where it is on average in the train split
Predictions for invisible points, for landmarks that a picture does not have, and for other splits are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.landmarks import landmark_distances, pdj
from eval.metrics.means import known_mean, share
from eval.metrics.uncertainty import interval, ratio_samples
from eval.predictions import Points, head_of_file, match, read_points
from eval.scores import LEVEL, Score, score
from eval.subject import command, write_result
from fclip.errors import UserError, nearest
from fclip.files import writable

if TYPE_CHECKING:
    from datasets import Dataset

Array = NDArray[np.float64]
THRESHOLDS = (0.05, 0.1, 0.15, 0.2)
CURVE = tuple(n / 100 for n in range(21))
SCALES = ("picture", "box")


@dataclass(frozen=True)
class Truth:
    """N pictures with landmarks, L names in all."""

    names: tuple[str, ...]
    ids: list[str]
    items: list[str]
    points: Array  # (N, L, 2) in pixels
    visible: NDArray[np.bool_]  # (N, L)
    origin: Array  # (N, 2) of the frame that is 1 wide and 1 high
    size: Array  # (N, 2)
    without: int  # pictures left out: no landmarks, or nothing to scale by


def run_landmarks(
    predictions: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    split: str = "test",
    *,
    scale: str = "picture",
    out: str | Path | None = None,
    baselines: bool = True,
    catalogue_format: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures predicted landmarks; the result's layout is in the module's docstring.

    Args:
        predictions: a file for `eval.predictions.read_points`.
        catalogue, split, catalogue_format: as `eval.subject.open_subject`.
        scale: by what distances are divided: "picture" (its width and height) or "box" (that of the garment).
        out: the JSON file. None writes nothing.
        baselines: measure the mean positions of the train split too.
        bootstrap, seed: resamples of the products.

    Raises:
        UserError: the catalogue has no landmarks (or boxes), ids or landmarks do not match, or a path is not usable.
    """
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import select_split

    if scale not in SCALES:
        raise UserError(f"no scale {scale!r}; {nearest(scale, SCALES)}")
    target = None if out is None else writable(out)
    paths = [str(catalogue)] if isinstance(catalogue, (str, Path)) else [str(path) for path in catalogue]
    whole = open_catalogue(paths[0] if len(paths) == 1 else paths, format=catalogue_format)
    truth = read_truth(select_split(whole, split), scale)
    predicted = predicted_points(read_points(predictions), truth, whole["id"][:], str(predictions))
    measured, by_landmark, curve = measure(predicted, truth, bootstrap, seed)
    result = head_of_file("landmarks", predictions, paths, split, _counts(truth), bootstrap, seed)
    result |= {"scale": scale, "metrics": measured, "landmarks": by_landmark}
    result["curve"] = {"threshold": CURVE, "pdj": curve}
    if baselines:
        result["baselines"] = _baselines(whole, truth, split, scale, bootstrap, seed)
    options: dict[str, Any] = {"predictions": predictions, "catalogue": paths, "split": split, "scale": scale}
    options |= {"no-baselines": not baselines, "format": catalogue_format, "bootstrap": bootstrap, "seed": seed}
    result["command"] = command("landmarks", options | {"json": out})
    write_result(target, result)
    return result


def read_truth(pictures: Dataset, scale: str, names: Sequence[str] = ()) -> Truth:
    """The landmarks of a split.

    Args:
        pictures: the split.
        scale: picture or box.
        names: the order of the landmarks; those of the split when empty.

    Raises:
        UserError: there are none, or no boxes.
    """
    wanted = ["landmarks", *(["bbox"] if scale == "box" else [])]
    for column in wanted:
        if column not in pictures.column_names:
            raise UserError(f"the catalogue has no {column}; expected a benchmark of landmarks, such as "
                            "deepfashion-landmarks" + (", or --scale picture" if column == "bbox" else ""))  # fmt: skip
    cells = list(pictures.select_columns(["id", "item", "image", *wanted]))
    kept = [(cell, frame) for cell in cells if cell["landmarks"] and (frame := _frame(cell, scale))]
    if not kept:
        raise UserError(f"none of {len(cells)} pictures has landmarks and a {scale} to scale by; check the split")
    names = tuple(names) or tuple(dict.fromkeys(mark["name"] for cell, _ in kept for mark in cell["landmarks"]))
    place = {name: n for n, name in enumerate(names)}
    points, visible = np.zeros((len(kept), len(names), 2)), np.zeros((len(kept), len(names)), bool)
    for row, (cell, _) in enumerate(kept):
        for mark in (mark for mark in cell["landmarks"] if mark["visible"] and mark["name"] in place):
            points[row, place[mark["name"]]] = mark["x"], mark["y"]
            visible[row, place[mark["name"]]] = True
    ids, items = ([str(cell[column]) for cell, _ in kept] for column in ("id", "item"))
    frames = np.array([frame for _, frame in kept], np.float64)
    return Truth(names, ids, items, points, visible, frames[:, :2], frames[:, 2:], len(cells) - len(kept))


def _frame(cell: Mapping[str, Any], scale: str) -> tuple[float, float, float, float] | None:
    """x, y, width, height of what distances are divided by; None where it is not known."""
    if scale == "box":
        x1, y1, x2, y2 = cell["bbox"] or (0, 0, 0, 0)
        return (x1, y1, x2 - x1, y2 - y1) if x2 > x1 and y2 > y1 else None
    from fclip.images import UnreadableImageError, decode

    try:
        return (0, 0, *decode(cell["image"]).size)
    except UnreadableImageError:
        return None


def predicted_points(found: Points, truth: Truth, known: Sequence[str], file: str) -> Array:
    """(N, L, 2) the predictions in the order of the truth, 0 where the point is not visible.

    Raises:
        UserError: a picture or a visible landmark has no prediction, or ids or names are nothing of the catalogue.
    """
    match(list(found), truth.ids, known, file)
    strange = sorted({name for id_ in truth.ids for name in found[id_]} - set(truth.names))
    if strange:
        raise UserError(f"{file}: no landmark {strange[0]!r} in the catalogue; {nearest(strange[0], truth.names)}")
    predicted = np.zeros(truth.points.shape)
    missing = [(truth.ids[row], truth.names[mark]) for row, mark in np.argwhere(truth.visible)
               if truth.names[mark] not in found[truth.ids[row]]]  # fmt: skip
    if missing:
        id_, name = missing[0]
        raise UserError(f"{file}: {len(missing)} visible landmarks have no prediction; the first: {name} of {id_}")
    for row, mark in np.argwhere(truth.visible):
        predicted[row, mark] = found[truth.ids[row]][truth.names[mark]]
    return predicted


def measure(
    predicted: Array, truth: Truth, resamples: int, seed: int
) -> tuple[dict[str, Score], dict[str, Any], list[float | None]]:
    """Scores, scores of each landmark, and the PDJ curve of predictions (N, L, 2)."""
    far = landmark_distances(predicted, truth.points, truth.visible, truth.size)
    n_landmarks, known = far.shape[1], ~np.isnan(far)
    within = [(far <= limit).astype(np.float64) for limit in THRESHOLDS]  # nan is not within
    columns = [np.where(known, far, 0), *within]
    part = np.concatenate([*columns, *(column.sum(1, keepdims=True) for column in columns)], axis=1)
    whole = np.concatenate([*[known] * len(columns), *[known.sum(1, keepdims=True)] * len(columns)], axis=1)
    whole = whole.astype(np.float64)
    samples = ratio_samples(part, whole, truth.items, resamples, seed)

    def with_mean(ratios: Array) -> Array:
        return np.column_stack([ratios, known_mean(ratios[:, :n_landmarks])])

    values = with_mean(share(part.sum(0), whole.sum(0))[None])[0]
    scored = [score(*row) for row in zip(values, *interval(with_mean(samples), LEVEL), strict=True)]
    names = ["error", *(f"pdj@{limit}" for limit in THRESHOLDS)]
    by_landmark = {
        name: {key: scored[n * n_landmarks + mark] for n, key in enumerate(names)}
        | {"visible": int(known[:, mark].sum())}
        for mark, name in enumerate(truth.names)
    }
    pooled = dict(zip(["error_pooled", *names[1:]], scored[n_landmarks * len(names) :], strict=False))
    curve = [None if np.isnan(value) else round(float(value), 6) for value in pdj(far, CURVE)["all"]]
    return {"error": scored[-1]} | pooled, by_landmark, curve


def _baselines(whole: Dataset, truth: Truth, split: str, scale: str, resamples: int, seed: int) -> dict[str, Any]:
    """Each landmark at its mean place in the train split's frames."""
    from fclip.catalogue.schema import select_split

    if "train" not in whole["split"][:]:
        return {"left_out": {"mean_position": "there is no train split"}}
    train = truth if split == "train" else read_truth(select_split(whole, "train"), scale, truth.names)
    inside = (train.points - train.origin[:, None]) / train.size[:, None]
    mean = share(np.where(train.visible[..., None], inside, 0).sum(0), train.visible.sum(0)[:, None])  # (L, 2)
    mean = np.where(np.isnan(mean), 0.5, mean)  # never visible in training: the middle
    predicted = mean[None] * truth.size[:, None] + truth.origin[:, None]
    return {"mean_position": measure(predicted, truth, resamples, seed)[0], "left_out": {}}


def _counts(truth: Truth) -> dict[str, int]:
    return {
        "pictures": len(truth.ids),
        "products": len(set(truth.items)),
        "landmarks": len(truth.names),
        "visible": int(truth.visible.sum()),
        "without_landmarks": truth.without,
    }
