"""Predictions from files: three formats say the same, and what does not fit is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eval.predictions import match, read_points, read_scores
from fclip.errors import UserError

IDS, COLUMNS = ["a.jpg", "b.jpg"], ["category:Dress", "texture:polka dot"]
SCORES = np.array([[0.5, -1.25], [3, 0.1]])


def written(folder, kind):
    path = folder / f"them{kind}"
    if kind == ".npz":
        np.savez(path, id=np.array(IDS), columns=np.array(COLUMNS), scores=SCORES)
    elif kind == ".json":
        path.write_text(json.dumps({"id": IDS, "columns": COLUMNS, "scores": SCORES.tolist()}))
    else:
        rows = [",".join(["id", *COLUMNS]), *(f"{i},{a},{b}" for i, (a, b) in zip(IDS, SCORES, strict=True)), ""]
        path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize("kind", [".csv", ".json", ".npz"])
def test_every_format_says_the_same(tmp_path, kind):
    found = read_scores(written(tmp_path, kind))
    assert (found.ids, found.columns, found.scores.tolist()) == (IDS, COLUMNS, SCORES.tolist())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,x\n", "line 1: expected id and columns such as texture:floral, got 'name'"),
        ("id,x,y\na,1\n", "line 2: expected 3 fields, got 2"),
        ("id,x\na,1\n\nb,many\n", r"line 4: expected numbers, got \['many'\]"),
        ("id,x\na,1\na,2\n", "id 'a' occurs twice"),
        ("id,x,x\na,1,2\n", "column 'x' occurs twice"),
        ("id,x\na,nan\n", "the score of x for a is no finite number"),
    ],
)
def test_a_bad_table_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "them.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_scores(tmp_path / "them.csv")


def test_objects_in_an_archive_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "them.npz", id=np.array(IDS, object), columns=np.array(COLUMNS), scores=SCORES)
    with pytest.raises(UserError, match="without pickle"):
        read_scores(tmp_path / "them.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4 cut off")
    with pytest.raises(UserError, match="expected arrays id, columns"):
        read_scores(tmp_path / "cut.npz")


@pytest.mark.parametrize("known", [[], {"id": ["a"]}, {"id": ["a"], "columns": ["x", "y"], "scores": [[1]]}])
def test_json_of_another_form_is_refused(tmp_path, known):
    (tmp_path / "them.json").write_text(json.dumps(known))
    with pytest.raises(UserError, match=r"them.json: expected"):
        read_scores(tmp_path / "them.json")


def test_files_of_other_kinds_and_absent_ones_are_named(tmp_path):
    (tmp_path / "them.pkl").write_text("")
    for name, message in (("them.pkl", "expected predictions in .csv, .json, .npz"), ("none.csv", "no such file")):
        with pytest.raises(UserError, match=message):
            read_scores(tmp_path / name)


def test_points_are_read_from_both_formats(tmp_path):
    rows = [{"id": "a", "landmark": "left hem", "x": 1.5, "y": 2}, {"id": "a", "landmark": "right hem", "x": 3, "y": 4}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    (tmp_path / "p.csv").write_text("landmark,y,x,id\nleft hem,2,1.5,a\nright hem,4,3,a\n")
    expected = {"a": {"left hem": (1.5, 2.0), "right hem": (3.0, 4.0)}}
    assert read_points(tmp_path / "p.json") == read_points(tmp_path / "p.csv") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,landmark,x\n", "line 1: expected columns id, landmark, x, y, y is missing"),
        ("id,landmark,x,y\na,hem,1\n", "line 2: expected 4 fields, got 3"),
        ("id,landmark,x,y\na,hem,1,inf\n", "line 2: expected finite coordinates"),
        ("id,landmark,x,y\na,hem,1,2\na,hem,1,2\n", "line 3: landmark hem of a occurs twice"),
    ],
)
def test_bad_points_are_refused_by_line(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_points(tmp_path / "p.csv")


def test_ids_are_matched_whatever_their_order_and_mismatches_named():
    assert match(["c", "a", "b"], ["a", "b"], ["a", "b", "c"], "f").tolist() == [1, 2]
    with pytest.raises(UserError, match="f: no prediction for 4 of 5 pictures: b, c, d, …"):
        match(["a"], list("abcde"), list("abcde"), "f")
    with pytest.raises(UserError, match="f: 1 ids are not in the catalogue: z"):
        match(["a", "z"], ["a"], ["a", "b"], "f")
