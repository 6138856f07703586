"""The commands print what they measured and end as they should."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eval.__main__ import main
from fclip.catalogue.storage import save_catalogue


@pytest.fixture
def world(model, catalogue, monkeypatch, tmp_path):
    """A saved catalogue of drawn garments, and one small random model under any name."""
    monkeypatch.setattr("fclip.pretrained.open_model", lambda source, groups: model)
    save_catalogue(catalogue, tmp_path / "garments")
    return str(tmp_path / "garments")


def run(*argv: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, argv)))
    return end.value.code or 0


def test_robustness_prints_curves(world, tmp_path, capsys):
    out, figure = tmp_path / "r.json", tmp_path / "r.svg"
    args = ("--checkpoint", "x", "--catalogue", world, "--split", "all", "--only", "contrast", "--bootstrap", 10)
    assert run("robustness", *args, "--json", out, "--figure", figure) == 0
    shown = capsys.readouterr().out
    for word in ("contrast", "as is", "at 5", "chance", "corruptions", "written"):
        assert word in shown
    assert figure.read_text().startswith("<?xml")
    assert "--only contrast" in json.loads(out.read_text())["command"]


def test_cross_domain_prints_both_kinds_and_what_was_left_out(world, tmp_path, capsys):
    (tmp_path / "map.yaml").write_text(
        "category: {values: {dress: dress, skirt: skirt, sweater: sweater, t-shirt: t-shirt}}"
    )
    args = ("--checkpoint", "x", "--catalogue", world, "--split", "train", "--mapping", tmp_path / "map.yaml")
    assert run("cross-domain", *args, "--other", world, "--other-split", "train", "--bootstrap", 10) == 0
    shown = capsys.readouterr().out
    for word in (
        "category@1",
        "text_sfa",
        "own − other",
        "frequent",
        "dress",
        "not mapped, left out: category:",
    ):
        assert word in shown


def test_attributes_and_landmarks_print_a_table(world, catalogue, tmp_path, capsys):
    args = ("--catalogue", world, "--split", "train", "--bootstrap", 10)
    assert run("attributes", "--checkpoint", "x", *args, "--k", 1) == 0
    shown = capsys.readouterr().out
    for word in ("category_macro@1", "all_joint@1", "all_mean@1", "chance", "most frequent"):
        assert word in shown
    marks = [(row["id"], mark["name"], mark["x"], mark["y"]) for row in catalogue for mark in row["landmarks"]]
    lines = ["id,landmark,x,y", *(",".join(map(str, mark)) for mark in marks)]
    (tmp_path / "right.csv").write_text("\n".join(lines))
    assert run("landmarks", "--predictions", tmp_path / "right.csv", *args, "--json", tmp_path / "l.json") == 0
    assert "right" in (shown := capsys.readouterr().out)
    assert "mean position" in shown
    assert json.loads((tmp_path / "l.json").read_text())["metrics"]["error"]["value"] == pytest.approx(0, abs=1e-6)


def test_leaks_fail_only_when_strict(world, catalogue, tmp_path, capsys):
    assert run("leaks", "--catalogue", world) == 0
    assert "train–test" in capsys.readouterr().out
    rows = catalogue.to_list()
    rows[0]["split"] = "test" if rows[0]["split"] == "train" else "train"  # its second view stays where it was
    save_catalogue(type(catalogue).from_list(rows, features=catalogue.features), tmp_path / "leaking")
    assert run("leaks", "--catalogue", tmp_path / "leaking") == 0
    assert run("leaks", "--catalogue", tmp_path / "leaking", "--strict") == 1


def test_a_users_mistake_is_one_line(world, tmp_path, capsys):
    np.savez(tmp_path / "p.npz", id=np.array(["a"]), columns=np.array(["category:dress"]), scores=np.ones((1, 1)))
    assert run("attributes", "--catalogue", world, "--split", "train", "--predictions", tmp_path / "p.npz") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1


@pytest.mark.parametrize("name", ["robustness", "cross-domain", "attributes", "landmarks", "leaks"])
def test_help_teaches_with_an_example(name, capsys):
    assert run(name, "--help") == 0
    assert f"python -m eval {name} " in capsys.readouterr().out
