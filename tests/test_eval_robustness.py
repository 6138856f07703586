"""Surfacing against severity: the scores are those of measuring each corrupted split by itself."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from eval.corruptions import corrupt
from eval.robustness import run_robustness
from eval.surfacing import evaluate_surfacing
from fclip.errors import UserError
from fclip.images import decode

ONLY = ["jpeg", "crop"]


@pytest.fixture
def world(model, catalogue, broken, monkeypatch):
    """A small random model and a dozen drawn garments, the second picture of which cannot be read."""
    found = broken(catalogue, [1])
    monkeypatch.setattr("fclip.pretrained.open_model", lambda source, groups: model)
    monkeypatch.setattr("fclip.catalogue.open_catalogue", lambda paths, **_: found)
    return found


def corrupted(catalogue: Dataset, kind: str, severity: int) -> Dataset:
    columns = catalogue.to_dict()
    for id_, cell in zip(columns["id"], columns["image"], strict=True):
        if cell["bytes"] != b"no picture":
            stream = io.BytesIO()
            corrupt(decode(cell), kind, severity, id_, 5).save(stream, "png")
            cell["bytes"] = stream.getvalue()
    return Dataset.from_dict(columns, features=catalogue.features)


def test_each_point_is_the_surfacing_accuracy_of_a_corrupted_split(world, model, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.robustness.BLOCK", 5)
    files = {"out": tmp_path / "out.json", "figure": tmp_path / "curves.png"}
    result = run_robustness("tiny", "drawn", "all", only=ONLY, seed=5, bootstrap=30, **files)
    for kind, severity in (("jpeg", 0), ("jpeg", 5), ("crop", 3)):
        alone = evaluate_surfacing(model, corrupted(world, kind, severity), bootstrap=30, seed=5)["metrics"]
        point = result["curves"][kind][severity]
        for name in ("text_sfa", "attribute_sfa", "attribute_sfa_macro"):
            assert point[name] == alone[name]
    assert json.loads(files["out"].read_text()) == result
    with Image.open(files["figure"]) as curves:
        assert curves.width > 500
    assert result["counts"]["unreadable"] == 1
    assert result["skipped"][0][0] == world["id"][1]


def test_means_and_changes_are_of_the_points(world):
    result = run_robustness("tiny", "drawn", "all", only=ONLY, bootstrap=20)
    for kind, points in result["curves"].items():
        values = [point["attribute_sfa"]["value"] for point in points]
        assert result["means"][kind]["attribute_sfa"]["value"] == pytest.approx(np.mean(values[1:]), abs=1e-5)
        assert points[2]["attribute_sfa_change"]["value"] == pytest.approx(values[2] - values[0], abs=1e-5)
        assert points[0]["attribute_sfa_change"] == {"value": 0, "low": 0, "high": 0}
        correct = [list(map(int, marks)) for marks in result["pictures"]["correct"][kind]]
        assert [point["text_sfa"]["value"] for point in points[1:]] == pytest.approx(np.mean(correct, 1), abs=1e-5)
    assert result["metrics"]["shifts_text_sfa"] == result["means"]["crop"]["text_sfa"]
    assert result["metrics"]["text_sfa"] == result["curves"]["crop"][0]["text_sfa"]
    again = run_robustness("tiny", "drawn", "all", only=ONLY, bootstrap=20)
    assert again == result
    other = run_robustness("tiny", "drawn", "all", only=ONLY, bootstrap=0, seed=1)
    assert other["pictures_sha256"] != result["pictures_sha256"]


def test_larger_pictures_are_reduced_first(world):
    small = run_robustness("tiny", "drawn", "all", only=["jpeg"], bootstrap=0, size_px=16)
    whole = run_robustness("tiny", "drawn", "all", only=["jpeg"], bootstrap=0, size_px=500)
    assert small["pictures_sha256"] != whole["pictures_sha256"]


def test_mistakes_are_told_before_the_work(world, tmp_path):
    with pytest.raises(UserError, match="no corruption or shift 'blurr'; did you mean 'blur'"):
        run_robustness("tiny", "drawn", only=["blurr"])
    with pytest.raises(UserError, match="split 'tset' is empty"):
        run_robustness("tiny", "drawn", "tset")
    with pytest.raises(UserError, match="cannot draw a 'xyz' picture"):
        run_robustness("tiny", "drawn", "all", figure=tmp_path / "a.xyz")
