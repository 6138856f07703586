"""What somebody else's model said, from a file: scores of classes and attributes, or landmarks. No pickle.

    read_scores("fashionnet.csv")         id,category:Blouse,category:Dress,texture:floral,…  then one row a picture
    read_scores("fashionnet.json")        {"id": […], "columns": ["category:Blouse", …], "scores": [[…], …]}
    read_scores("fashionnet.npz")         arrays id (N,), columns (C,), scores (N, C)
    read_points("landmarks.csv")          id,landmark,x,y  then one row a landmark, in pixels of the picture
    read_points("landmarks.json")         [{"id": …, "landmark": …, "x": …, "y": …}, …]

A higher score is better; only their order within a group counts. A result of such a file has the file's name as that of
its model, and the file's checksum as the fingerprint.
"""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.scores import LEVEL
from eval.subject import SCHEMA
from fclip.errors import UserError, nearest
from fclip.files import read_json, sha256

SHOWN = 3  # ids that a message names
Points = dict[str, dict[str, tuple[float, float]]]
"""id → landmark → x, y in pixels."""


@dataclass(frozen=True)
class Scores:
    """Scores of N pictures in C columns, "group:value"."""

    file: str
    ids: list[str]
    columns: list[str]
    scores: NDArray[np.floating[Any]]  # (N, C) finite


def read_scores(file: str | Path) -> Scores:
    """Reads scores, see the module's docstring.

    Raises:
        UserError: no such file, of another layout, ids or columns named twice, or a score that is no finite number.
    """
    path = Path(file)
    readers = {".csv": _scores_csv, ".json": _scores_json, ".npz": _scores_npz}
    if not path.is_file():
        raise UserError(f"no such file: {path}; expected predictions, {', '.join(readers)}")
    if path.suffix.lower() not in readers:
        raise UserError(f"expected predictions in {', '.join(readers)}, got {path}")
    ids, columns, values = readers[path.suffix.lower()](path)
    if values.shape != (len(ids), len(columns)):
        raise UserError(f"{path}: expected scores ({len(ids)}, {len(columns)}), ids by columns, got {values.shape}")
    for what, names in (("id", ids), ("column", columns)):
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise UserError(f"{path}: {what} {twice[0]!r} occurs twice; every {what} once")
    if not (finite := np.isfinite(values)).all():
        row, column = np.argwhere(~finite)[0]
        raise UserError(f"{path}: the score of {columns[column]} for {ids[row]} is no finite number; predict again")
    return Scores(str(path), ids, columns, values)


def _scores_csv(path: Path) -> tuple[list[str], list[str], NDArray[Any]]:
    rows = _csv(path)
    _, header = next(rows, (1, [""]))
    if header[0] != "id":
        raise UserError(f"{path}, line 1: expected id and columns such as texture:floral, got {header[0]!r}")
    ids, values = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: expected {len(header)} fields, got {len(row)}")
        ids.append(row[0])
        values.append(_floats(row[1:], f"{path}, line {line}"))
    return ids, header[1:], np.array(values, np.float64).reshape(len(ids), -1)


def _scores_json(path: Path) -> tuple[list[str], list[str], NDArray[Any]]:
    known = read_json(path, "predictions")
    if not isinstance(known, dict) or not all(isinstance(known.get(key), list) for key in ("id", "columns", "scores")):
        raise UserError(f'{path}: expected {{"id": […], "columns": […], "scores": [[…], …]}}')
    rows = [_floats(row, f"{path}, scores of {n}") for n, row in zip(known["id"], known["scores"], strict=False)]
    if len(known["scores"]) != len(known["id"]) or {len(row) for row in rows} - {len(known["columns"])}:
        raise UserError(f"{path}: expected one row of {len(known['columns'])} scores for each of "
                        f"{len(known['id'])} ids, got {len(known['scores'])} rows; predict again")  # fmt: skip
    return [str(n) for n in known["id"]], [str(c) for c in known["columns"]], np.array(rows).reshape(len(rows), -1)


