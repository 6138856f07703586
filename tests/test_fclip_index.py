"""An index answers exactly as brute force over the embeddings does, whatever groups and values are called."""

from __future__ import annotations

import io
import json
import shutil
import sys

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

import fclip.embedding
import fclip.indexing
from fclip.catalogue.schema import features
from fclip.embedding import embed_catalogue
from fclip.errors import UserError
from fclip.index import build_index, open_index
from fclip.index_rows import THUMBNAIL_PX
from fclip.store.lance import LanceStore

ODD = ["baseColour", "sleeve length", "a.b", 'in"ches', "it's", "back`tick", "tissu été", "select", "1", "group_1"]
OWN = ["id", "item", "split", "title", "thumbnail", "vector", "_distance", "_rowid"]
NASTY = ["women's", 'a "b"', "`", "back\\slash", "100 %", "x'; DROP TABLE pictures; --", "NULL", "été"]


def jpeg(width: int, height: int, colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, "JPEG")
    return stream.getvalue()


def make_catalogue(
    groups: dict[str, list], items: list[str] | None = None, size: tuple[int, int] = (32, 32)
) -> Dataset:
    """Plainly coloured pictures with these attributes: group → a value, or list of values, for each picture."""
    number = len(next(iter(groups.values()))) if groups else len(items or [])
    rng = np.random.default_rng(0)
    colours = [tuple(map(int, rng.integers(0, 256, 3))) for _ in range(number)]
    multi = [group for group, values in groups.items() if any(isinstance(value, list) for value in values)]
    columns = {
        "id": [f"picture {i}" for i in range(number)],
        "item": items or [f"product {i}" for i in range(number)],
        "image": [{"bytes": jpeg(*size, colour), "path": None} for colour in colours],
        "split": ["train"] * number,
        "attributes": [{group: values[i] for group, values in groups.items()} for i in range(number)],
        "title": [f"title {i}" for i in range(number)],
    }
    return Dataset.from_dict(columns, features=features(groups, multi, ["title"]))


def brute_force(model, catalogue, query, k, where=None) -> list[tuple[str, float]]:
    """The definition: every picture that fits, by cosine, the first of each product."""
    vectors = embed_catalogue(model, catalogue).vectors.astype(np.float64)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    found, seen = [], set()
    for row in np.argsort(-cosines, kind="stable"):
        picture = catalogue[int(row)]
        fits = all(picture["attributes"][group] in values for group, values in (where or {}).items())
        if fits and picture["item"] not in seen:
            seen.add(picture["item"])
            found.append((picture["id"], cosines[row]))
    return found[:k]


def counted(function, sizes: list[int]):
    """The function, noting the length of its second argument."""

    def noting(first, second):
        sizes.append(len(second))
        return function(first, second)

    return noting


def contents(index) -> dict[str, tuple]:
    """All that an index says of each picture; a picture that is there twice is an error."""
    rows = [row for part in index.store.scan(index.store._table.schema.names) for row in part.to_pylist()]
    found = {row["id"]: tuple(row.pop("vector")) + tuple(map(str, row.values())) for row in rows}
    assert len(found) == len(rows) == len(index)
    return found


def query_of(seed: int, dimension: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=dimension).astype(np.float32)


@pytest.fixture
def index(tmp_path, model, catalogue):
    return build_index(tmp_path / "index", model, catalogue)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"category": ["dress"]},
        {"colour": ["red", "blue", "black"]},
        {"fit": ["tight"], "pattern": ["solid", "floral"]},
    ],
)
def test_answers_and_scores_are_those_of_brute_force(index, model, catalogue, where) -> None:
    for seed in range(3):
        answers = index.search(query_of(seed), k=5, where=where)
        expected = brute_force(model, catalogue, query_of(seed), 5, where)
        assert [answer.id for answer in answers] == [identity for identity, _ in expected]
        assert [answer.score for answer in answers] == pytest.approx([score for _, score in expected], abs=1e-6)


def test_an_answer_tells_about_its_picture(index, catalogue) -> None:
    answer = index.search(query_of(0), k=1)[0]
    row = catalogue["id"].index(answer.id)
    known = {group: value for group, value in catalogue[row]["attributes"].items() if value}
    assert (answer.item, answer.title, answer.attributes) == (catalogue[row]["item"], None, known)


def test_each_product_answers_once_and_all_of_them_when_k_is_larger(index) -> None:
    answers = index.search(query_of(1), k=1000)
    assert len({answer.item for answer in answers}) == len(answers) == 12
    assert len(index) == 24


