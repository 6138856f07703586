"""DeepFashion2: garments of 13 categories in shop and consumer pictures, with boxes, landmarks and pairs.

Source: Ge et al., "DeepFashion2", CVPR 2019, https://github.com/switchablenorms/DeepFashion2

    fclip catalogue data/deepfashion2 --format deepfashion2 --save deepfashion2   # saved: read once, JSON is slow

| file                      | what                                                                                  |
|---------------------------|---------------------------------------------------------------------------------------|
| train/image/000001.jpg    | pictures, 191,961 in the release (the paper has 390,884)                              |
| train/annos/000001.json   | `source`, `pair_id`, and a garment each in `item1`, `item2`, …                        |
| validation/image, annos   | the same, 32,153                                                                      |
| test/image                | without annotation: not read                                                          |

A garment has `category_id` 1 to 13, `style`, `bounding_box` x1 y1 x2 y2, `landmarks` x y v (2 visible, 1 occluded,
0 not labelled), and codes for scale, occlusion, zoom_in and viewpoint, which are the attributes here; its polygons are
not read.

One row is one garment, so a picture may come several times: cut it out by its `bbox`. `view` is `shop` or `consumer`
(the files say user). Two garments are the same product if they have the same pair *and* the same style above 0: that is
`item`, under the set's name, since pairs are counted from 1 in each set. Style 0 pairs with nothing, so such a garment
is a product of its own; some styles have only one garment. Landmarks are numbered as in the paper's figure 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fclip.catalogue.assemble import assemble
from fclip.catalogue.deepfashion_files import read_json
from fclip.catalogue.locate import locate
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

SETS = {"train": "train", "validation": "val", "test": "test"}  # folder → split
VIEWS = {"shop": "shop", "user": "consumer"}
CATEGORIES: dict[int, tuple[str, int]] = {  # category_id → name and number of landmarks, 294 in all
    1: ("short sleeve top", 25),
    2: ("long sleeve top", 33),
    3: ("short sleeve outwear", 31),
    4: ("long sleeve outwear", 39),
    5: ("vest", 15),
    6: ("sling", 15),
    7: ("shorts", 10),
    8: ("trousers", 14),
    9: ("skirt", 8),
    10: ("short sleeve dress", 29),
    11: ("long sleeve dress", 37),
    12: ("vest dress", 19),
    13: ("sling dress", 19),
}
VARIATIONS = {  # attribute → words for the codes 1, 2, 3
    "scale": ("small", "modest", "large"),
    "occlusion": ("slight", "medium", "heavy"),
    "zoom_in": ("none", "medium", "large"),
    "viewpoint": ("not worn", "front", "side or back"),
}


def open_deepfashion2(source: str | Path) -> Dataset:
    """Opens the sets that have annotation, one row a garment.

    Raises:
        UserError: there is no annotation, or a file is cut off.
    """
    root = Path(source)
    files = [path for name in SETS for path in sorted((root / name / "annos").glob("*.json"))]
    if not files:
        raise UserError(f"no annotation in {root}; expected train/annos/*.json or validation/annos/*.json")
    rows = [row for path in files for row in garments(path)]
    if not rows:
        raise UserError(f"no garment in the {len(files)} files of {root}; expected item1, item2, … in each")
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "attributes"}
    columns["image"] = locate(root, columns["image"])
    return assemble(columns, {name: [row["attributes"][name] for row in rows] for name in VARIATIONS})


def garments(path: Path) -> list[dict[str, Any]]:
    """The rows of one file, in the order of their numbers.

    Raises:
        UserError: it was cut off, or a field is missing or of another form.
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("source") not in VIEWS or "pair_id" not in data:
        raise UserError(f"{path}: expected pair_id and a source of {', '.join(VIEWS)}; unpack it again")
    keys = [key for key in data if key.startswith("item") and key[4:].isdigit()]
    return [_garment(path, data, key) for key in sorted(keys, key=lambda key: int(key[4:]))]


def _garment(path: Path, data: Mapping[str, Any], key: str) -> dict[str, Any]:
    garment, folder = data[key], path.parent.parent.name
    category, count = CATEGORIES.get(garment.get("category_id"), ("", 0))
    _check(bool(category), path, key, f"a category_id of 1..{len(CATEGORIES)}")
    box, points = garment.get("bounding_box") or [], garment.get("landmarks") or []
    _check(len(box) == 4, path, key, "a bounding_box of 4 numbers")
    _check(len(points) == 3 * count, path, key, f"{count} landmarks of 3 numbers for a {category}")
    style = int(garment.get("style", 0))
    own = f"{folder}/{path.stem}/{key}"
    return {
        "id": own,
        "item": f"deepfashion2/{folder}/{data['pair_id']}-{style}" if style > 0 else f"deepfashion2/{own}",
        "image": f"{folder}/image/{path.stem}.jpg",
        "split": SETS[folder],
        "category": category,
        "view": VIEWS[data["source"]],
        "bbox": box,
        "landmarks": [_landmark(n, *points[3 * n : 3 * n + 3]) for n in range(count)],
        "attributes": {name: dict(enumerate(words, 1)).get(garment.get(name)) for name, words in VARIATIONS.items()},
    }


def _landmark(at: int, x: float, y: float, flag: int) -> dict[str, Any]:
    return {"name": str(at + 1), "x": x, "y": y, "visible": flag == 2}


def _check(holds: bool, path: Path, key: str, expected: str) -> None:
    if not holds:
        raise UserError(f"{path}, {key}: expected {expected}; unpack it again")
