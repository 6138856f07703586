"""DeepFashion, Category and Attribute Prediction: 289,222 pictures (coarse), or 20,000 with 26 attributes (fine).

Source: Liu et al., "DeepFashion", CVPR 2016, http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html

    fclip catalogue data/deepfashion --format deepfashion-fine

A product is a folder of pictures (`img/Sheer_Pleated-Front_Blouse/`), since the benchmark names no products; its own
splits are kept. Category ids count from 1. A landmark is 0 visible, 1 occluded, 2 cut off: only 0 is visible here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fclip.catalogue.assemble import assemble
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

# The 26 fine attributes in the order of the files: group → (words for captions). None: the garment has no such part.
FINE: dict[str, tuple[str | None, ...]] = {
    "pattern": ("floral", "graphic", "striped", "embroidered", "pleated", "solid", "lattice"),
    "sleeve": ("long sleeve", "short sleeve", "sleeveless"),
    "length": ("maxi", "mini", None),
    "neckline": ("crew", "v-shaped", "square", None),
    "fabric": ("denim", "chiffon", "cotton", "leather", "faux", "knit"),
    "fit": ("tight", "loose", "conventional"),
}
COARSE = ("texture", "fabric", "shape", "part", "style")  # attribute types 1 to 5 of list_attr_cloth.txt
PARTS = ("collar", "sleeve", "waistline", "hem")
FULL = tuple(f"{side} {part}" for part in PARTS for side in ("left", "right"))
LANDMARKS = {  # by clothes type: 1 upper body, 2 lower body, 3 full body
    1: tuple(name for name in FULL if "waistline" not in name),
    2: tuple(name for name in FULL if "waistline" in name or "hem" in name),
    3: FULL,
}


def open_fine(source: str | Path) -> Dataset:
    """Opens the fine annotation: `Anno_fine/{train,val,test}.txt` and, row by row beside them, `_attr`, `_cate`, ….

    Raises:
        UserError: a file is missing, or two of them differ in their number of rows.
    """
    root = Path(source)
    columns: dict[str, list[Any]] = {}
    for split in ("train", "val", "test"):
        if (root / "Anno_fine" / f"{split}.txt").is_file():
            for name, values in _fine_split(root / "Anno_fine", split).items():
                columns.setdefault(name, []).extend(values)
    if not columns:
        raise UserError(f"no pictures listed in {root / 'Anno_fine'}; expected train.txt, val.txt and test.txt")
    flags = np.array(columns.pop("attr"))
    return _build(root, columns, _fine_attributes(flags))


def _fine_split(folder: Path, split: str) -> dict[str, list[Any]]:
    names = (folder / f"{split}.txt").read_text().split()
    columns: dict[str, list[Any]] = {"name": names, "split": [split] * len(names)}
    attr = _aligned(folder / f"{split}_attr.txt", len(names), split)
    lengths = {len(row) for row in attr} - {26}
    if lengths:
        raise UserError(
            f"{folder / f'{split}_attr.txt'}: expected 26 labels a row, got {min(lengths)}; unpack it again"
        )
    columns["attr"] = [[token == "1" for token in row] for row in attr]
    categories = _category_names(folder)
    if categories and (folder / f"{split}_cate.txt").is_file():
        columns["category"] = [
            _category(row[0], categories) for row in _aligned(folder / f"{split}_cate.txt", len(names), split)
        ]
    if (folder / f"{split}_bbox.txt").is_file():
        columns["bbox"] = [_floats(row) for row in _aligned(folder / f"{split}_bbox.txt", len(names), split)]
    if (folder / f"{split}_landmarks.txt").is_file():
        rows = _aligned(folder / f"{split}_landmarks.txt", len(names), split)
        columns["landmarks"] = [landmarks(row) for row in rows]
    return columns


def _aligned(path: Path, count: int, split: str) -> list[list[str]]:
    """The rows of a file that must have one for every line of `<split>.txt`."""
    rows = [line.split() for line in _text(path).splitlines() if line.strip()]
    if len(rows) != count:
        raise UserError(f"{split}.txt has {count} rows but {path.name} has {len(rows)}; unpack {path.parent} again")
    return rows


def _fine_attributes(flags: np.ndarray) -> dict[str, list[str | None]]:
    """(N, 26) flags → group → one word a picture, the first flag if several are set."""
    groups, start = {}, 0
    for group, words in FINE.items():
        part = flags[:, start : start + len(words)]
        first = np.where(part.any(axis=1), part.argmax(axis=1), -1)
        groups[group] = [words[i] if i >= 0 else None for i in first]
        start += len(words)
    return groups


def open_coarse(source: str | Path) -> Dataset:
    """Opens the coarse annotation: `Anno_coarse/` or `Anno/`, with the splits of `Eval/list_eval_partition.txt`.

    Attributes are lists: empty where all are labelled absent, None where the picture has no labels.

    Raises:
        UserError: a file is missing or cut off.
    """
    root = Path(source)
    anno = root / ("Anno_coarse" if (root / "Anno_coarse").is_dir() else "Anno")
    partition = [line.split() for line in _listing(root / "Eval" / "list_eval_partition.txt")]
    columns: dict[str, list[Any]] = {"name": [row[0] for row in partition], "split": [row[1] for row in partition]}
    names, categories = columns["name"], _category_names(anno)
    category = {n: _category(i, categories) for n, i in (r.split() for r in _listing(anno / "list_category_img.txt"))}
    columns["category"] = [category.get(n) for n in names]
    for column, file, parse in (("bbox", "list_bbox.txt", _floats), ("landmarks", "list_landmarks.txt", landmarks)):
        if (anno / file).is_file():
            known = {tokens[0]: parse(tokens[1:]) for tokens in map(str.split, _listing(anno / file))}
            columns[column] = [known.get(n) for n in names]
    return _build(root, columns, _coarse_attributes(anno, names))


def _coarse_attributes(anno: Path, names: Sequence[str]) -> dict[str, list[list[str] | None]]:
    """Group → per picture the attributes labelled 1 (-1 is absent, 0 unknown)."""
    kinds = [line.rsplit(None, 1) for line in _listing(anno / "list_attr_cloth.txt")]  # names hold spaces
    words, types = [name.strip() for name, _ in kinds], np.array([int(kind) for _, kind in kinds])
    labels: dict[str, list[list[str] | None]] = {}
    for line in _listing(anno / "list_attr_img.txt"):
        name, _, rest = line.partition(" ")
        flags = np.array(rest.split(), np.int8)
        if len(flags) != len(words):
            raise UserError(
                f"list_attr_img.txt, {name}: expected {len(words)} labels, got {len(flags)}; unpack it again"
            )
        labels[name] = [
            [words[i] for i in np.flatnonzero((types == kind) & (flags == 1))] if flags[types == kind].any() else None
            for kind in range(1, 6)
        ]
    unknown: list[list[str] | None] = [None] * len(COARSE)
    return {group: [labels.get(n, unknown)[k] for n in names] for k, group in enumerate(COARSE)}


def landmarks(tokens: Sequence[str]) -> list[dict[str, Any]]:
    """Parses one row of landmarks; which columns there are follows from the number of tokens.

    Args:
        tokens: 8 pairs x y of the fine files, where 0 0 is not visible; or clothes type, in some releases variation
            type, then visibility x y of 6, 4 or 8 landmarks.

    Raises:
        UserError: no layout has that many tokens.
    """
    values = [int(float(token)) for token in tokens]
    if len(values) == 2 * len(FULL):
        pairs = zip(values[::2], values[1::2], strict=True)
        return [_landmark(name, x, y, (x, y) != (0, 0)) for name, (x, y) in zip(FULL, pairs, strict=True)]
    names = LANDMARKS.get(values[0] if values else 0, ())
    start = len(values) - 3 * len(names)
    if not names or start not in (1, 2):
        raise UserError(
            f"a row of landmarks has {len(values)} numbers, which no release of DeepFashion has; unpack it again"
        )
    triples = [values[i : i + 3] for i in range(start, len(values), 3)]
    return [_landmark(name, x, y, flag == 0) for name, (flag, x, y) in zip(names, triples, strict=True)]


def _landmark(name: str, x: int, y: int, visible: bool) -> dict[str, Any]:
    return {"name": name, "x": x, "y": y, "visible": visible}


def _build(root: Path, columns: dict[str, list[Any]], attributes: dict[str, Any]) -> Dataset:
    names = columns.pop("name")
    base = (root / "Img" if (root / "Img" / "img").is_dir() else root).absolute()
    known = {"id": names, "item": [n.rpartition("/")[0] for n in names], "image": [f"{base}/{n}" for n in names]}
    return assemble(known | columns, attributes)


def _listing(path: Path) -> list[str]:
    """The rows of a file that starts with their count and a header.

    Raises:
        UserError: the file is missing or has another number of rows than it says.
    """
    count, _, *rows = [*_text(path).splitlines(), "", ""]
    rows = [row for row in rows if row.strip()]
    if not count.strip().isdigit() or int(count) != len(rows):
        raise UserError(
            f"{path} should have {count.strip() or 'a count and as many'} rows, got {len(rows)}; unpack it again"
        )
    return rows


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"no such file: {path}; unpack the data set's archives into one folder")
    return path.read_text(encoding="utf-8")


def _category_names(anno: Path) -> list[str]:
    """Category names in the order of their ids; an empty list where the release has no list."""
    places = [anno / "list_category_cloth.txt", anno.parent / "Anno_coarse" / "list_category_cloth.txt"]
    path = next((p for p in places if p.is_file()), None)
    return [line.rsplit(None, 1)[0].strip() for line in _listing(path)] if path else []


def _category(number: str, names: Sequence[str]) -> str | None:
    """The name of a 1-based category id."""
    if names and not 1 <= int(number) <= len(names):
        raise UserError(
            f"category {number} is not in 1..{len(names)} of list_category_cloth.txt; unpack the data set again"
        )
    return names[int(number) - 1] if names else None


def _floats(tokens: Sequence[str]) -> list[float]:
    """Numbers that may be padded with zeros, such as 072."""
    return [float(token) for token in tokens]