def test_a_product_of_many_pictures_does_not_crowd_out_the_others(tmp_path, model) -> None:
    catalogue = make_catalogue({"g": ["x"] * 60}, items=["many"] * 57 + ["a", "b", "c"])
    answers = build_index(tmp_path / "index", model, catalogue).search(query_of(2), k=4)
    expected = brute_force(model, catalogue, query_of(2), 4)
    assert [answer.id for answer in answers] == [identity for identity, _ in expected]
    assert {answer.item for answer in answers} == {"many", "a", "b", "c"}


@pytest.mark.parametrize("group", ODD + OWN)
def test_a_group_may_have_any_name(tmp_path, model, group) -> None:
    catalogue = make_catalogue({"other": ["x"] * 4, group: ["yes", "no", "no", None]})
    index = build_index(tmp_path / "index", model, catalogue)
    assert index.groups == ["other", group]
    assert index.values(group) == {"no": 2, "yes": 1}
    (answer,) = index.search(query_of(0), where={group: "yes"})
    assert (answer.id, answer.title, answer.attributes) == ("picture 0", "title 0", {"other": "x", group: "yes"})


def test_values_are_data_and_never_query_language(tmp_path, model) -> None:
    lists = [[value, "all"] for value in NASTY]
    index = build_index(tmp_path / "index", model, make_catalogue({"one": NASTY, "many": lists}))
    for place, value in enumerate(NASTY):
        for group in ("one", "many"):
            assert [answer.id for answer in index.search(query_of(0), where={group: value})] == [f"picture {place}"]
    assert index.search(query_of(0), where={"one": "' OR 1=1 --"}) == []


def test_of_a_list_any_value_fits(tmp_path, model) -> None:
    trims = [["belt", "buttons"], ["belt"], [], None, ["lace"]]
    index = build_index(tmp_path / "index", model, make_catalogue({"trim": trims, "fit": ["a", "b", "a", "b", None]}))

    def found(**where) -> set[str]:
        return {answer.id[-1] for answer in index.search(query_of(0), where=where)}

    assert found(trim="belt") == {"0", "1"}
    assert found(trim=["buttons", "lace"]) == {"0", "4"}
    assert found(trim="belt", fit="b") == {"1"}
    assert found(trim=["belt", "lace"], fit="b") == {"1"}
    assert index.values("trim") == {"belt": 2, "buttons": 1, "lace": 1}
    belted = index.search(query_of(0), where={"trim": "buttons"})[0]
    assert belted.attributes == {"trim": ["belt", "buttons"], "fit": "a"}


def test_products_without_attributes_can_be_searched(tmp_path, model) -> None:
    index = build_index(tmp_path / "index", model, make_catalogue({"unknown": [None, None, None]}))
    assert [answer.attributes for answer in index.search(query_of(0))] == [{}, {}, {}]
    assert index.values("unknown") == {}


