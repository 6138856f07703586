"""DeepFashion's attribute benchmark, on small trees in the layout of its releases."""

import pytest

from fclip.catalogue.deepfashion import FINE, open_coarse, open_fine
from fclip.catalogue.deepfashion_files import FULL, LANDMARKS, landmarks
from fclip.catalogue.readers import open_catalogue
from fclip.errors import UserError

BLOUSE, DRESS = "img/Sheer_Pleated-Front_Blouse/img_00000001.jpg", "img/Maxi_Dress/img_00000002.jpg"


def listing(path, header, rows):
    """A file as released: the count, a header, rows padded with spaces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([str(len(rows)), header, *rows]) + "\n")


def categories(folder):
    rows = ["Anorak         1", "Blouse         1", "Dress          3"]
    listing(folder / "list_category_cloth.txt", "category_name  category_type", rows)


@pytest.fixture
def fine(tmp_path):
    folder = tmp_path / "Anno_fine"
    categories(folder)
    solid = [0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    nothing = [0] * 26
    for split, name, attr in (("train", BLOUSE, solid), ("test", DRESS, nothing)):
        (folder / f"{split}.txt").write_text(f"{name}\n")
        (folder / f"{split}_attr.txt").write_text(" ".join(map(str, attr)) + " \n")
        (folder / f"{split}_cate.txt").write_text("2\n")
        (folder / f"{split}_bbox.txt").write_text("072 079 232 273\n")
        (folder / f"{split}_landmarks.txt").write_text("000 000 " + " ".join(f"{n:03}" for n in range(1, 15)) + "\n")
    return tmp_path


def test_fine(fine):
    catalogue = open_catalogue(fine)  # recognised; fine is preferred
    row = catalogue[0]
    assert row["attributes"] == {  # the paper's example sentence, without a length because it is no dress
        "pattern": "solid",
        "sleeve": "long sleeve",
        "length": None,
        "neckline": "v-shaped",
        "fabric": "chiffon",
        "fit": "conventional",
    }
    assert (row["id"], row["item"], row["split"]) == (BLOUSE, "img/Sheer_Pleated-Front_Blouse", "train")
    assert row["image"] == {"bytes": None, "path": f"{fine}/{BLOUSE}"}
    assert row["category"] == "Blouse"
    assert row["bbox"] == [72, 79, 232, 273]
    assert row["landmarks"][0] == {"name": "left collar", "x": 0, "y": 0, "visible": False}
    assert row["landmarks"][7] == {"name": "right hem", "x": 13, "y": 14, "visible": True}
    assert catalogue[1]["split"] == "test"
    assert set(catalogue[1]["attributes"].values()) == {None}


def test_there_are_26_fine_attributes():
    assert [len(words) for words in FINE.values()] == [7, 3, 3, 4, 6, 3]


def test_files_that_differ_in_rows_are_named_with_both_counts(fine):
    path = fine / "Anno_fine" / "train_bbox.txt"
    path.write_text(path.read_text() * 2)
    with pytest.raises(UserError, match=r"train.txt has 1 rows but train_bbox.txt has 2"):
        open_fine(fine)


@pytest.fixture(params=["Anno", "Anno_coarse"])
def coarse(tmp_path, request):
    anno = tmp_path / request.param
    (tmp_path / "Img" / "img").mkdir(parents=True)
    header = "image_name  evaluation_status"
    listing(tmp_path / "Eval" / "list_eval_partition.txt", header, [f"{BLOUSE}    train", f"{DRESS}   val"])
    categories(anno)
    listing(anno / "list_category_img.txt", "image_name  category_label", [f"{DRESS}  3", f"{BLOUSE}   2"])
    kinds = [
        "a-line            3",
        "abstract print    1",
        "leaf print        1",
        "chiffon           2",
        "boho              5",
    ]
    listing(anno / "list_attr_cloth.txt", "attribute_name  attribute_type", kinds)
    labels = [f"{BLOUSE}   -1  1  1  1  0", f"{DRESS}  -1 -1 -1 -1 -1"]
    listing(anno / "list_attr_img.txt", "image_name  attribute_labels", labels)
    listing(
        anno / "list_bbox.txt", "image_name  x_1  y_1  x_2  y_2", [f"{BLOUSE}   072 079 232 273", f"{DRESS} 1 2 3 4"]
    )
    upper = "1 " + " ".join(f"{flag} {n:03} {n:03}" for n, flag in enumerate((0, 1, 2, 0, 0, 0)))
    listing(anno / "list_landmarks.txt", "image_name  clothes_type  …", [f"{BLOUSE}  {upper}"])
    return tmp_path


def test_coarse(coarse):
    catalogue = open_catalogue(coarse)
    blouse, dress = catalogue
    assert catalogue["split"][:] == ["train", "val"]
    assert catalogue["category"][:] == ["Blouse", "Dress"]  # ids count from 1
    assert blouse["attributes"] == {
        "texture": ["abstract print", "leaf print"],
        "fabric": ["chiffon"],
        "shape": [],  # labelled absent
        "part": None,  # no such attribute in this small list
        "style": None,  # labelled unknown
    }
    assert dress["attributes"]["texture"] == []
    assert blouse["image"]["path"] == f"{coarse}/Img/{BLOUSE}"
    assert [mark["visible"] for mark in blouse["landmarks"]] == [True, False, False, True, True, True]
    assert [mark["name"] for mark in blouse["landmarks"]][4:] == ["left hem", "right hem"]
    assert dress["landmarks"] is None


def test_a_file_that_was_cut_off_is_noticed(coarse):
    path = coarse / "Eval" / "list_eval_partition.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="line 1: says 2, but 1 rows follow"):
        open_coarse(coarse)


def test_a_missing_file_is_named(coarse):
    (coarse / "Eval" / "list_eval_partition.txt").unlink()
    with pytest.raises(UserError, match=r"no such file: .*list_eval_partition.txt"):
        open_coarse(coarse)


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("variation", [[], ["1"]])
def test_the_variation_column_is_told_by_the_number_of_tokens(kind, variation):
    row = [str(kind), *variation, *(["0", "010", "020"] * len(LANDMARKS[kind]))]
    found = landmarks(row)
    assert [mark["name"] for mark in found] == list(LANDMARKS[kind])
    assert all(mark == {"name": mark["name"], "x": 10, "y": 20, "visible": True} for mark in found)


def test_upper_body_hems_are_the_full_bodys_last_two():
    assert [FULL.index(name) for name in LANDMARKS[1]] == [0, 1, 2, 3, 6, 7]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(UserError, match="got 5 numbers"):
        landmarks(["1", "0", "1", "2", "3"])


def test_either_annotation_is_opened_by_the_benchmarks_name(fine, coarse):  # in one folder: fine is preferred
    assert "pattern" in open_catalogue(fine, format="deepfashion-attributes").features["attributes"]
    for path in (fine / "Anno_fine").iterdir():
        path.unlink()
    (fine / "Anno_fine").rmdir()
    assert "texture" in open_catalogue(coarse, format="deepfashion-attributes").features["attributes"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train_attr.txt", "0 1 \n", "train_attr.txt, line 1: expected 26 fields, got 2"),
        ("train_attr.txt", "2 " * 26, "train_attr.txt, line 1: expected one of 0, 1, got '2'"),
        ("train_cate.txt", "4\n", "train_cate.txt, line 1: expected a category of 1..3"),
        ("train_bbox.txt", "072 079 232\n", "train_bbox.txt, line 1: expected 4 fields, got 3"),
        ("train_landmarks.txt", "1 2 3\n", "train_landmarks.txt, line 1: expected 16 fields, got 3"),
    ],
)
def test_a_bad_fine_row_is_named(fine, file, text, message):
    (fine / "Anno_fine" / file).write_text(text)
    with pytest.raises(UserError, match=message):
        open_fine(fine)


def test_a_coarse_row_that_lost_a_label_is_named(coarse):
    path = next(coarse.glob("Anno*/list_attr_img.txt"))
    path.write_text(path.read_text().replace(" 1  0", " 1"))
    with pytest.raises(UserError, match=r"list_attr_img.txt, line 3: expected 6 fields, got 5"):
        open_coarse(coarse)
