"""The landmark protocol against a naive loop over drawn garments."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from eval.landmarks import CURVE, run_landmarks
from fclip.catalogue.drawn import draw_catalogue
from fclip.catalogue.storage import save_catalogue
from fclip.errors import UserError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A saved catalogue of 30 pictures, 60 pixels wide, and its rows."""
    catalogue = draw_catalogue(items=15, views=2, size_px=60)
    path = tmp_path_factory.mktemp("landmarks") / "catalogue"
    save_catalogue(catalogue, path)
    return str(path), list(catalogue)


def write(path, points):
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "landmark", "x", "y"])
        table.writerows((id_, name, *xy) for (id_, name), xy in points.items())
    return path


@pytest.fixture
def predicted(drawn, tmp_path):
    """Predictions off by some pixels, wild where the point is not visible; (id, name) → x, y and the file."""
    rng, points = np.random.default_rng(0), {}
    for row in drawn[1]:
        for mark in row["landmarks"]:
            off = rng.normal(scale=4, size=2) if mark["visible"] else (1e6, 1e6)
            points[row["id"], mark["name"]] = mark["x"] + off[0], mark["y"] + off[1]
    return points, write(tmp_path / "theirs.csv", points)


@pytest.mark.parametrize("scale", ["picture", "box"])
def test_errors_are_those_of_a_naive_loop(drawn, predicted, scale, tmp_path):
    from io import BytesIO

    from PIL import Image

    (path, rows), (points, file) = drawn, predicted
    far: dict[str, list[float]] = {}
    for row in (row for row in rows if row["split"] == "train"):
        left, top, right, bottom = row["bbox"]
        size = (right - left, bottom - top) if scale == "box" else Image.open(BytesIO(row["image"]["bytes"])).size
        for mark in (mark for mark in row["landmarks"] if mark["visible"]):
            x, y = points[row["id"], mark["name"]]
            distance = np.hypot((x - mark["x"]) / size[0], (y - mark["y"]) / size[1])
            far.setdefault(mark["name"], []).append(distance)
    result = run_landmarks(file, path, "train", scale=scale, bootstrap=50, out=tmp_path / "out.json")
    every = np.concatenate(list(far.values()))
    metrics = result["metrics"]
    assert metrics["error"]["value"] == pytest.approx(np.mean([np.mean(of) for of in far.values()]), abs=1e-6)
    assert metrics["error_pooled"]["value"] == pytest.approx(every.mean(), abs=1e-6)
    assert metrics["pdj@0.1"]["value"] == pytest.approx((every <= 0.1).mean(), abs=1e-6)
    assert metrics["error"]["low"] < metrics["error"]["value"] < metrics["error"]["high"]
    assert result["curve"]["pdj"] == pytest.approx([(every <= limit).mean() for limit in CURVE], abs=1e-6)
    for name, of in far.items():
        assert result["landmarks"][name]["error"]["value"] == pytest.approx(np.mean(of), abs=1e-6)
        assert result["landmarks"][name]["visible"] == len(of)
    assert json.loads((tmp_path / "out.json").read_text())["command"] == result["command"]


def test_the_mean_position_is_measured_beside(drawn, predicted):
    path, rows = drawn
    result = run_landmarks(predicted[1], path, "train", scale="box", bootstrap=0)
    inside: dict[str, list] = {}
    for row in (row for row in rows if row["split"] == "train"):
        x1, y1, x2, y2 = row["bbox"]
        for mark in (mark for mark in row["landmarks"] if mark["visible"]):
            inside.setdefault(mark["name"], []).append([(mark["x"] - x1) / (x2 - x1), (mark["y"] - y1) / (y2 - y1)])
    errors = [np.linalg.norm(np.array(p) - np.mean(p, 0), axis=1).mean() for p in inside.values()]
    found = result["baselines"]["mean_position"]["error"]["value"]
    assert found == pytest.approx(np.mean(errors), abs=1e-5)


def test_what_does_not_fit_is_named(drawn, predicted, tmp_path):
    path, rows = drawn
    points = predicted[0]
    first = next(row for row in rows if row["split"] == "train")
    seen = next(mark["name"] for mark in first["landmarks"] if mark["visible"])
    cases = {
        f"no prediction for 1 of .* pictures: {first['id']}": {k: v for k, v in points.items() if k[0] != first["id"]},
        "1 ids are not in the catalogue: stranger": {**points, ("stranger", "left hem"): (1, 1)},
        "no landmark 'left hemm' in the catalogue; did you mean 'left hem'": {
            **points,
            (first["id"], "left hemm"): (1, 1),
        },
        f"1 visible landmarks have no prediction; the first: {seen} of {first['id']}": {
            k: v for k, v in points.items() if k != (first["id"], seen)
        },
    }
    for message, changed in cases.items():
        with pytest.raises(UserError, match=message):
            run_landmarks(write(tmp_path / "bad.csv", changed), path, "train", baselines=False, bootstrap=0)
    with pytest.raises(UserError, match=r"no scale 'boxes'; did you mean 'box'"):
        run_landmarks(predicted[1], path, "train", scale="boxes")


def test_a_catalogue_without_landmarks_is_refused(drawn, predicted, tmp_path):
    plain = draw_catalogue(items=2, views=1, size_px=32).remove_columns(["landmarks"])
    save_catalogue(plain, tmp_path / "plain")
    with pytest.raises(UserError, match="the catalogue has no landmarks"):
        run_landmarks(predicted[1], tmp_path / "plain", "all")
