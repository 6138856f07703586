"""Annotation as released: what is damaged or missing is refused by file and line."""

from __future__ import annotations

import pytest
from releases import BACK, OTHER, PARTITION, SHOP, USER, WRITERS, table, write

from fclip.catalogue.deepfashion_files import item_labels, listing
from fclip.catalogue.readers import detect, open_catalogue
from fclip.errors import UserError


def test_items_without_attributes_have_none(tmp_path):
    assert item_labels(tmp_path) == {}


CUT = {  # release, file, what is replaced, by what, message
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
def test_bad_annotation_is_refused_by_file_and_line(case, tmp_path):
    release, file, before, after, message = CUT[case]
    root = WRITERS[release](tmp_path)
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


def test_a_partition_alone_is_enough_for_retrieval(tmp_path):
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
