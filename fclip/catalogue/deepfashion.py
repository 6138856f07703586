"""DeepFashion, Category and Attribute Prediction: 289,222 pictures (coarse), or 20,000 with 26 attributes (fine).

Source: Liu et al., "DeepFashion", CVPR 2016, http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html

    fclip catalogue data/deepfashion --format deepfashion-attributes

| file                                       | what                                                              |
|--------------------------------------------|-------------------------------------------------------------------|
| Eval/list_eval_partition.txt               | picture, train / val / test: 209,222 / 40,000 / 40,000            |
| Anno_coarse/ (older releases: Anno/)       |                                                                   |
|   list_category_cloth.txt, …_img.txt       | 50 categories; picture, category id, counted from 1               |
|   list_attr_cloth.txt                      | 1,000 attributes, type 1 to 5: texture, fabric, shape, part, style |
|   list_attr_img.txt                        | picture, 1,000 labels: 1 present, -1 absent, 0 unknown             |
|   list_bbox.txt, list_landmarks.txt        | x1 y1 x2 y2; clothes type, visibility x y of each landmark         |
| Anno_fine/{train,val,test}.txt             | 14,000 / 2,000 / 4,000 pictures                                   |
|   {train,val,test}_{attr,cate,bbox,landmarks}.txt | row by row beside them, without names                      |

Irregular, and what is done: a product is a folder of pictures (`img/Sheer_Pleated-Front_Blouse/`), since the benchmark
names none. Attribute names hold spaces. Cape, Nightdress, Shirtdress and Sundress were merged into Dress: they are
categories without pictures. Landmarks are 0 visible, 1 occluded, 2 cut off: only 0 is visible here. Some releases lack
the column of variation types. Paths that differ in case are found (`fclip.catalogue.locate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fclip.catalogue.assemble import assemble
from fclip.catalogue.deepfashion_files import Line, boxes, landmarks, listing, numbers, plain, points, there
from fclip.catalogue.locate import locate
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
STATUSES = ("train", "val", "test")


def open_attributes(source: str | Path) -> Dataset:
    """Opens the fine annotation where the folder has it, else the coarse one."""
    return open_fine(source) if (Path(source) / "Anno_fine").is_dir() else open_coarse(source)


def open_fine(source: str | Path) -> Dataset:
    """Opens the fine annotation.

    Raises:
        UserError: a file is missing, cut off, or differs from another one in its number of rows.
    """
    root = Path(source)
    columns: dict[str, list[Any]] = {}
    for split in STATUSES:
        if (root / "Anno_fine" / f"{split}.txt").is_file():
            for name, values in _fine_split(root / "Anno_fine", split).items():
                columns.setdefault(name, []).extend(values)
    if not columns:
        raise UserError(f"no pictures listed in {root / 'Anno_fine'}; expected train.txt, val.txt and test.txt")
    flags = np.array(columns.pop("attr"))
    return _build(root, columns, _fine_attributes(flags))


def _fine_split(folder: Path, split: str) -> dict[str, list[Any]]:
    names = [line.fields(1)[0] for line in plain(folder / f"{split}.txt") if line.text.strip()]
    columns: dict[str, list[Any]] = {"name": names, "split": [split] * len(names)}
    flags = _aligned(folder / f"{split}_attr.txt", len(names), split)
    columns["attr"] = [[line.one_of(flag, ("0", "1")) == "1" for flag in line.fields(26)] for line in flags]
    categories = _category_names(folder)
    if categories and (folder / f"{split}_cate.txt").is_file():
        rows = _aligned(folder / f"{split}_cate.txt", len(names), split)
        columns["category"] = [_category(line.fields(1)[0], categories, line) for line in rows]
    if (folder / f"{split}_bbox.txt").is_file():
        rows = _aligned(folder / f"{split}_bbox.txt", len(names), split)
        columns["bbox"] = [numbers(line.fields(4), line) for line in rows]
    if (folder / f"{split}_landmarks.txt").is_file():
        rows = _aligned(folder / f"{split}_landmarks.txt", len(names), split)
        columns["landmarks"] = [landmarks(line.fields(16), line) for line in rows]
    return columns


def _aligned(path: Path, count: int, split: str) -> list[Line]:
    """The rows of a file that must have one for every line of `<split>.txt`."""
    rows = [line for line in plain(path) if line.text.strip()]
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
    """Opens the coarse annotation.

    Attributes are lists: empty where all are labelled absent, None where the picture has no labels.

    Raises:
        UserError: a file is missing or cut off.
    """
    root = Path(source)
    anno = root / ("Anno_coarse" if (root / "Anno_coarse").is_dir() else "Anno")
    columns = partition(root)
    names, categories = columns["name"], _category_names(anno)
    rows = [(line, line.fields(2)) for line in listing(anno / "list_category_img.txt")]
    category = {name: _category(number, categories, line) for line, (name, number) in rows}
    columns["category"] = [category.get(n) for n in names]
    if there(anno / "list_bbox.txt", "bbox"):
        box = boxes(anno / "list_bbox.txt")[0]
        columns["bbox"] = [box.get(n) for n in names]
    if there(anno / "list_landmarks.txt", "landmarks"):
        marks = points(anno / "list_landmarks.txt")[0]
        columns["landmarks"] = [marks.get(n) for n in names]
    return _build(root, columns, _coarse_attributes(anno, names))


def partition(root: Path) -> dict[str, list[Any]]:
    """Columns `name` and `split` of a benchmark without items."""
    rows = [(line, line.fields(2)) for line in listing(root / "Eval" / "list_eval_partition.txt")]
    return {
        "name": [name for _, (name, _) in rows],
        "split": [line.one_of(split, STATUSES) for line, (_, split) in rows],
    }


def _coarse_attributes(anno: Path, names: Sequence[str]) -> dict[str, list[list[str] | None]]:
    """Group → per picture the attributes labelled 1 (-1 is absent, 0 unknown)."""
    words, kinds = zip(*map(_kind, listing(anno / "list_attr_cloth.txt")), strict=True)
    types = np.array(kinds)
    labels: dict[str, list[list[str] | None]] = {}
    for line in listing(anno / "list_attr_img.txt"):
        name, *rest = line.fields(1 + len(words))
        flags = _labels(rest, line)
        labels[name] = [
            [words[i] for i in np.flatnonzero((types == kind) & (flags == 1))] if flags[types == kind].any() else None
            for kind in range(1, 6)
        ]
    unknown: list[list[str] | None] = [None] * len(COARSE)
    return {group: [labels.get(n, unknown)[k] for n in names] for k, group in enumerate(COARSE)}


def _labels(tokens: Sequence[str], line: Line) -> np.ndarray:
    """Labels -1, 0 and 1; at once, since the file has 289 million."""
    try:
        return np.array(tokens, np.int8)
    except (ValueError, OverflowError):
        raise line.fault("labels -1, 0 or 1", repr(" ".join(tokens)[:40])) from None


def _kind(line: Line) -> tuple[str, int]:
    """An attribute's name, which may hold spaces, and its type."""
    name, _, kind = line.text.strip().rpartition(" ")
    line.one_of(kind, tuple("12345"))
    return name.strip(), int(kind)


def _build(root: Path, columns: dict[str, list[Any]], attributes: dict[str, Any]) -> Dataset:
    names = columns.pop("name")
    known = {"id": names, "item": [n.rpartition("/")[0] for n in names], "image": locate(root, names)}
    return assemble(known | columns, attributes)


def _category_names(anno: Path) -> list[str]:
    """Category names in the order of their ids; an empty list where the release has no list."""
    places = [anno / "list_category_cloth.txt", anno.parent / "Anno_coarse" / "list_category_cloth.txt"]
    path = next((p for p in places if p.is_file()), None)
    return [line.text.rsplit(None, 1)[0].strip() for line in listing(path)] if path else []


def _category(number: str, names: Sequence[str], line: Line) -> str | None:
    """The name of a 1-based category id."""
    if names and number not in map(str, range(1, len(names) + 1)):
        raise line.fault(f"a category of 1..{len(names)}, as many as list_category_cloth.txt has", number)
    return names[int(number) - 1] if names else None
