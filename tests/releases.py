"""Small trees in the layout of published retrieval, landmark and article data sets."""

from __future__ import annotations

import json
from pathlib import Path

from fclip.catalogue.deepfashion2 import CATEGORIES

BACK, FRONT = "img/WOMEN/Jackets_Coats/id_00000001/02_3_back.jpg", "img/WOMEN/Jackets_Coats/id_00000001/02_1_front.jpg"
DENIM = "img/MEN/Denim/id_00000080/01_1_front.jpg"
USER, SHOP, OTHER = (f"img/TOPS/T_Shirt/id_00000001/{name}.jpg" for name in ("comsumer_01", "shop_01", "shop_02"))
PARTITION = "Eval/list_eval_partition.txt"
HEADER = (
    "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,graphical_appearance_no,"
    "graphical_appearance_name,colour_group_code,colour_group_name,perceived_colour_value_id,"
    "perceived_colour_value_name,perceived_colour_master_id,perceived_colour_master_name,department_no,"
    "department_name,index_code,index_name,index_group_no,index_group_name,section_no,section_name,garment_group_no,"
    "garment_group_name,detail_desc\n"
)
ROW = (
    ",{code},Strap top,253,Vest top,Garment Upper body,1010016,Solid,09,Black,4,Dark,5,Black,1676,Jersey Basic,A,"
    'Ladieswear,1,Ladieswear,16,Womens Everyday Basics,1002,Jersey Basic,"Jersey top, with\nnarrow straps."\n'
)


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def table(path: Path, header: str, *rows: str) -> None:
    """A file as released: the count, a header, rows padded with spaces."""
    write(path, "\n".join([str(len(rows)), header, *(f"{row}  " for row in rows)]) + "\n")


def write_inshop(root: Path) -> Path:
    anno = root / "Anno"
    table(
        root / PARTITION,
        "image_name item_id evaluation_status",
        f"{BACK}   id_00000001 query",
        f"{FRONT}  id_00000001 gallery",
        f"{DENIM}              id_00000080 train",
    )
    table(
        anno / "list_bbox_inshop.txt",
        "image_name clothes_type pose_type x_1 y_1 x_2 y_2",
        f"{BACK} 1 3 072 079 232 256",
        f"{DENIM} 2 6 001 002 003 004",
    )
    upper = " ".join(f"{flag} 01{n} 100" for n, flag in enumerate((0, 1, 2, 0, 0, 0)))
    table(anno / "list_landmarks_inshop.txt", "image_name clothes_type variation_type …", f"{BACK} 1 2 {upper}")
    entries = [
        {"item": "id_00000080", "color": "Dark Denim", "description": ["Faded jeans.", "100% cotton"]},
        {"item": "id_00000001", "color": "Red", "description": ["A coat."]},
        {"item": "id_00000001", "color": "Blue", "description": ["A coat."]},
    ]
    write(anno / "list_description_inshop.json", json.dumps(entries))
    table(anno / "list_attr_cloth.txt", "attribute_name", "a-line", "ankle length")
    table(anno / "list_attr_items.txt", "item_name attribute_labels", "id_00000001 -1 1", "id_00000080 0 0")
    for name in (BACK, DENIM):
        write(root / "Img" / name.replace("Jackets_Coats", "jackets_coats"))
    return root


def write_consumer2shop(root: Path) -> Path:
    table(
        root / PARTITION,
        "image_pair_name_1 image_pair_name_2 item_id evaluation_status",
        f"{USER} {SHOP}   id_00000001 test",
        f"{USER} {OTHER}  id_00000001 test",
        f"{SHOP} {OTHER}  id_00000001 test",  # contradicts the rows above: a shop's picture as a consumer's
    )
    anno = root / "Anno"
    table(
        anno / "list_bbox_consumer2shop.txt",
        "image_name clothes_type source_type x_1 y_1 x_2 y_2",
        f"{USER} 1 2 000 000 300 200",
        f"{SHOP} 1 1 001 002 300 225",
    )
    table(anno / "list_attr_type.txt", "attribute_type_cn attribute_type_en", "颜色 colour", "领型 collar shape")
    table(anno / "list_attr_cloth.txt", "cn en type", "红色 bright red 1", "蓝色 blue 1", "圆领 round neck 2")
    table(anno / "list_attr_items.txt", "item_id attribute_labels", "id_00000001 1 -1 -1")
    return root


