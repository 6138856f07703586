"""The published retrieval, landmark and article data sets, on small trees in the layout of their releases."""

import json
import logging

import pytest

from fclip.catalogue.deepfashion2 import CATEGORIES, garments
from fclip.catalogue.deepfashion_files import item_labels, listing
from fclip.catalogue.locate import locate
from fclip.catalogue.readers import concatenate, detect, open_catalogue
from fclip.catalogue.report import describe
from fclip.catalogue.table import Columns
from fclip.errors import UserError

BACK, FRONT = "img/WOMEN/Jackets_Coats/id_00000001/02_3_back.jpg", "img/WOMEN/Jackets_Coats/id_00000001/02_1_front.jpg"
DENIM = "img/MEN/Denim/id_00000080/01_1_front.jpg"
USER, SHOP, OTHER = (f"img/TOPS/T_Shirt/id_00000001/{name}.jpg" for name in ("comsumer_01", "shop_01", "shop_02"))
PARTITION = "Eval/list_eval_partition.txt"


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def table(path, header, *rows):
    """A file as released: the count, a header, rows padded with spaces."""
    write(path, "\n".join([str(len(rows)), header, *(f"{row}  " for row in rows)]) + "\n")


@pytest.fixture
def inshop(tmp_path):
    anno = tmp_path / "Anno"
    table(
        tmp_path / PARTITION,
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
        write(tmp_path / "Img" / name.replace("Jackets_Coats", "jackets_coats"))
    return tmp_path


def test_inshop_keeps_query_and_gallery(inshop, caplog):
    with caplog.at_level(logging.WARNING):
        catalogue = open_catalogue(inshop)
    back, front, denim = catalogue
    assert detect(str(inshop)) == "deepfashion-inshop"
    assert catalogue["split"][:] == ["query", "gallery", "train"]
    assert catalogue["item"][:] == ["inshop/id_00000001", "inshop/id_00000001", "inshop/id_00000080"]
    assert (back["id"], back["view"], back["bbox"], back["category"]) == (
        BACK,
        "back",
        [72, 79, 232, 256],
        "Jackets Coats",
    )
    assert [mark["visible"] for mark in back["landmarks"]] == [True, False, False, True, True, True]
    assert back["landmarks"][3] == {"name": "right sleeve", "x": 13, "y": 100, "visible": True}
    assert (front["view"], front["bbox"], front["landmarks"]) == (None, None, None)
    assert back["attributes"] == {  # two colourways: the file does not say which picture shows which
        "gender": "women",
        "clothes type": "upper body",
        "colour": None,
        "attributes": ["ankle length"],
    }
    assert denim["attributes"] | {} == {
        "gender": "men",
        "clothes type": "lower body",
        "colour": "Dark Denim",
        "attributes": None,
    }
    assert catalogue["title"][:] == [None, None, "Faded jeans."]
    assert f"1 of 3 pictures are listed but not below {inshop}: {FRONT}" in caplog.text


def test_paths_that_differ_in_case_are_found_and_absent_ones_listed(inshop):
    catalogue = open_catalogue(inshop)
    paths = [image["path"] for image in catalogue["image"][:]]
    assert paths[0] == f"{inshop}/Img/{BACK.replace('Jackets_Coats', 'jackets_coats')}"
    assert paths[1:] == [f"{inshop}/Img/{FRONT}", f"{inshop}/Img/{DENIM}"]
    unreadable = describe(catalogue, progress=False)["images"]["unreadable"]
    assert [bad["id"] for bad in unreadable if "No such file" in bad["reason"]] == [FRONT]


def test_a_query_and_its_answer_are_no_leak(inshop):
    assert describe(open_catalogue(inshop), check_images=False)["leaking_items"] == {}


@pytest.mark.parametrize("folder", ["IMG/img", "Img/IMG", "img", "Img"])
def test_the_folder_of_pictures_may_be_spelled_in_any_way(tmp_path, folder):
    write(tmp_path / folder / "MEN" / "1.jpg")
    assert locate(tmp_path, ["img/MEN/1.jpg"]) == [f"{tmp_path}/{folder}/MEN/1.jpg"]


def test_of_two_spellings_the_listed_one_is_taken(tmp_path):
    for name in ("a.jpg", "A.jpg"):
        write(tmp_path / "img" / name)
    assert locate(tmp_path, ["img/A.jpg", "img/a.jpg"]) == [f"{tmp_path}/img/A.jpg", f"{tmp_path}/img/a.jpg"]


@pytest.fixture
def consumer2shop(tmp_path):
    table(
        tmp_path / PARTITION,
        "image_pair_name_1 image_pair_name_2 item_id evaluation_status",
        f"{USER} {SHOP}   id_00000001 test",
        f"{USER} {OTHER}  id_00000001 test",
        f"{SHOP} {OTHER}  id_00000001 test",  # contradicts the rows above: a shop's picture as a consumer's
    )
    anno = tmp_path / "Anno"
    table(
        anno / "list_bbox_consumer2shop.txt",
        "image_name clothes_type source_type x_1 y_1 x_2 y_2",
        f"{USER} 1 2 000 000 300 200",
        f"{SHOP} 1 1 001 002 300 225",
    )
    table(anno / "list_attr_type.txt", "attribute_type_cn attribute_type_en", "颜色 colour", "领型 collar shape")
    table(anno / "list_attr_cloth.txt", "cn en type", "红色 bright red 1", "蓝色 blue 1", "圆领 round neck 2")
    table(anno / "list_attr_items.txt", "item_id attribute_labels", "id_00000001 1 -1 -1")
    return tmp_path


def test_consumer2shop_has_one_row_a_picture(consumer2shop, caplog):
    with caplog.at_level(logging.WARNING):
        catalogue = open_catalogue(consumer2shop)
    assert detect(str(consumer2shop)) == "deepfashion-consumer2shop"
    assert catalogue["id"][:] == [USER, SHOP, OTHER]
    assert catalogue["view"][:] == ["consumer", "shop", "shop"]
    assert set(catalogue["split"][:]) == {"test"}
    assert set(catalogue["item"][:]) == {"consumer2shop/id_00000001"}
    assert catalogue["bbox"][:] == [[0, 0, 300, 200], [1, 2, 300, 225], None]
    assert catalogue[0]["attributes"] == {"clothes type": "upper body", "colour": ["bright red"], "collar shape": []}
    assert catalogue[0]["category"] == "T Shirt"
    assert f"1 pictures of {consumer2shop}/{PARTITION} are listed with two" in caplog.text
    assert "list_landmarks_consumer2shop.txt; the catalogue has no landmarks" in caplog.text


def test_items_without_attributes_have_none(tmp_path):
    assert item_labels(tmp_path) == {}


@pytest.fixture
def landmarks(tmp_path):
    names = [f"img/img_0000000{n}.jpg" for n in (1, 2, 3)]
    rows = [f"{name} {split}" for name, split in zip(names, ("train", "val", "test"), strict=True)]
    table(tmp_path / PARTITION, "image_name evaluation_status", *rows)
    lower = "2 4 " + " ".join(f"{flag} 100 20{n}" for n, flag in enumerate((2, 0, 0, 1)))
    full = "3 1 " + " ".join(["0 011 022"] * 8)
    header = "image_name clothes_type variation_type …"
    table(tmp_path / "Anno" / "list_landmarks.txt", header, f"{names[0]} {lower}", f"{names[2]} {full}")
    table(tmp_path / "Anno" / "list_bbox.txt", "image_name x_1 y_1 x_2 y_2", f"{names[0]} 041 095 302 302")
    return tmp_path


def test_landmarks(landmarks):
    catalogue = open_catalogue(landmarks)
    assert detect(str(landmarks)) == "deepfashion-landmarks"
    assert catalogue["split"][:] == ["train", "val", "test"]
    assert catalogue["item"][:] == catalogue["id"][:]
    first = catalogue[0]
    assert [(m["name"], m["y"], m["visible"]) for m in first["landmarks"]] == [
        ("left waistline", 200, False),
        ("right waistline", 201, True),
        ("left hem", 202, True),
        ("right hem", 203, False),
    ]
    assert first["bbox"] == [41, 95, 302, 302]
    assert first["attributes"] == {"clothes type": "lower body", "variation": "medium zoom-in"}
    assert catalogue[1]["landmarks"] is None
    assert len(catalogue[2]["landmarks"]) == 8


def test_landmarks_without_the_column_of_variations(landmarks):
    row = "img/img_00000002.jpg 1 " + " ".join(["0 3 4"] * 6)
    table(landmarks / "Anno" / "list_landmarks.txt", "image_name clothes_type …", row)
    second = open_catalogue(landmarks)[1]
    assert second["attributes"] == {"clothes type": "upper body", "variation": None}
    assert len(second["landmarks"]) == 6


def garment(category=8, style=1, **other):
    points = [[n, n + 100, n % 3] for n in range(CATEGORIES[category][1])]
    fields = {"category_name": CATEGORIES[category][0], "category_id": category, "style": style}
    fields |= {
        "bounding_box": [10, 20, 30, 40],
        "landmarks": [n for point in points for n in point],
        "segmentation": [[1, 2, 3, 4]],
    }
    return fields | {"scale": 2, "occlusion": 1, "zoom_in": 3, "viewpoint": 2} | other


@pytest.fixture
def deepfashion2(tmp_path):
    pictures = {
        "train/annos/000001": {"source": "user", "pair_id": 1, "item10": garment(style=0), "item2": garment(style=1)},
        "train/annos/000002": {"item1": garment(style=1, viewpoint=0), "source": "shop", "pair_id": 1},
        "validation/annos/000001": {"item1": garment(13, style=1), "source": "shop", "pair_id": 1},
    }
    for name, content in pictures.items():
        write(tmp_path / f"{name}.json", json.dumps(content))
    write(tmp_path / "train" / "image" / "000001.jpg")
    (tmp_path / "test" / "image").mkdir(parents=True)
    return tmp_path


def test_deepfashion2_has_one_row_a_garment(deepfashion2):
    catalogue = open_catalogue(deepfashion2)
    assert detect(str(deepfashion2)) == "deepfashion2"
    assert catalogue["id"][:] == [
        "train/000001/item2",
        "train/000001/item10",
        "train/000002/item1",
        "validation/000001/item1",
    ]
    assert catalogue["item"][:] == [
        "deepfashion2/train/1-1",
        "deepfashion2/train/000001/item10",  # style 0 pairs with nothing
        "deepfashion2/train/1-1",
        "deepfashion2/validation/1-1",  # the same numbers in another set are another product
    ]
    assert catalogue["split"][:] == ["train", "train", "train", "val"]
    assert catalogue["view"][:] == ["consumer", "consumer", "shop", "shop"]
    first = catalogue[0]
    assert first["image"]["path"] == f"{deepfashion2}/train/image/000001.jpg"
    assert (first["bbox"], first["category"]) == ([10, 20, 30, 40], "trousers")
    assert [mark["visible"] for mark in first["landmarks"][:4]] == [False, False, True, False]  # 2 is visible
    assert first["landmarks"][2] == {"name": "3", "x": 2, "y": 102, "visible": True}
    assert first["attributes"] == {"scale": "modest", "occlusion": "slight", "zoom_in": "large", "viewpoint": "front"}
    assert catalogue[2]["attributes"]["viewpoint"] is None


def test_deepfashion2_defines_294_landmarks():
    assert sum(count for _, count in CATEGORIES.values()) == 294


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 14}, "item1: expected a category_id of 1..13"),
        ({"landmarks": [1, 2, 2]}, "item1: expected 14 landmarks of 3 numbers for a trousers"),
        ({"bounding_box": [1, 2]}, "item1: expected a bounding_box of 4 numbers"),
    ],
)
def test_a_garment_of_another_form_is_named(tmp_path, change, message):
    path = tmp_path / "train" / "annos" / "1.json"
    write(path, json.dumps({"source": "shop", "pair_id": 1, "item1": garment() | change}))
    with pytest.raises(UserError, match=message):
        garments(path)


