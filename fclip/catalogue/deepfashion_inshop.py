"""DeepFashion, In-shop Clothes Retrieval: 52,712 studio pictures of 7,982 products.

Source: Liu et al., "DeepFashion", CVPR 2016, http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html

    fclip catalogue data/inshop --format deepfashion-inshop

| file                                     | what                                                                 |
|------------------------------------------|----------------------------------------------------------------------|
| Eval/list_eval_partition.txt             | picture, item, train / query / gallery                               |
| Anno/list_bbox_inshop.txt                | picture, clothes type, pose type (`POSES`), x1 y1 x2 y2              |
| Anno/list_landmarks_inshop.txt           | picture, clothes type, variation type, visibility x y of each        |
| Anno/list_description_inshop.json        | of an item: colour and sentences                                     |
| Anno/list_attr_cloth.txt, …_items.txt    | 463 attributes of items (later releases)                             |
| Img/img/WOMEN/Jackets_Coats/id_00002609/02_3_back.jpg | gender, category, item; colourway, pose                 |

The official splits are kept: a query finds products of the gallery, never itself, and both hold the same products, none
of them in train. There is no val. `view` is the pose. Items are called `inshop/id_…`, because consumer-to-shop's count
from id_00000001 too; DeepFashion-MultiModal has pictures of the same products and calls them the same. The colour and
sentences of an item that has several are left out: the file does not say of which colourway they are. Annotation beside
the partition is optional. Boxes and landmarks are in pixels of `img`, not of `img_highres`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fclip.catalogue.assemble import assemble
from fclip.catalogue.deepfashion_files import CLOTHES, boxes, item_labels, listing, points, read_json, there
from fclip.catalogue.locate import locate
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

POSES = {"1": "front", "2": "side", "3": "back", "4": "zoomed out", "5": "zoomed in", "6": "garment alone"}
STATUSES = ("train", "query", "gallery")


def open_inshop(source: str | Path) -> Dataset:
    """Opens the benchmark, one row a picture.

    Raises:
        UserError: the partition is missing, or a file is cut off.
    """
    root = Path(source)
    lines = listing(root / "Eval" / "list_eval_partition.txt")
    names, items, statuses = ([line.fields(3)[at] for line in lines] for at in range(3))
    columns: dict[str, Any] = {
        "id": names,
        "item": [f"inshop/{item}" for item in items],
        "image": locate(root, names),
        "split": [line.one_of(status, STATUSES) for line, status in zip(lines, statuses, strict=True)],
        "category": [_part(name, 2).replace("_", " ") or None for name in names],
    }
    attributes: dict[str, Any] = {"gender": [{"MEN": "men", "WOMEN": "women"}.get(_part(n, 1)) for n in names]}
    return assemble(columns | _annotation(root / "Anno", names, items, attributes), attributes)


def _annotation(anno: Path, names: Sequence[str], items: Sequence[str], attributes: dict[str, Any]) -> dict[str, Any]:
    """The optional columns; what is an attribute goes into `attributes`."""
    columns: dict[str, Any] = {}
    if there(path := anno / "list_bbox_inshop.txt", "bbox and view"):
        box, types = boxes(path, kinds=2)
        kinds = [types.get(name, ["", ""]) for name in names]
        attributes["clothes type"] = [CLOTHES.get(clothes) for clothes, _ in kinds]
        columns |= {"bbox": [box.get(n) for n in names], "view": [POSES.get(pose) for _, pose in kinds]}
    if there(path := anno / "list_landmarks_inshop.txt", "landmarks"):
        marks, _ = points(path)
        columns["landmarks"] = [marks.get(name) for name in names]
    if there(path := anno / "list_description_inshop.json", "title and colour"):
        colours, titles = descriptions(path)
        attributes["colour"] = [colours.get(item) for item in items]
        columns["title"] = [titles.get(item) for item in items]
    for group, labels in item_labels(anno).items():
        attributes[group] = [labels.get(item) for item in items]
    return columns


def descriptions(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Item → colour and item → first sentence, of the items that have one entry.

    Raises:
        UserError: an entry lacks its item.
    """
    entries: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, entry in enumerate(read_json(path), 1):
        if not isinstance(entry, dict) or "item" not in entry:
            raise UserError(f"{path}, entry {number}: expected item, color and description; unpack it again")
        entries[str(entry["item"])].append(entry)
    single = {item: found[0] for item, found in entries.items() if len(found) == 1}
    colours = {item: str(entry["color"]) for item, entry in single.items() if entry.get("color")}
    sentences = {item: entry.get("description") or [] for item, entry in single.items()}
    return colours, {item: _first(text) for item, text in sentences.items() if text}


def _first(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else str(text[0])


def _part(name: str, at: int) -> str:
    """A folder of `img/WOMEN/Jackets_Coats/id_00002609/02_3_back.jpg`, empty where the path is shorter."""
    folders = name.split("/")[:-1]
    return folders[at] if at < len(folders) else ""
