"""A large index tells how many of the true neighbours it finds: when it is built, and in its index.json ever after."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fclip.store.lance
from fclip.catalogue.drawn import draw_catalogue
from fclip.catalogue.storage import save_catalogue
from fclip.checkpoint import save_checkpoint
from fclip.cli import main
from fclip.index import open_index


@pytest.fixture(scope="module")
def shop(tmp_path_factory, build) -> Path:
    """A folder with a catalogue of 300 pictures and a model."""
    folder = tmp_path_factory.mktemp("shop")
    save_catalogue(draw_catalogue(items=150, views=2, size_px=32), folder / "garments")
    save_checkpoint(build(), folder / "model")
    return folder


@pytest.fixture
def indexed(shop, tmp_path, capsys, monkeypatch):
    """indexed(*options) → what `fclip index` says, of an index that is large enough to be searched approximately."""
    monkeypatch.setattr(fclip.store.lance, "EXACT_UP_TO", 200)

    def run(*options: str) -> list[str]:
        words = f"index --checkpoint {shop}/model --catalogue {shop}/garments --out {tmp_path}/index"
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*words.split(), *options])
        assert ended.value.code == 0
        return capsys.readouterr().err.splitlines()

    return run


def about(folder: Path) -> dict:
    return json.loads((folder / "index" / "index.json").read_text())


def test_recall_is_told_and_kept_with_and_without_a_filter(indexed, tmp_path) -> None:
    told, search = indexed(), about(tmp_path)["search"]
    assert search["kind"] == "IVF_RQ"
    assert search["recall"].keys() == {"photographs", "words"}
    (filtered,) = search["filtered"]  # one in 200 are fewer than are asked for, so that nothing is measured there
    ((group, value),) = filtered["where"].items()
    index = open_index(tmp_path / "index")
    shares = {(g, v): n / 300 for g in index.groups for v, n in index.values(g).items()}
    assert filtered["share"] == shares[group, value]
    assert abs(np.log(filtered["share"] / 0.1)) == min(abs(np.log(share / 0.1)) for share in shares.values())
    assert filtered["recall"].keys() == {"photographs", "words"}

    def words(recall: dict) -> str:
        return ", ".join(f"{recall[kind]:.3f} of {kind}" for kind in recall)

    assert told[1] == f"searched by IVF_RQ, recall@10: {words(search['recall'])}"
    assert told[2] == f"under {group}={value} ({filtered['share']:.2%} of the pictures): {words(filtered['recall'])}"


def test_recall_that_is_too_low_is_one_line(indexed, monkeypatch) -> None:
    monkeypatch.setattr("fclip.store.lance.recall", lambda *args: 0.99)
    monkeypatch.setattr("fclip.store.recall.recall", lambda *args: 0.8)
    told = indexed()
    where = told[2].removeprefix("under ").partition(" (")[0]
    under = f"0.800 of photographs under {where}, 0.800 of words under {where}"
    assert told[3:] == [f"note: recall below the 0.985 aimed at: {under}"]
    monkeypatch.setattr("fclip.store.lance.recall", lambda *args: 0.5)
    told = indexed("--overwrite")
    assert told[3:] == [f"note: recall below the 0.985 aimed at: 0.500 of photographs, 0.500 of words, {under}"]


def test_an_index_from_before_tells_what_it_knows(indexed, tmp_path) -> None:
    first = indexed()
    known = about(tmp_path)
    del known["search"]["filtered"]
    (tmp_path / "index" / "index.json").write_text(json.dumps(known))
    assert open_index(tmp_path / "index").search(np.ones(16, np.float32))
    unchanged = indexed("--update")
    assert unchanged[1] == first[1]
    assert not any(line.startswith("under ") for line in unchanged)


def test_an_index_that_is_searched_exactly_has_no_recall_to_tell(indexed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fclip.store.lance, "EXACT_UP_TO", 300)
    assert indexed() == [f"300 pictures in {tmp_path}/index"]
    assert about(tmp_path)["search"] == {"kind": "exact", "settings": {}, "recall": {}, "filtered": []}