@pytest.fixture
def multimodal(tmp_path):
    texture = tmp_path / "labels" / "labels" / "texture"  # as the archive unpacks
    names = ["MEN-Denim-id_00000080-01_7_additional.jpg", "WOMEN-Tees_Tanks-id_00000081-02_1_front.jpg", "odd.jpg"]
    rows = ["3 3 0 1 2 0 1 0 1 4 1 1", "5 4 3 2 4 2 2 2 4 6 2 2"]
    shapes = "".join(f"{name} {row}\n" for name, row in zip(names, rows, strict=False))
    write(tmp_path / "labels" / "labels" / "shape" / "shape_anno_all.txt", shapes)
    write(texture / "fabric_ann.txt", f"{names[0]} 1 0 7\n")
    write(texture / "pattern_ann.txt", f"{names[0]} 3 2 7\n{names[2]} 0 7 7\n")
    write(tmp_path / "captions.json", json.dumps({names[0]: "The man wears jeans."}))
    write(tmp_path / "image" / names[0])
    return tmp_path


def test_multimodal(multimodal):
    catalogue = open_catalogue(multimodal)
    man, woman, odd = catalogue
    assert detect(str(multimodal)) == "deepfashion-multimodal"
    assert man["item"] == "inshop/id_00000080"
    assert (man["category"], man["view"], man["title"]) == ("Denim", "additional", "The man wears jeans.")
    assert man["image"]["path"] == f"{multimodal}/image/{man['id']}"
    assert {g: v for g, v in man["attributes"].items() if v is not None} == {
        "gender": "men",
        "sleeve": "long sleeve",
        "lower length": "long",
        "socks": "no",
        "hat": "yes",
        "glasses": "sunglasses",
        "neckwear": "no",
        "wrist wear": "yes",
        "ring": "no",
        "waist accessory": "belt",
        "neckline": "lapel",
        "cardigan": "no",
        "navel covered": "yes",
        "upper fabric": "cotton",
        "lower fabric": "denim",
        "upper pattern": "pure color",
        "lower pattern": "striped",
    }
    assert {g for g, v in woman["attributes"].items() if v is not None} == {"gender"}  # the rest is not visible
    assert woman["category"] == "Tees Tanks"
    assert (odd["item"], odd["category"], odd["attributes"]["upper pattern"]) == ("odd.jpg", None, "floral")


