"""The one shape of a catalogue: a `datasets.Dataset` with the columns below.

    id          string   one per picture, unique
    item        string   the product: the unit of splitting; several pictures (views) may share one
    image       {bytes, path}, not decoded: `fclip.images.decode` does it, so that one bad file is no one's problem
    split       train, val or test; query and gallery in a retrieval benchmark that has them in place of test
    attributes  struct: group → value, or → list of values; None where unknown
    category, title, bbox, landmarks, view   where the source knows them

`bbox` is x1, y1, x2, y2 in pixels; a landmark is {name, x, y, visible}, also in pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fclip.errors import UserError, nearest

if TYPE_CHECKING:
    from datasets import Dataset, Features

SPLITS = ("train", "val", "test", "query", "gallery")
REQUIRED = ("id", "item", "image", "split", "attributes")
Value = str | list[str] | None


def features(groups: Iterable[str], multi: Iterable[str] = (), optional: Iterable[str] = ()) -> Features:
    """The features of a catalogue with these attribute groups.

    Args:
        groups: attribute groups, in the order they are shown.
        multi: those of them that hold a list of values.
        optional: further columns, of category, title, bbox, landmarks, view.
    """
    from datasets import Features, Image, List, Value

    text, number = Value("string"), Value("float32")
    landmark = {"name": text, "x": number, "y": number, "visible": Value("bool")}
    known = {"category": text, "title": text, "view": text, "bbox": List(number), "landmarks": List(landmark)}
    columns: dict[str, Any] = {"id": text, "item": text, "image": Image(decode=False), "split": text}
    columns["attributes"] = {g: List(text) if g in set(multi) else text for g in groups}
    return Features(columns | {name: known[name] for name in optional})


def groups_of(catalogue: Dataset) -> list[str]:
    """The attribute groups of a catalogue."""
    return list(catalogue.features["attributes"])


def split_of(item: str) -> str:
    """A split for a product that has none: 80/10/10 by a hash of its id, so it never moves when products are added."""
    bucket = int.from_bytes(hashlib.sha1(item.encode()).digest()[:4], "big") % 10
    return {8: "val", 9: "test"}.get(bucket, "train")


def select_split(catalogue: Dataset, split: str) -> Dataset:
    """The rows of one split ("all" for every row).

    Raises:
        UserError: the split has no rows.
    """
    if split == "all":
        return catalogue
    rows = [i for i, s in enumerate(catalogue["split"][:]) if s == split]
    if not rows:
        raise UserError(f"split {split!r} is empty; {nearest(split, sorted({*catalogue['split'], 'all'}))}")
    return catalogue.select(rows)


def check_groups(catalogue: Dataset, wanted: Sequence[str]) -> None:
    """Raises UserError when a wanted attribute group is not in the catalogue."""
    known = groups_of(catalogue)
    for group in wanted:
        if group not in known:
            raise UserError(f"no attribute group {group!r} in this catalogue; {nearest(group, known)}")
