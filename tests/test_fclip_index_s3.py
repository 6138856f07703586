"""An index in an object store, by HTTP from an S3 server: built, asked by many, brought up to date, refused, gone."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from datasets import Dataset
from serving import CALM, serving

import fclip.embedding
import fclip.indexing
from fclip.catalogue.drawn import draw_catalogue
from fclip.catalogue.storage import save_catalogue
from fclip.checkpoint import save_checkpoint
from fclip.cli import main
from fclip.errors import StoreUnavailableError, UserError
from fclip.index import build_index, open_index
from fclip.index_updates import update_index
from fclip.places import Place
from fclip.recommend import ModelEncoder, Recommender
from fclip.serving.app import create_app
from fclip.store import open_store
from fclip.store.lance import SEEN_WITHIN

ROOT = Path(__file__).parents[1]
FILTERS = [{}, {"category": ["dress", "shirt"]}, {"colour": {"not": ["red"]}, "fit": "tight"}, {"colour": "nowhere"}]
NUMBERS = itertools.count()


@pytest.fixture
def uri() -> str:
    """Where each test's index may be."""
    return f"s3://shop/{next(NUMBERS)}/index"


def query_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=16).astype(np.float32)


def assert_same(found, expected) -> None:
    """Two indexes say the same of the same pictures; a vector may be of a batch of another size."""
    ours, theirs = contents(found), contents(expected)
    assert ours.keys() == theirs.keys()
    for name, row in theirs.items():
        assert ours[name].pop("vector") == pytest.approx(row.pop("vector"), abs=1e-6)
        assert ours[name] == row


def contents(index) -> dict[str, dict]:
    """All that an index says of each picture; a picture that is there twice is an error."""
    rows = [row for part in index.store.scan(index.store._schema.names) for row in part.to_pylist()]
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def until(reached) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_it_answers_as_one_in_a_folder_does(s3, uri, tmp_path, model, catalogue) -> None:
    remote, local = build_index(uri, model, catalogue), build_index(tmp_path / "index", model, catalogue)
    for index in (remote, open_index(uri), open_index(f"{uri}/")):
        assert_same(index, local)
        assert np.array_equal(index.sample, local.sample)
        for where in FILTERS:
            assert index.search(query_of(0), 5, where) == local.search(query_of(0), 5, where)
            assert index.count(where) == local.count(where)
            assert index.values("colour", where) == local.values("colour", where)
    names = {name.partition("/")[0] for name in s3.names(uri.removeprefix("s3://shop/") + "/")} - {""}
    assert names == {"index.json", "sample-1.npy", "pictures-1"}
    with pytest.raises(UserError, match="exists already; choose another name"):
        build_index(uri, model, catalogue)


READER = """
import json, sys
import numpy as np
from fclip.index import open_index
index = open_index(sys.argv[1])
print(json.dumps([[a.id for a in index.search(np.ones(16, "f4"), 5, where)] for where in json.loads(sys.argv[2])]))
"""


def test_another_process_answers_the_same(s3, uri, model, catalogue) -> None:
    index = build_index(uri, model, catalogue)
    words = [sys.executable, "-c", READER, uri, json.dumps(FILTERS)]
    told = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    assert json.loads(told.stdout) == [[a.id for a in index.search(np.ones(16, "f4"), 5, w)] for w in FILTERS]