def write_landmarks(root: Path) -> Path:
    names = [f"img/img_0000000{n}.jpg" for n in (1, 2, 3)]
    rows = [f"{name} {split}" for name, split in zip(names, ("train", "val", "test"), strict=True)]
    table(root / PARTITION, "image_name evaluation_status", *rows)
    lower = "2 4 " + " ".join(f"{flag} 100 20{n}" for n, flag in enumerate((2, 0, 0, 1)))
    full = "3 1 " + " ".join(["0 011 022"] * 8)
    header = "image_name clothes_type variation_type …"
    table(root / "Anno" / "list_landmarks.txt", header, f"{names[0]} {lower}", f"{names[2]} {full}")
    table(root / "Anno" / "list_bbox.txt", "image_name x_1 y_1 x_2 y_2", f"{names[0]} 041 095 302 302")
    return root


def garment(category: int = 8, style: int = 1, **other: object) -> dict:
    points = [[n, n + 100, n % 3] for n in range(CATEGORIES[category][1])]
    fields = {"category_name": CATEGORIES[category][0], "category_id": category, "style": style}
    fields |= {
        "bounding_box": [10, 20, 30, 40],
        "landmarks": [n for point in points for n in point],
        "segmentation": [[1, 2, 3, 4]],
    }
    return fields | {"scale": 2, "occlusion": 1, "zoom_in": 3, "viewpoint": 2} | other


def write_deepfashion2(root: Path) -> Path:
    pictures = {
        "train/annos/000001": {"source": "user", "pair_id": 1, "item10": garment(style=0), "item2": garment(style=1)},
        "train/annos/000002": {"item1": garment(style=1, viewpoint=0), "source": "shop", "pair_id": 1},
        "validation/annos/000001": {"item1": garment(13, style=1), "source": "shop", "pair_id": 1},
    }
    for name, content in pictures.items():
        write(root / f"{name}.json", json.dumps(content))
    write(root / "train" / "image" / "000001.jpg")
    (root / "test" / "image").mkdir(parents=True)
    return root


def write_multimodal(root: Path) -> Path:
    texture = root / "labels" / "labels" / "texture"  # as the archive unpacks
    names = ["MEN-Denim-id_00000080-01_7_additional.jpg", "WOMEN-Tees_Tanks-id_00000081-02_1_front.jpg", "odd.jpg"]
    rows = ["3 3 0 1 2 0 1 0 1 4 1 1", "5 4 3 2 4 2 2 2 4 6 2 2"]
    shapes = "".join(f"{name} {row}\n" for name, row in zip(names, rows, strict=False))
    write(root / "labels" / "labels" / "shape" / "shape_anno_all.txt", shapes)
    write(texture / "fabric_ann.txt", f"{names[0]} 1 0 7\n")
    write(texture / "pattern_ann.txt", f"{names[0]} 3 2 7\n{names[2]} 0 7 7\n")
    write(root / "captions.json", json.dumps({names[0]: "The man wears jeans."}))
    write(root / "image" / names[0])
    return root


def write_hm(root: Path) -> Path:
    first, second = "0108775015" + ROW.format(code="0108775"), "108775044" + ROW.format(code="108775")
    write(root / "articles.csv", HEADER + first + second.replace("Solid", "Unknown"))
    write(root / "images" / "010" / "0108775015.jpg")
    return root


WRITERS = {
    "inshop": write_inshop,
    "consumer2shop": write_consumer2shop,
    "landmarks": write_landmarks,
    "deepfashion2": write_deepfashion2,
    "multimodal": write_multimodal,
    "hm": write_hm,
}
