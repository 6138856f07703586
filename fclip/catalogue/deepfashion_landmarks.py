"""DeepFashion, Fashion Landmark Detection: 123,016 pictures with 4, 6 or 8 landmarks.

Source: Liu et al., "Fashion Landmark Detection in the Wild", ECCV 2016,
http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/LandmarkDetection.html

    fclip catalogue data/landmarks --format deepfashion-landmarks

| file                          | what                                                                              |
|-------------------------------|-----------------------------------------------------------------------------------|
| Eval/list_eval_partition.txt  | picture, train / val / test                                                       |
| Anno/list_bbox.txt            | picture, x1 y1 x2 y2 (optional)                                                   |
| Anno/list_landmarks.txt       | picture, clothes type, variation type, visibility x y of each landmark            |
| Anno/list_joints.txt          | joints of the human body, since version 1.1: not read                             |
| Img/img/img_00000001.jpg      | long side 512 pixels                                                              |

Upper body has 6 landmarks, lower body 4, full body 8 (`deepfashion_files.LANDMARKS`); a lower body's hem is the full
body's hem. 0 is visible, 1 occluded, 2 cut off, the other way round than in COCO: only 0 is visible here, so that what
is cut off never counts as found. No products are named: a picture is its own. Clothes type and variation (pose, zoom)
are the attributes; a release without the column of variations has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fclip.catalogue.assemble import assemble
from fclip.catalogue.deepfashion import partition
from fclip.catalogue.deepfashion_files import CLOTHES, boxes, points, there
from fclip.catalogue.locate import locate

if TYPE_CHECKING:
    from datasets import Dataset

VARIATIONS = {"1": "normal pose", "2": "medium pose", "3": "large pose", "4": "medium zoom-in", "5": "large zoom-in"}


def open_landmarks(source: str | Path) -> Dataset:
    """Opens the benchmark, one row a picture.

    Raises:
        UserError: a file is missing or cut off.
    """
    root = Path(source)
    columns: dict[str, Any] = partition(root)
    names = columns.pop("name")
    marks, kinds = points(root / "Anno" / "list_landmarks.txt")
    columns |= {"id": names, "image": locate(root, names), "landmarks": [marks.get(name) for name in names]}
    if there(path := root / "Anno" / "list_bbox.txt", "bbox"):
        box, _ = boxes(path)
        columns["bbox"] = [box.get(name) for name in names]
    types = [kinds.get(name, ("", "")) for name in names]
    attributes = {
        "clothes type": [CLOTHES.get(clothes) for clothes, _ in types],
        "variation": [VARIATIONS.get(variation) for _, variation in types],
    }
    return assemble(columns, attributes)