@pytest.mark.slow
def test_two_processes_build_the_index_of_one(s3, uri, shop, fclip_program) -> None:
    words = f"index --checkpoint {shop}/model --catalogue {shop}/garments --out {uri} --batch-size 1".split()
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "fclip.cli"]
    told = subprocess.run([*program, *words], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert fclip_program.index(f"{uri}-alone", "--batch-size", "1")[0] == 0
    assert_same(open_index(uri), open_index(f"{uri}-alone"))


def test_an_update_ends_like_a_new_index_and_is_seen_by_who_reads(s3, uri, model, catalogue) -> None:
    build_index(uri, model, catalogue.select(range(20)))
    reader = open_index(uri)
    rows = list(catalogue.select(range(2, 24)))  # two are gone, four are new
    rows[0]["attributes"] = rows[0]["attributes"] | {"colour": "ultramarine"}
    rows[1]["image"] = catalogue[0]["image"]
    after = Dataset.from_list(rows, features=catalogue.features)
    updated, changes = update_index(uri, model, after)
    assert (changes.added, changes.changed, changes.removed) == (4, 2, 2)
    assert_same(updated, build_index(f"{uri}-anew", model, after))
    until(lambda: len(reader) == 22)
    (answer,) = reader.search(query_of(0), where={"colour": "ultramarine"})
    assert answer.id == catalogue[2]["id"]
    assert not update_index(uri, model, after)[1].any


def test_a_rebuilt_index_leaves_the_old_one_to_its_readers_until_the_next(s3, uri, model, catalogue) -> None:
    old = build_index(uri, model, catalogue.select(range(6)))
    new = build_index(uri, model, catalogue, overwrite=True)
    assert (len(old.search(query_of(0), 99)), len(new)) == (3, 24)
    newest = build_index(uri, model, catalogue.select(range(8)), overwrite=True)
    assert (len(new), len(newest)) == (24, 8)
    with pytest.raises(UserError, match="no vectors in"):
        open_store(f"{uri}/pictures-1")


def test_an_interrupted_build_is_resumed(s3, uri, model, catalogue, monkeypatch) -> None:
    embed = fclip.embedding.embed_batches

    def interrupted(*args) -> Iterator:
        yield next(embed(*args))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fclip.embedding, "embed_batches", interrupted)
        patched.setattr(fclip.indexing, "WRITTEN_AT_ONCE", 1)
        with pytest.raises(KeyboardInterrupt):
            build_index(uri, model, catalogue, batch_size=5)
    with pytest.raises(UserError, match="holds an unfinished index; continue it with --resume"):
        build_index(uri, model, catalogue)
    assert open_store(f"{uri}/pictures-1").count() == 5
    resumed = build_index(uri, model, catalogue, batch_size=5, resume=True)
    assert contents(resumed) == contents(build_index(f"{uri}-whole", model, catalogue, batch_size=5))
    assert Place(uri).read("building.json") is None


def test_of_what_several_write_at_once_nothing_is_lost(s3, uri, model, catalogue) -> None:
    """A version is written only where there is none: who comes second tries again on top of the first."""
    there = build_index(uri, model, catalogue).store
    (rows,) = there.scan(there._schema.names)

    def write(writer: int) -> None:
        store = open_store(there.uri)
        for turn in range(4):
            names = [f"{writer}/{turn}/{name}" for name in rows["id"].to_pylist()]
            store.add(rows.set_column(rows.column_names.index("id"), "id", [names]))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert len(contents(open_index(uri))) == 24 + 4 * 4 * 24


def test_a_file_written_twice_in_a_second_has_another_mark(s3, uri) -> None:
    place = Place(uri)
    assert place.mark("index.json") is None
    seen = []
    for data in (b"one", b"two"):
        place.write("index.json", data)
        seen.append(place.mark("index.json"))
    assert seen[0] != seen[1]
    assert place.mark("index.json") == seen[1]
    place.remove("index.json")
    assert (place.read("index.json"), place.empty()) == (None, True)


# --- a server on it ---


def served(uri: str, model):
    chosen = replace(CALM, index=uri, follow_seconds=0.05)
    return serving(create_app(Recommender(open_index(uri), ModelEncoder(model)), chosen))


def pictures(url: str) -> int:
    return httpx.get(f"{url}/facets", timeout=60).json()["pictures"]


def test_servers_follow_an_index_that_is_rebuilt_and_updated(s3, uri, model, catalogue) -> None:
    build_index(uri, model, catalogue.select(range(10)))
    with served(uri, model) as one, served(uri, model) as other:
        assert [pictures(server.url) for server in (one, other)] == [10, 10]
        build_index(uri, model, catalogue.select(range(10, 24)), overwrite=True)
        for server in (one, other):
            until(lambda server=server: pictures(server.url) == 14)
            found = httpx.post(f"{server.url}/search", json={"texts": ["dress"], "k": 50}).json()["answers"]
            assert found
            assert {answer["id"] for answer in found} <= set(catalogue.select(range(10, 24))["id"])
        update_index(uri, model, catalogue.select(range(5, 17)))
        for server in (one, other):
            until(lambda server=server: pictures(server.url) == 12)
            assert httpx.get(f"{server.url}/readyz").json() == {"status": "ok"}


@pytest.mark.slow
def test_a_server_says_503_while_the_store_is_gone_and_answers_when_it_is_back(s3, uri, model, catalogue) -> None:
    build_index(uri, model, catalogue)
    with served(uri, model) as server:
        assert pictures(server.url) == 24
        s3.stop()
        time.sleep(SEEN_WITHIN.total_seconds())  # until then what was read may answer
        for response in (asked(server.url), httpx.get(f"{server.url}/readyz", timeout=60)):
            assert response.status_code == 503
            assert response.json() == {"error": "the index cannot be reached; ask again"}
            assert response.headers["Retry-After"] == "5"
            assert response.elapsed.total_seconds() < 15
        s3.start()
        assert len(asked(server.url).json()["answers"]) == 4
        assert httpx.get(f"{server.url}/readyz").json() == {"status": "ok"}