def test_values_need_no_further_library(index, catalogue, monkeypatch) -> None:
    for name in ("lance", "pylance", "pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    colours = [attributes["colour"] for attributes in catalogue["attributes"][:]]
    assert index.values("colour") == {colour: colours.count(colour) for colour in set(colours)}
    assert list(index.values("colour").values()) == sorted(index.values("colour").values(), reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": {"color": "red"}}, "no attribute group 'color' .* did you mean 'colour'"),
        ({"where": {"colour": []}}, "at least one value of colour"),
        ({"k": 0}, "at least 1 answer"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(index, options, message) -> None:
    with pytest.raises(UserError, match=message):
        index.search(query_of(0), **options)


def test_a_vector_of_another_dimension_is_refused(index) -> None:
    with pytest.raises(UserError, match=r"expected a vector of 16 numbers, got shape \(8,\)"):
        index.search(query_of(0, dimension=8))


def test_another_model_is_refused(index, build) -> None:
    index.check_model(build())
    other = build()
    other.fingerprint = "0123"
    with pytest.raises(UserError, match="was built with model unsaved, got model 0123; search with that checkpoint"):
        index.check_model(other)


def test_a_large_catalogue_is_written_in_chunks(tmp_path, index, model, catalogue, monkeypatch) -> None:
    monkeypatch.setattr(fclip.indexing, "WRITTEN_AT_ONCE", 8)
    written, add = [], LanceStore.add
    monkeypatch.setattr(LanceStore, "add", lambda store, rows: (written.append(len(rows)), add(store, rows)))
    chunked = build_index(tmp_path / "chunked", model, catalogue, batch_size=5)
    assert written == [10, 10, 4]
    assert len(chunked) == 24
    for ours, theirs in zip(chunked.search(query_of(0)), index.search(query_of(0)), strict=True):
        assert (ours.id, ours.attributes, ours.thumbnail) == (theirs.id, theirs.attributes, theirs.thumbnail)
        assert ours.score == pytest.approx(theirs.score, abs=1e-6)


def test_thumbnails_are_small_and_keep_their_shape(tmp_path, model) -> None:
    catalogue = make_catalogue({"g": ["x"]}, size=(800, 300))
    thumbnail = build_index(tmp_path / "index", model, catalogue).search(query_of(0))[0].thumbnail
    assert Image.open(io.BytesIO(thumbnail)).size == (THUMBNAIL_PX, 96)


def test_pictures_that_cannot_be_read_are_left_out_and_listed(tmp_path, model, catalogue, broken) -> None:
    index = build_index(tmp_path / "index", model, broken(catalogue, [0, 5]))
    assert len(index) == 22
    listed = json.loads((tmp_path / "index" / "index.json").read_text())["skipped"]
    assert [identity for identity, _ in listed] == [catalogue[0]["id"], catalogue[5]["id"]]
    assert all("picture" in reason for _, reason in listed)


@pytest.mark.parametrize(("rows", "message"), [(2, "the first problem: .*picture"), (0, "the catalogue is empty")])
def test_nothing_to_index_leaves_nothing(tmp_path, model, catalogue, broken, rows, message) -> None:
    with pytest.raises(UserError, match=message):
        build_index(tmp_path / "index", model, broken(catalogue.select(range(rows)), list(range(rows))))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", ["nothing", "an index"])
def test_interrupted_building_leaves_what_was_there_and_can_be_resumed(
    tmp_path, model, catalogue, monkeypatch, before
) -> None:
    folder, embed = tmp_path / "other", fclip.embedding.embed_batches
    if before == "an index":
        build_index(folder, model, catalogue.select(range(4)))

    def interrupted(*args):
        yield next(embed(*args))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fclip.embedding, "embed_batches", interrupted)
        patched.setattr(fclip.indexing, "WRITTEN_AT_ONCE", 1)
        with pytest.raises(KeyboardInterrupt):
            build_index(folder, model, catalogue, overwrite=True, batch_size=5)
    if before == "an index":
        assert len(open_index(folder)) == 4
    else:
        with pytest.raises(UserError, match="no index in"):
            open_index(folder)
    with pytest.raises(UserError, match="holds an unfinished index; continue it with --resume"):
        build_index(folder, model, catalogue)
    embedded = []
    monkeypatch.setattr(fclip.embedding, "_encode", counted(fclip.embedding._encode, embedded))
    resumed = build_index(folder, model, catalogue, batch_size=5, resume=True)
    assert embedded == [1, 5, 5, 5, 4]  # the first: how long a vector is
    assert contents(resumed) == contents(build_index(tmp_path / "whole", model, catalogue, batch_size=5))
    assert not (folder / "building.json").exists()


def test_only_an_index_is_overwritten_and_only_when_asked(tmp_path, index, model, catalogue) -> None:
    with pytest.raises(UserError, match="exists already"):
        build_index(tmp_path / "index", model, catalogue)
    assert len(build_index(tmp_path / "index", model, catalogue.select(range(6)), overwrite=True)) == 6
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(UserError, match="is no index, so it is not overwritten"):
        build_index(tmp_path / "photos", model, catalogue, overwrite=True)
    assert (tmp_path / "photos" / "holiday.jpg").exists()


def test_only_an_index_is_opened(tmp_path, index) -> None:
    with pytest.raises(UserError, match=r"no index in .*; build one with: fclip index"):
        open_index(tmp_path / "nowhere")
    about = tmp_path / "index" / "index.json"
    about.write_text(about.read_text().replace('"format": 2', '"format": 99'))
    with pytest.raises(UserError, match="expected index format 2, got 99"):
        open_index(tmp_path / "index")
    about.write_text("[]")
    with pytest.raises(UserError, match="expected index format 2, got None"):
        open_index(tmp_path / "index")


def test_a_damaged_index_is_one_line(tmp_path, index) -> None:
    shutil.rmtree(tmp_path / "index" / "pictures-1")
    with pytest.raises(UserError, match=r"is damaged: .*; build it again with --overwrite") as error:
        open_index(tmp_path / "index")
    assert "\n" not in str(error.value)