def test_necklines_are_read_in_the_numbering_of_the_file(multimodal):
    path = multimodal / "labels" / "labels" / "shape" / "shape_anno_all.txt"
    path.write_text(path.read_text().replace(" 6 2 2", " 7 2 2"))
    assert [row["neckline"] for row in open_catalogue(multimodal)["attributes"][:]] == ["standing", None, None]


def test_multimodal_keeps_out_of_the_query_and_gallery_it_shares_products_with(inshop, multimodal):
    name = "WOMEN-Jackets_Coats-id_00000001-02_4_full.jpg"
    write(multimodal / "captions.json", json.dumps({name: "A coat."}))
    parts = [open_catalogue(inshop, format="deepfashion-inshop")]
    parts.append(open_catalogue(multimodal, format="deepfashion-multimodal"))
    together = concatenate(parts)
    splits = dict(zip(together["id"][:], together["split"][:], strict=True))
    assert (splits[BACK], splits[FRONT], splits[name]) == ("query", "gallery", "test")


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


@pytest.fixture
def hm(tmp_path):
    first, second = "0108775015" + ROW.format(code="0108775"), "108775044" + ROW.format(code="108775")
    write(tmp_path / "articles.csv", HEADER + first + second.replace("Solid", "Unknown"))
    write(tmp_path / "images" / "010" / "0108775015.jpg")
    return tmp_path


