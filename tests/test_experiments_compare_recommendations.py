"""Recommendations beside generations: one page, and folders of one form for the study."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from experiments.compare_recommendations import main
from fclip.checkpoint import save_checkpoint
from fclip.generations import LIST, Generation, keep, picture_name, read_generations
from fclip.index import build_index
from fclip.recommend import Recommender


@pytest.fixture(scope="module")
def place(catalogue, build, tmp_path_factory):
    """Two indexes, generations for two of three participants, and what the three asked for."""
    folder = tmp_path_factory.mktemp("comparison")
    for name, options in (("first", {}), ("second", {"text_layers": 2})):
        model = build(**options)
        save_checkpoint(model, folder / f"{name}-model")
        build_index(folder / f"{name}-index", model, catalogue, str(folder / f"{name}-model"))
    (folder / "made").mkdir()
    rng = np.random.default_rng(0)
    for person in ("ann", "bob"):
        for index in range(3):
            picture = Image.fromarray(rng.integers(0, 255, (64, 48, 3), dtype=np.uint8))
            line = Generation(
                picture_name(person, index), person, index, "drawn", "", 1, "sd", 2.0, {}, None, index == 0
            )
            keep(folder / "made", line, picture)
    Image.new("RGB", (30, 40), "red").save(folder / "photo.jpg")
    table = "participant,text,images\nann,red <b>dress</b>,photo.jpg\nbob,blue shirt,\neve,green hat,\n"
    (folder / "people.csv").write_text(table)
    return folder


def run(place, out, *options):
    given = [str(place / "people.csv"), "--out", str(out), *options]
    with pytest.raises(SystemExit) as end:
        main(given)
    return end.value.code


def systems(place):
    return ("--index", f"one={place / 'first-index'}", "--index", f"two={place / 'second-index'}",
            "--generations", f"drawn={place / 'made'}")  # fmt: skip


def test_the_folders_hold_what_the_indexes_answer_in_one_form(place, tmp_path, capsys):
    assert not run(place, tmp_path / "out", *systems(place), "-k", "2", "--size", "40")
    assert "note: drawn has 4 of 6 pictures" in capsys.readouterr().err
    found = {name: read_generations(tmp_path / "out" / "systems" / name) for name in ("one", "two", "drawn")}
    for name, index in (("one", "first-index"), ("two", "second-index")):
        recommender = Recommender.open(place / index)
        told = {"ann": ("red <b>dress</b>", [place / "photo.jpg"]), "bob": ("blue shirt", []), "eve": ("green hat", [])}
        expected = [a.id for text, photos in told.values() for a in recommender.ask([text], photos, k=2)]
        assert [line.settings["id"] for line in found[name]] == expected
    assert [(line.participant, line.index, line.file) for line in found["drawn"]] == [
        ("ann", 0, "ann-0.png"), ("ann", 1, "ann-1.png"), ("bob", 0, "bob-0.png"), ("bob", 1, "bob-1.png"),
    ]  # fmt: skip
    files = [file for name in found for file in (tmp_path / "out" / "systems" / name).iterdir() if file.name != LIST]
    assert {look(file) for file in files} == {((40, 40), "PNG", "RGB", 0)}


def look(file):
    with Image.open(file) as picture:
        return picture.size, picture.format, picture.mode, len(picture.info)


def test_the_page_needs_nothing_but_itself(place, tmp_path):
    assert not run(place, tmp_path / "out", *systems(place), "-k", "2")
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('<figure><img src="data:image/jpeg;base64,') == 2 * 6 + 4
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "red &lt;b&gt;dress&lt;/b&gt;" in page
    assert page.count("<p>none</p>") == 1  # eve got nothing drawn
    assert not run(place, tmp_path / "out", *systems(place), "-k", "1")  # an earlier comparison is replaced


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "expected something to compare: --index NAME=FOLDER or --generations NAME=FOLDER"),
        (["--index", "a"], "expected --index NAME=FOLDER, the name of letters"),
        (["--index", "../a=b"], "expected --index NAME=FOLDER, the name of letters"),
        (["--index", "a=b", "--index", "a=c"], "--index names a twice"),
        (["--index", "a=b", "--generations", "a=c"], "two systems are called a"),
        (["--index", "a=none/here"], "no index in none/here"),
        (["--generations", "a=none/here"], "expected generated pictures in none/here"),
    ],
)
def test_what_cannot_be_compared_is_refused(place, tmp_path, capsys, options, told):
    assert run(place, tmp_path / "out", *options) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_somebody_elses_folder_is_not_replaced(place, tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    assert run(place, tmp_path, *systems(place)) == 2
    assert "is not of an earlier comparison, so it is not replaced" in capsys.readouterr().err
