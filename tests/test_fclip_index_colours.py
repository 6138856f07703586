"""Colours measured from the pictures as a group of an index: built, asked, updated, refused."""

from __future__ import annotations

import pytest
from test_fclip_index import jpeg, make_catalogue

from fclip.cli import main
from fclip.errors import UserError
from fclip.index import build_index, open_index
from fclip.index_rows import MEASURED
from fclip.index_updates import update_index
from fclip.store.lance import LanceStore

SHOWN = {"red": (190, 30, 40), "blue": (50, 90, 190), "white": (240, 240, 238)}


def dyed(*colours: str, said: list[str | None] | None = None):
    """A catalogue of plain pictures of these colours; it states none, or what is `said`."""
    made = make_catalogue({"base": said or ["garment"] * len(colours)})
    images = [{"bytes": jpeg(64, 64, SHOWN[colour]), "path": None} for colour in colours]
    return made.remove_columns("image").add_column("image", images).cast(made.features)


def run(*words: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return ended.value.code


def test_pictures_are_found_by_the_colour_that_they_show(tmp_path, model) -> None:
    index = build_index(tmp_path / "index", model, dyed("red", "blue", "red", "white"), measure_colour=True)
    assert index.groups == ["base", MEASURED]
    assert index.values(MEASURED) == {"red": 2, "blue": 1, "white": 1}
    found = index.search(index.mean, 10, {MEASURED: "red"})
    assert {answer.id for answer in found} == {"picture 0", "picture 2"}
    assert {answer.attributes[MEASURED] for answer in found} == {"red"}
    assert index.values("base", {MEASURED: {"not": ["red"]}}) == {"garment": 2}


def test_an_index_has_no_measured_colours_unless_they_are_wanted(tmp_path, model) -> None:
    index = build_index(tmp_path / "index", model, dyed("red", "blue"))
    assert index.groups == ["base"]


def test_an_update_measures_what_is_new_and_keeps_what_was_measured(tmp_path, model) -> None:
    build_index(tmp_path / "index", model, dyed("red", "blue", "white"), measure_colour=True)
    now = dyed("red", "white", "white", "blue", said=["garment", "garment", "other", "garment"])
    index, changes = update_index(tmp_path / "index", model, now)
    assert (changes.added, changes.changed, changes.removed) == (1, 2, 0)
    colours = [answer.attributes[MEASURED] for answer in index.read([f"picture {i}" for i in range(4)])]
    assert colours == ["red", "white", "white", "blue"]
    assert index.values("base", {MEASURED: "white"}) == {"garment": 1, "other": 1}


def test_a_build_that_was_killed_measures_the_rest(tmp_path, model, monkeypatch) -> None:
    pictures, add = dyed("red", "blue", "white", "red"), LanceStore.add
    monkeypatch.setattr("fclip.indexing.WRITTEN_AT_ONCE", 1)

    def killed_at_the_second(store, rows) -> None:
        if store.count():
            raise KeyboardInterrupt
        add(store, rows)

    monkeypatch.setattr(LanceStore, "add", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "index", model, pictures, batch_size=2, measure_colour=True)
    monkeypatch.setattr(LanceStore, "add", add)
    with pytest.raises(UserError, match="give what it was begun with"):
        build_index(tmp_path / "index", model, pictures, batch_size=2, resume=True)
    index = build_index(tmp_path / "index", model, pictures, batch_size=2, resume=True, measure_colour=True)
    assert index.values(MEASURED) == {"red": 2, "blue": 1, "white": 1}


def test_a_catalogue_may_have_no_group_of_that_name(tmp_path, model) -> None:
    with pytest.raises(UserError, match=r"'colour \(measured\)' is the name of what is measured"):
        build_index(tmp_path / "index", model, make_catalogue({MEASURED: ["red"]}), measure_colour=True)


def test_the_command_line_measures_and_filters(tmp_path, model, capsys) -> None:
    from fclip.checkpoint import save_checkpoint

    save_checkpoint(model, tmp_path / "model")
    out = str(tmp_path / "index")
    source = ["index", "--checkpoint", str(tmp_path / "model"), "--catalogue", "drawn:4", "--out", out]
    assert run(*source, "--measure-colour") == 0
    index = open_index(out)
    assert sum(index.values(MEASURED).values()) == len(index)
    colour = next(iter(index.values(MEASURED)))
    sheet = ["--sheet", str(tmp_path / "sheet.png")]
    assert run("search", out, "--text", "garment", "--where", f"{MEASURED}={colour}", *sheet) == 0
    assert colour in capsys.readouterr().out
    assert run(*source, "--update", "--measure-colour") == 2
    assert "leave out --overwrite, --resume, --store and --measure-colour" in capsys.readouterr().err