def test_hm_articles_keep_their_zero(hm, caplog):
    with caplog.at_level(logging.WARNING):
        catalogue = open_catalogue(hm)
    assert detect(str(hm)) == detect(str(hm / "articles.csv")) == "hm"
    assert catalogue["id"][:] == ["0108775015", "0108775044"]
    assert set(catalogue["item"][:]) == {"0108775"}  # the colours of a product stay together
    assert catalogue["image"][0]["path"] == f"{hm}/images/010/0108775015.jpg"
    assert catalogue[0]["attributes"]["graphical_appearance_name"] == "Solid"
    assert catalogue[1]["attributes"]["graphical_appearance_name"] is None
    assert (catalogue[0]["category"], catalogue[0]["title"]) == ("Vest top", "Strap top")
    assert "1 of 2 pictures are listed but not below" in caplog.text


def test_hm_columns_can_be_chosen(hm):
    columns = Columns(title="detail_desc", attributes=("colour_group_name",))
    first = open_catalogue(hm, columns=columns)[0]
    assert first["attributes"] == {"colour_group_name": "Black"}
    assert first["title"] == "Jersey top, with\nnarrow straps."


CUT = {  # fixture → (file, change, message)
    "a count that is no number": ("inshop", PARTITION, "3\n", "x\n", "partition.txt, line 1: says x, but 3 rows"),
    "a count that is wrong": ("inshop", PARTITION, "3\n", "5\n", "partition.txt, line 1: says 5, but 3 rows"),
    "a row that was cut": ("inshop", PARTITION, " id_00000001 gallery", "", "line 4: expected 3 fields, got 1"),
    "a status of another benchmark": ("inshop", PARTITION, "gallery", "val", "line 4: expected one of train, query"),
    "a pair that was cut": ("consumer2shop", PARTITION, f" {OTHER}", "", "line 4: expected 4 fields, got 3"),
    "a box that was cut": ("inshop", "Anno/list_bbox_inshop.txt", " 004", "", "line 4: expected 7 fields, got 6"),
    "a box that is no number": ("inshop", "Anno/list_bbox_inshop.txt", "079", "7?", "line 3: expected numbers"),
    "a landmark that was cut": ("landmarks", "Anno/list_landmarks.txt", " 100 203", "", "line 3: expected a clothes"),
    "a number that was cut": ("landmarks", "Anno/list_landmarks.txt", " 203", "", "line 3: expected visibilities 0, 1"),
    "a type that was cut": ("landmarks", "Anno/list_landmarks.txt", "2 4 2", "2 2", "as many types as the other rows"),
    "a label that is missing": ("inshop", "Anno/list_attr_items.txt", "-1 1", "-1", "line 3: expected 3 fields, got 2"),
    "a type that is unknown": (
        "consumer2shop",
        "Anno/list_attr_cloth.txt",
        "neck 2",
        "neck 3",
        "line 5: expected a Ch",
    ),
    "a description that was cut": ("inshop", "Anno/list_description_inshop.json", "]", "", "json, line 1: no JSON"),
    "an annotation that was cut": ("deepfashion2", "train/annos/000002.json", "}", "", "000002.json, line 1: no JSON"),
    "codes that were cut": (
        "multimodal",
        "labels/labels/texture/fabric_ann.txt",
        " 7",
        "",
        "line 1: expected 4 fields",
    ),
    "a code that is unknown": (
        "multimodal",
        "labels/labels/texture/pattern_ann.txt",
        " 0 7",
        " 9 7",
        "line 2: expected",
    ),
    "an article that was cut": ("hm", "articles.csv", ",Womens Everyday", "\n", "articles.csv, line 2: expected 25"),
    "other columns": ("hm", "articles.csv", "section_name", "section", "lacks section_name"),
}


