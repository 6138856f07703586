"""DeepFashion-MultiModal: 44,096 of the in-shop pictures in high resolution, with shape, fabric, pattern and a caption.

Source: Jiang et al., "Text2Human", SIGGRAPH 2022, https://github.com/yumingj/DeepFashion-MultiModal

    fclip catalogue data/multimodal --format deepfashion-multimodal

| file                               | what                                                                        |
|------------------------------------|-----------------------------------------------------------------------------|
| images/ (or image/)                | `MEN-Denim-id_00000080-01_7_additional.jpg`: gender, category, item, pose   |
| labels/shape/shape_anno_all.txt    | picture and 12 codes (`SHAPE`)                                              |
| labels/texture/fabric_ann.txt      | picture and the fabric of upper, lower and outer garment (`FABRIC`)         |
| labels/texture/pattern_ann.txt     | the same for what its README calls colour and is the pattern (`PATTERN`)    |
| captions.json                      | picture → sentences, which are `title` here                                 |

The text files have neither count nor header. The archive may unpack as labels/labels/. Not every picture is in every
file: what is in any of them is a row. "Not visible" is unknown here. Two versions of the README number necklines apart:
without a gap (6 is "not visible"), or with 3 left out (7 is); a file that holds a 7 is read in the second way.

There are no splits: they are made by product. `inshop/id_…` names the same product as in the in-shop benchmark: opened
after it, pictures of products in query or gallery go to test. Key points are of the human body, and not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fclip.catalogue.assemble import assemble
from fclip.catalogue.deepfashion_files import Line, plain, read_json, there
from fclip.catalogue.locate import locate
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

Words = tuple[str | None, ...]  # the words for the codes 0, 1, …; None: not visible

YES_NO: Words = ("no", "yes", None)
SHAPE: dict[str, Words] = {
    "sleeve": ("sleeveless", "short sleeve", "medium sleeve", "long sleeve", "not long sleeve", None),
    "lower length": ("three-point", "medium short", "three-quarter", "long", None),
    "socks": ("no", "socks", "leggings", None),
    "hat": YES_NO,
    "glasses": ("no", "eyeglasses", "sunglasses", "in hand or on clothes", None),
    "neckwear": YES_NO,
    "wrist wear": YES_NO,
    "ring": YES_NO,
    "waist accessory": ("no", "belt", "clothing", "hidden", None),
    "neckline": ("v-shaped", "square", "round", "standing", "lapel", "suspenders", None),
    "cardigan": ("yes", "no", None),
    "navel covered": YES_NO,
}
GAPPED: Words = ("v-shaped", "square", "round", None, "standing", "lapel", "suspenders", None)
FABRIC: Words = ("denim", "cotton", "leather", "furry", "knitted", "chiffon", "other", None)
PATTERN: Words = ("floral", "graphic", "striped", "pure color", "lattice", "other", "color block", None)
GARMENTS = ("upper", "lower", "outer")
SHAPES, FABRICS, PATTERNS = "shape_anno_all.txt", "fabric_ann.txt", "pattern_ann.txt"
NAME = re.compile(r"(?P<gender>MEN|WOMEN)-(?P<category>.+)-(?P<item>id_\d+)-\d+_\d+_(?P<view>\w+)\.\w+")


def open_multimodal(source: str | Path) -> Dataset:
    """Opens the data set, one row a picture.

    Raises:
        UserError: none of its files is there, or one is cut off.
    """
    root = Path(source)
    groups = {
        **_codes(root, SHAPES, SHAPE),
        **_codes(root, FABRICS, {f"{garment} fabric": FABRIC for garment in GARMENTS}),
        **_codes(root, PATTERNS, {f"{garment} pattern": PATTERN for garment in GARMENTS}),
    }
    captions = _captions(root / "captions.json")
    names = list(dict.fromkeys([*(name for group in groups.values() for name in group), *captions]))
    if not names:
        raise UserError(f"no pictures listed in {root}; expected labels/ with {SHAPES} and captions.json")
    parts = [match.groupdict() if (match := NAME.fullmatch(name)) else {} for name in names]
    folder = next((f for f in ("images", "image") if (root / f).is_dir()), "images")
    columns = {
        "id": names,
        "item": [f"inshop/{part['item']}" if part else None for part in parts],
        "image": locate(root, [f"{folder}/{name}" for name in names]),
        "category": [part["category"].replace("_", " ") if part else None for part in parts],
        "view": [part.get("view") for part in parts],
        "title": [captions.get(name) for name in names],
    }
    attributes = {"gender": [part["gender"].lower() if part else None for part in parts]}
    return assemble(columns, attributes | {g: [of.get(n) for n in names] for g, of in groups.items()})


def labels(root: Path, name: str) -> Path:
    """Where a file of labels lies; where it should, if it does not."""
    kind = "shape" if name == SHAPES else "texture"
    below = [root / "labels", root / "labels" / "labels", root]
    places = [folder / part / name for folder in below for part in (kind, "")]
    return next((path for path in places if path.is_file()), places[0])


def _codes(root: Path, name: str, words: Mapping[str, Words]) -> dict[str, dict[str, str | None]]:
    """Reads a file of codes: group → picture → word. Without the file there are no groups."""
    path = labels(root, name)
    if not there(path, ", ".join(words)):
        return {}
    rows = [(line, line.fields(1 + len(words))) for line in plain(path) if line.text.strip()]
    return {group: _column(rows, at, of) for at, (group, of) in enumerate(words.items(), 1)}


def _column(rows: Sequence[tuple[Line, list[str]]], at: int, words: Words) -> dict[str, str | None]:
    """Picture → word of one column; of the two numberings of necklines the one that its codes are in."""
    if words is SHAPE["neckline"] and any(row[at] == str(len(GAPPED) - 1) for _, row in rows):
        words = GAPPED
    known = {str(code): word for code, word in enumerate(words)}
    return {row[0]: known[line.one_of(row[at], known)] for line, row in rows}


def _captions(path: Path) -> dict[str, str]:
    if not there(path, "title"):
        return {}
    captions = read_json(path)
    if not isinstance(captions, dict):
        raise UserError(f"{path}: expected pictures and their captions, got {type(captions).__name__}; unpack it again")
    return {str(name): str(caption) for name, caption in captions.items()}
