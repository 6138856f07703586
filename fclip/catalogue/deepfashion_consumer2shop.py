"""DeepFashion, Consumer-to-shop Clothes Retrieval: 239,557 pictures of 33,881 products, 195,540 pairs.

Source: Liu et al., "DeepFashion", CVPR 2016, http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html

    fclip catalogue data/consumer2shop --format deepfashion-consumer2shop

| file                                     | what                                                                 |
|------------------------------------------|----------------------------------------------------------------------|
| Eval/list_eval_partition.txt             | consumer's picture, shop's picture, item, train / val / test         |
| Anno/list_bbox_consumer2shop.txt         | picture, clothes type, source (1 shop, 2 consumer), x1 y1 x2 y2      |
| Anno/list_landmarks_consumer2shop.txt    | picture, clothes type, variation type, visibility x y of each        |
| Anno/list_attr_{cloth,type,items}.txt    | attributes of items by type (later releases)                         |
| Img/img/TOPS/T_Shirt/id_00000218/comsumer_01.jpg | department, category, item; so spelled, not mended           |

The partition lists pairs: a picture of several pairs is one row here. `view` is `consumer` or `shop`; the queries of a
test are the consumers' pictures of `test`, its gallery is every shop picture of `val` and of `test` (an older README
says: of `test` alone). A picture that is listed with two items, splits or views keeps the first, and a warning counts
them. Items are called `consumer2shop/id_…`, see `deepfashion_inshop`. Annotation beside the partition is optional.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fclip.catalogue.assemble import assemble
from fclip.catalogue.deepfashion import STATUSES
from fclip.catalogue.deepfashion_files import CLOTHES, boxes, item_labels, listing, points, there
from fclip.catalogue.locate import locate

if TYPE_CHECKING:
    from datasets import Dataset


class Picture(NamedTuple):
    """What the pairs say of a picture."""

    item: str
    split: str
    view: str


def open_consumer2shop(source: str | Path) -> Dataset:
    """Opens the benchmark, one row a picture.

    Raises:
        UserError: the partition is missing, or a file is cut off.
    """
    root = Path(source)
    known = pictures(root / "Eval" / "list_eval_partition.txt")
    names, items = list(known), [picture.item for picture in known.values()]
    columns: dict[str, Any] = {
        "id": names,
        "item": [f"consumer2shop/{item}" for item in items],
        "image": locate(root, names),
        "split": [picture.split for picture in known.values()],
        "view": [picture.view for picture in known.values()],
        "category": [_category(name) for name in names],
    }
    attributes: dict[str, Any] = {}
    return assemble(columns | _annotation(root / "Anno", names, items, attributes), attributes)


def pictures(path: Path) -> dict[str, Picture]:
    """Name → item, split and view of every picture, in the order of the pairs.

    Raises:
        UserError: a row was cut off, or has an unknown split.
    """
    known: dict[str, Picture] = {}
    contradicted = set()
    for line in listing(path):
        consumer, shop, item, status = line.fields(4)
        for name, view in ((consumer, "consumer"), (shop, "shop")):
            picture = Picture(item, line.one_of(status, STATUSES), view)
            if known.setdefault(name, picture) != picture:
                contradicted.add(name)
    if contradicted:
        logging.getLogger(__name__).warning(
            "%d pictures of %s are listed with two items, splits or views; the first counts: %s%s",
            *(len(contradicted), path, ", ".join(sorted(contradicted)[:5]), ", …" * (len(contradicted) > 5)),
        )
    return known


def _annotation(anno: Path, names: Sequence[str], items: Sequence[str], attributes: dict[str, Any]) -> dict[str, Any]:
    """The optional columns; what is an attribute goes into `attributes`."""
    columns: dict[str, Any] = {}
    if there(path := anno / "list_bbox_consumer2shop.txt", "bbox"):
        box, types = boxes(path, kinds=2)
        columns["bbox"] = [box.get(name) for name in names]
        attributes["clothes type"] = [CLOTHES.get(types.get(name, [""])[0]) for name in names]
    if there(path := anno / "list_landmarks_consumer2shop.txt", "landmarks"):
        marks, _ = points(path)
        columns["landmarks"] = [marks.get(name) for name in names]
    for group, labels in item_labels(anno).items():
        attributes[group] = [labels.get(item) for item in items]
    return columns


def _category(name: str) -> str | None:
    """T Shirt of `img/TOPS/T_Shirt/id_00000218/shop_01.jpg`."""
    folders = name.split("/")[:-1]
    return folders[2].replace("_", " ") if len(folders) > 2 else None
