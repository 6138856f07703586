"""An index answers exactly as brute force over the embeddings does, whatever groups and values are called."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

import fclip.embedding
import fclip.index
import fclip.indexing
import fclip.store.qdrant
from fclip.catalogue.schema import features
from fclip.embedding import embed_catalogue
from fclip.errors import StoreUnavailableError, UserError
from fclip.index import build_index, open_index
from fclip.index_rows import THUMBNAIL_PX
from fclip.index_updates import update_index
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
    rows = [row for part in index.store.scan(index.store._schema.names) for row in part.to_pylist()]
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
        with pytest.raises(UserError, match=r"is unfinished; go on with: fclip index --resume"):
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


# --- bringing it up to date ---


def changed(catalogue: Dataset, rows: list[dict]) -> Dataset:
    return Dataset.from_list(rows, features=catalogue.features)


def test_an_update_touches_what_changed_and_ends_like_a_new_index(tmp_path, model, monkeypatch) -> None:
    groups = {"colour": ["red", "blue", "red", None, "pink", "grey"], "price": ["1", "2", "3", "4", "5.5", None]}
    catalogue = make_catalogue(groups)
    before = list(catalogue)
    build_index(tmp_path / "index", model, catalogue.select(range(5)))
    rows = [dict(row) for row in before if row["id"] != "picture 1"]  # gone
    rows[0]["attributes"] = {"colour": "green", "price": "7"}  # says something else
    rows[1]["image"] = {"bytes": jpeg(32, 32, (1, 2, 3)), "path": None}  # has another picture
    after = changed(catalogue, rows)  # and the last one is new
    embedded = []
    monkeypatch.setattr(fclip.embedding, "_encode", counted(fclip.embedding._encode, embedded))
    index, changes = update_index(tmp_path / "index", model, after)
    assert (changes.added, changes.changed, changes.removed) == (1, 2, 1)
    assert sorted(embedded) == [1, 1]
    whole = build_index(tmp_path / "whole", model, after, batch_size=1)
    found, expected = contents(index), contents(whole)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name][16:] == values[16:]
        assert found[name][:16] == pytest.approx(values[:16], abs=1e-6)
    assert index.about["pictures"] == 5
    assert index.values("colour") == {"green": 1, "grey": 1, "pink": 1, "red": 1}
    embedded.clear()
    assert not update_index(tmp_path / "index", model, after)[1].any
    assert embedded == []


def test_an_update_keeps_what_can_no_longer_be_read_and_lists_it(tmp_path, model, catalogue, broken) -> None:
    build_index(tmp_path / "index", model, catalogue)
    index, changes = update_index(tmp_path / "index", model, broken(catalogue, [3]))
    # Bytes that are no picture are another picture, which cannot be read.
    assert (len(index), changes.any) == (24, False)
    assert [identity for identity, _ in index.about["skipped"]] == [catalogue[3]["id"]]


def test_an_update_of_another_model_or_other_groups_is_refused(tmp_path, model, build) -> None:
    build_index(tmp_path / "index", model, make_catalogue({"price": ["1", "2"]}))
    with pytest.raises(UserError, match="price has only numbers in the index, got 'cheap'; build the index again"):
        update_index(tmp_path / "index", model, make_catalogue({"price": ["1", "cheap"]}))
    with pytest.raises(UserError, match="the index has the attribute groups price, the catalogue cost"):
        update_index(tmp_path / "index", model, make_catalogue({"cost": ["1", "2"]}))
    other = build()
    other.fingerprint = "0123"
    with pytest.raises(UserError, match="was built with model unsaved, got model 0123"):
        update_index(tmp_path / "index", other, make_catalogue({"price": ["1", "2"]}))


# --- what else it knows ---


def test_numbers_are_asked_for_by_range_and_shown_as_they_were_written(tmp_path, model) -> None:
    groups = {"price": ["10", "-2.5", None, "50"], "code": ["007", "1", "2", "3"], "empty": [None] * 4}
    index = build_index(tmp_path / "index", model, make_catalogue(groups))
    assert index.numbers == ["price"]

    def found(where) -> list[str]:
        return sorted(answer.id[-1] for answer in index.search(query_of(0), where=where))

    assert found({"price": {"min": 0}}) == ["0", "3"]
    assert found({"price": {"min": -3, "max": 10}}) == ["0", "1"]
    assert found({"price": [10, "50"]}) == ["0", "3"]
    assert found({"price": {"not": 10}}) == ["1", "2", "3"]
    assert found({"code": {"not": ["007", "1"]}}) == ["2", "3"]
    assert index.count({"price": {"max": 10}}) == 2
    assert index.values("price") == {"-2.5": 1, "10": 1, "50": 1}
    assert index.values("code", {"price": {"min": 20}}) == {"3": 1}
    assert index.read(["picture 1"])[0].attributes == {"price": "-2.5", "code": "1"}


def test_candidates_are_pictures_with_their_vectors(index, model, catalogue) -> None:
    found = index.candidates(query_of(3), 10)
    vectors = embed_catalogue(model, catalogue).vectors
    cosines = vectors @ query_of(3) / np.linalg.norm(query_of(3))
    order = np.argsort(-cosines)[:10]
    assert found.ids == [catalogue[int(row)]["id"] for row in order]
    assert found.items == [catalogue[int(row)]["item"] for row in order]
    assert found.scores == pytest.approx(cosines[order], abs=1e-5)
    assert found.vectors == pytest.approx(vectors[order], abs=1e-6)
    none = index.candidates(query_of(3), 10, {"colour": "nowhere"})
    assert (none.ids, none.vectors.shape) == ([], (0, 16))


def test_pictures_and_vectors_are_read_by_id(index, model, catalogue) -> None:
    names = [catalogue[5]["id"], catalogue[2]["id"], catalogue[5]["id"]]
    vectors = embed_catalogue(model, catalogue).vectors
    assert index.vectors(names) == pytest.approx(vectors[[5, 2, 5]], abs=1e-6)
    assert [answer.id for answer in index.read([*names, "nobody"])] == names
    with pytest.raises(UserError, match="no picture 'nobody' in the index"):
        index.vectors(["nobody"])


def test_the_sample_is_drawn_from_the_catalogue(index, model, catalogue, monkeypatch, tmp_path) -> None:
    vectors = embed_catalogue(model, catalogue).vectors
    assert np.sort(index.sample, axis=0) == pytest.approx(np.sort(vectors, axis=0), abs=1e-6)
    assert index.mean == pytest.approx(vectors.mean(axis=0), abs=1e-6)
    monkeypatch.setattr(fclip.indexing, "SAMPLE", 5)
    assert build_index(tmp_path / "few", model, catalogue).sample.shape == (5, 16)


def test_many_answers_are_those_of_few_and_more(tmp_path, index, monkeypatch) -> None:
    few = index.search(query_of(4), k=12)
    monkeypatch.setattr(fclip.index, "IN_ONE_GO", 1)
    assert index.search(query_of(4), k=12) == few


def test_of_pictures_with_one_id_the_first_counts_and_the_others_are_listed(tmp_path, model, catalogue) -> None:
    rows = list(catalogue.select(range(4)))
    rows[2] = rows[2] | {"id": rows[0]["id"]}
    index = build_index(tmp_path / "index", model, changed(catalogue, rows))
    assert len(index) == 3
    assert index.about["skipped"] == [[rows[0]["id"], "another picture has the same id"]]
    assert index.read([rows[0]["id"]])[0].attributes == {k: v for k, v in rows[0]["attributes"].items() if v}


def test_a_new_index_is_built_beside_and_the_old_one_still_answers_its_readers(tmp_path, model, catalogue) -> None:
    old = build_index(tmp_path / "index", model, catalogue.select(range(6)))
    new = build_index(tmp_path / "index", model, catalogue, overwrite=True)
    assert (len(old.search(query_of(0), k=99)), len(new)) == (3, 24)
    build_index(tmp_path / "index", model, catalogue, overwrite=True)
    assert not (tmp_path / "index" / "pictures-1").exists()
    assert new.search(query_of(0))


def test_a_disk_that_fills_while_an_index_begins_is_resumed(tmp_path, model, catalogue, monkeypatch) -> None:
    create = fclip.indexing.create_store

    def full(uri, schema):
        create(uri, schema)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(fclip.indexing, "create_store", full)
        with pytest.raises(UserError, match="the disk is full; free some, then use --resume"):
            build_index(tmp_path / "index", model, catalogue)
    assert len(build_index(tmp_path / "index", model, catalogue, resume=True)) == 24


def test_a_server_that_is_away_leaves_nothing_unfinished(tmp_path, model, catalogue, monkeypatch) -> None:
    monkeypatch.setattr(fclip.store.qdrant, "PAUSES_SECONDS", ())
    with pytest.raises(StoreUnavailableError):
        build_index(tmp_path / "index", model, catalogue, store="http://127.0.0.1:1/shop")
    assert not (tmp_path / "index").exists()


def test_what_servers_of_another_model_answer_from_stays_until_there_is_a_third(
    tmp_path, model, build, catalogue
) -> None:
    """They refuse the new index, and those that follow it."""
    folder, other, third = tmp_path / "index", build(), build()
    other.fingerprint, third.fingerprint = "0123", "4567"
    served = build_index(folder, model, catalogue.select(range(6)))
    for _ in range(3):
        build_index(folder, other, catalogue, overwrite=True)
        assert len(served.search(query_of(0), k=99)) == 3
    assert stores_in(folder) == ["pictures-1", "pictures-3", "pictures-4"]
    assert sorted(path.name for path in folder.glob("sample-*")) == [f"sample-{n}.npy" for n in (1, 3, 4)]
    build_index(folder, third, catalogue, overwrite=True)
    assert stores_in(folder) == ["pictures-4", "pictures-5"]


def stores_in(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("pictures-*"))


def test_an_index_lies_in_an_object_store_as_in_a_folder(tmp_path, model, catalogue) -> None:
    uri = (tmp_path / "store").as_uri()
    remote = build_index(uri, model, catalogue)
    local = build_index(tmp_path / "local", model, catalogue)
    assert contents(open_index(uri)) == contents(local)
    assert open_index(uri + "/").search(query_of(0)) == local.search(query_of(0))
    assert remote.sample == pytest.approx(local.sample)
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["index.json", "pictures-1", "sample-1.npy"]
    with pytest.raises(UserError, match="exists already"):
        build_index(uri, model, catalogue)
    with pytest.raises(UserError, match=r"expected a folder, s3://… or gs://…, got ftp://x/y"):
        open_index("ftp://x/y")


def test_the_vectors_may_lie_on_a_server(tmp_path, model, catalogue) -> None:
    build_index(tmp_path / "index", model, catalogue, store="qdrant:memory/shop")
    local, index = build_index(tmp_path / "local", model, catalogue), open_index(tmp_path / "index")
    where = {"colour": {"not": ["red"]}}
    for ours, theirs in zip(index.search(query_of(1), 5, where), local.search(query_of(1), 5, where), strict=True):
        assert (ours.id, ours.attributes, ours.thumbnail) == (theirs.id, theirs.attributes, theirs.thumbnail)
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)
    index, changes = update_index(tmp_path / "index", model, catalogue.select(range(4, 24)))
    assert (len(index), changes.removed, changes.changed) == (20, 4, 0)


def test_an_index_of_an_earlier_format_is_refused_and_replaced(tmp_path, model, catalogue) -> None:
    (tmp_path / "index" / "lance" / "pictures.lance").mkdir(parents=True)
    (tmp_path / "index" / "index.json").write_text('{"format": 1, "groups": ["colour"]}')
    with pytest.raises(UserError, match=r"expected index format 2, got 1 in .*; build it again with --overwrite"):
        open_index(tmp_path / "index")
    assert len(build_index(tmp_path / "index", model, catalogue, overwrite=True)) == 24


def test_a_resumed_build_of_something_else_is_refused(tmp_path, model, build, catalogue, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(LanceStore, "add", lambda store, rows: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_index(tmp_path / "index", model, catalogue)
    other = build()
    other.fingerprint = "0123"
    with pytest.raises(UserError, match="the unfinished index is of model unsaved, got 0123"):
        build_index(tmp_path / "index", other, catalogue, resume=True)
    with pytest.raises(UserError, match="is of attribute groups"):
        build_index(tmp_path / "index", model, make_catalogue({"g": ["x"]}), resume=True)
    assert len(build_index(tmp_path / "index", model, catalogue, resume=True)) == 24
    with pytest.raises(UserError, match="exists already; nothing is left to resume"):
        build_index(tmp_path / "index", model, catalogue, resume=True)