@pytest.mark.parametrize("case", CUT)
def test_bad_annotation_is_refused_by_file_and_line(case, request):
    fixture, file, before, after, message = CUT[case]
    root = request.getfixturevalue(fixture)
    text = (root / file).read_text(encoding="utf-8")
    assert before in text
    (root / file).write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        open_catalogue(root)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("format_", "missing"),
    [
        ("deepfashion-attributes", "Eval/list_eval_partition.txt"),
        ("deepfashion-inshop", "Eval/list_eval_partition.txt"),
        ("deepfashion-consumer2shop", "Eval/list_eval_partition.txt"),
        ("deepfashion-landmarks", "Eval/list_eval_partition.txt"),
        ("deepfashion2", "train/annos/"),
        ("deepfashion-multimodal", "shape_anno_all.txt"),
        ("hm", "articles.csv"),
    ],
)
def test_a_missing_file_is_named(tmp_path, format_, missing):
    with pytest.raises(UserError, match=missing):
        open_catalogue(tmp_path, format=format_)


def test_a_partition_alone_is_enough_for_retrieval(inshop, consumer2shop, tmp_path):
    for name in ("inshop", "consumer2shop"):
        columns = {"inshop": f"{BACK} id_1 query", "consumer2shop": f"{USER} {SHOP} id_1 val"}[name]
        table(tmp_path / name / PARTITION, "…", columns)
        assert detect(str(tmp_path / name)) == f"deepfashion-{name}"
        assert open_catalogue(tmp_path / name)["item"][0] == f"{name}/id_1"


def test_line_numbers_count_blank_lines(tmp_path):
    write(tmp_path / "list.txt", "2\n\na 1\n\nb 2\n\n")
    assert [line.where for line in listing(tmp_path / "list.txt", header=False)] == [
        f"{tmp_path}/list.txt, line 3",
        f"{tmp_path}/list.txt, line 5",
    ]