def asked(url: str) -> httpx.Response:
    return httpx.post(f"{url}/search", json={"texts": ["dress"], "k": 4}, timeout=60)


# --- what goes wrong ---


@pytest.fixture
def shop(tmp_path, build) -> Path:
    """A folder with a catalogue and a model."""
    save_catalogue(draw_catalogue(items=3, views=1, size_px=32), tmp_path / "garments")
    save_checkpoint(build(), tmp_path / "model")
    return tmp_path


@pytest.fixture
def fclip_program(shop, capsys):
    """index(uri, *options) and search(uri) → exit code and what was printed, the errors last."""

    def run(*words: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        return ended.value.code, "".join(capsys.readouterr()).splitlines()

    class Program:
        def index(self, uri: str, *options: str):
            where = f"--checkpoint {shop}/model --catalogue {shop}/garments --out {uri}"
            return run("index", *where.split(), *options)

        def search(self, uri: str):
            return run("search", uri, "--text", "a red dress", "--sheet", f"{shop}/sheet.png")

    return Program()


def test_the_program_builds_and_asks(s3, uri, fclip_program) -> None:
    assert fclip_program.index(uri) == (0, [f"3 pictures in {uri}"])
    code, told = fclip_program.search(uri)
    assert code == 0
    assert sum("drawn-" in line for line in told) == 3
    code, told = fclip_program.index(uri, "--update")
    assert (code, told[-1]) == (0, f"0 added, 0 changed, 0 removed; 3 pictures in {uri}")


def test_a_bucket_that_is_missing_is_one_line(s3, fclip_program) -> None:
    said = "error: there is no bucket for s3://nowhere/index; create it, or correct the address"
    assert fclip_program.index("s3://nowhere/index") == (2, [said])
    assert fclip_program.search("s3://nowhere/index") == (2, [said])
    with pytest.raises(UserError, match="there is no bucket for s3://nowhere/index"):
        Place("s3://nowhere/index").write("index.json", b"{}")
    with pytest.raises(StoreUnavailableError, match=r"s3://nowhere/pictures-1 cannot be reached: NoSuchBucket"):
        open_store("s3://nowhere/pictures-1")


@pytest.fixture
def guarded(s3, uri, model, catalogue, monkeypatch):
    """An index whose server checks keys, signatures and rights; the environment has a key that may only read."""
    build_index(uri, model, catalogue)
    for name, value in s3.key(f"reader-{next(NUMBERS)}", "s3:GetObject", "s3:ListBucket").items():
        monkeypatch.setenv(name, value)
    s3.guard(True)
    yield
    s3.guard(False)


def test_who_may_only_read_can_ask_and_cannot_build(guarded, uri, model, catalogue) -> None:
    index = open_index(uri)
    assert index.search(query_of(0), 3, {"category": ["dress", "shirt"]})
    with pytest.raises(UserError, match=r"refuses \(ACCESS_DENIED\); set AWS_ACCESS_KEY_ID"):
        build_index(uri, model, catalogue, overwrite=True)
    with pytest.raises(StoreUnavailableError, match="cannot be reached: AccessDenied"):
        update_index(uri, model, catalogue.select(range(4)))
    assert len(open_index(uri)) == 24


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_credentials_that_are_wrong_are_one_line(guarded, uri, wrong, fclip_program, monkeypatch) -> None:
    monkeypatch.setenv(wrong, "wrong")
    said = f"error: {uri} refuses (ACCESS_DENIED); set AWS_ACCESS_KEY_ID and the like of who may do this"
    assert fclip_program.search(uri) == fclip_program.index(uri) == (2, [said])


@pytest.mark.slow
def test_a_store_that_is_gone_is_one_line(s3, uri, model, catalogue, fclip_program) -> None:
    index = build_index(uri, model, catalogue)
    s3.stop()
    try:
        for code, told in (fclip_program.search(uri), fclip_program.index(uri, "--update")):
            assert (code, len(told)) == (1, 1)
            assert told[0].startswith(f"error: {uri} cannot be reached: ")
        with pytest.raises(StoreUnavailableError, match="pictures-1 cannot be reached: HTTP error"):
            index.search(query_of(0))
    finally:
        s3.start()
    assert index.search(query_of(0))