def _scores_npz(path: Path) -> tuple[list[str], list[str], NDArray[Any]]:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            ids, columns, values = (np.asarray(file[name]) for name in ("id", "columns", "scores"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: expected arrays id, columns (text) and scores, without pickle: {error}") from None
    if ids.dtype.kind not in "USiu" or columns.dtype.kind != "U" or values.dtype.kind not in "fiu":
        raise UserError(f"{path}: expected ids and columns as text and scores as numbers, got {ids.dtype}, "
                        f"{columns.dtype}, {values.dtype}")  # fmt: skip
    texts = ids.astype(str) if ids.dtype.kind != "S" else np.char.decode(ids, "utf-8")
    return texts.ravel().tolist(), columns.ravel().tolist(), values


def read_points(file: str | Path) -> Points:
    """Reads landmarks, see the module's docstring.

    Raises:
        UserError: no such file, of another layout, a landmark named twice, or a coordinate that is no finite number.
    """
    path, points = Path(file), Points()
    if path.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"expected landmarks in .csv or .json, got {path}")
    for where, row in _points_csv(path) if path.suffix.lower() == ".csv" else _points_json(path):
        x, y = _floats([row["x"], row["y"]], where)
        if not np.isfinite([x, y]).all():
            raise UserError(f"{where}: expected finite coordinates, got {x}, {y}")
        own = points.setdefault(str(row["id"]), {})
        if str(row["landmark"]) in own:
            raise UserError(f"{where}: landmark {row['landmark']} of {row['id']} occurs twice; predict it once")
        own[str(row["landmark"])] = (x, y)
    return points


def _points_csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    rows, names = _csv(path), ("id", "landmark", "x", "y")
    _, header = next(rows, (1, []))
    if missing := [name for name in names if name not in header]:
        raise UserError(f"{path}, line 1: expected columns {', '.join(names)}, {missing[0]} is missing")
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: expected {len(header)} fields, got {len(row)}")
        yield f"{path}, line {line}", dict(zip(header, row, strict=True))


def _points_json(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    rows = read_json(path, "landmarks")
    for n, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        if not isinstance(row, dict) or not {"id", "landmark", "x", "y"} <= row.keys():
            raise UserError(f'{path}, entry {n}: expected {{"id": …, "landmark": …, "x": …, "y": …}}')
        yield f"{path}, entry {n}", row


def match(found: Sequence[str], wanted: Sequence[str], known: Iterable[str], file: str) -> NDArray[np.int64]:
    """(N,) the place among the ids found of every id wanted.

    Args:
        found: ids of the predictions.
        wanted: (N,) ids that are measured.
        known: ids of the whole catalogue: predictions for its other splits are passed over.
        file: for the message.

    Raises:
        UserError: ids are missing, or nothing of the catalogue; names the first ones.
    """
    places = {name: n for n, name in enumerate(found)}
    if missing := [name for name in wanted if name not in places]:
        raise UserError(f"{file}: no prediction for {len(missing)} of {len(wanted)} pictures: {_first(missing)}")
    known = set(known)
    if strange := [name for name in found if name not in known]:
        raise UserError(f"{file}: {len(strange)} ids are not in the catalogue: {_first(strange)}; "
                        f"{nearest(strange[0], list(wanted)[:SHOWN])}")  # fmt: skip
    return np.array([places[name] for name in wanted], np.int64)


def head_of_file(
    protocol: str,
    file: str | Path,
    catalogue: Sequence[str],
    split: str,
    counts: Mapping[str, Any],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """As `eval.subject.head`, where the model is a file of predictions."""
    return {
        "schema": SCHEMA,
        "protocol": protocol,
        "model": {"name": Path(file).stem, "fingerprint": sha256(Path(file))},
        "predictions": str(file),
        "catalogue": list(catalogue),
        "split": split,
        "counts": dict(counts),
        "bootstrap": {"resamples": resamples, "seed": seed, "level": LEVEL, "unit": "product"},
    }


def _csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields; blank lines are passed over."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream)
            yield from ((rows.line_num, row) for row in rows if row)
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _floats(values: Sequence[Any], where: str) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        raise UserError(f"{where}: expected numbers, got {str(values)[:40]}") from None


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", …" * (len(names) > SHOWN)
