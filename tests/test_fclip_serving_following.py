"""A running server and its index: switched, rebuilt, updated, taken away, or replaced by one that cannot be used."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
from serving import serving

from fclip.index import build_index, open_index
from fclip.index_updates import update_index
from fclip.recommend import ModelEncoder, Recommender
from fclip.serving.app import create_app
from fclip.serving.following import located
from fclip.serving.settings import Settings


class Gated(ModelEncoder):
    """Encodes words when its gate is open; tells that it has begun."""

    def __init__(self, model) -> None:
        super().__init__(model)
        self.gate, self.begun = threading.Event(), threading.Event()
        self.gate.set()

    def embed_texts(self, texts):
        self.begun.set()
        self.gate.wait(60)
        return super().embed_texts(texts)


@pytest.fixture
def encoder(model) -> Gated:
    return Gated(model)


@pytest.fixture
def served(tmp_path, model, catalogue, encoder):
    """(folder of the index, address of its server); it has the first ten pictures."""
    folder = tmp_path / "index"
    build_index(folder, model, catalogue.select(range(10)))
    with following(folder, encoder) as url:
        yield folder, url


def following(folder: Path, encoder, **further):
    chosen = Settings(index=str(folder), rate_per_minute=0, **{"follow_seconds": 0.02, **further})
    return Address(create_app(Recommender(open_index(located(str(folder))), encoder), chosen))


class Address:
    """A running server as its address."""

    def __init__(self, app) -> None:
        self._server = serving(app)

    def __enter__(self) -> str:
        return self._server.__enter__().url

    def __exit__(self, *error) -> None:
        self._server.__exit__(*error)


def pictures(url: str) -> int:
    return httpx.get(f"{url}/facets").json()["pictures"]


def until(reached) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def refused(url: str) -> str | None:
    return httpx.get(f"{url}/readyz").json().get("refused")


def test_an_index_that_is_rebuilt_answers_without_a_restart(served, model, catalogue) -> None:
    folder, url = served
    assert pictures(url) == 10
    build_index(folder, model, catalogue.select(range(10, 24)), overwrite=True)
    until(lambda: pictures(url) == 14)
    found = httpx.post(f"{url}/search", json={"texts": ["dress"], "k": 50}).json()["answers"]
    assert {answer["id"] for answer in found} <= set(catalogue.select(range(10, 24))["id"])
    assert httpx.get(f"{url}/readyz").json() == {"status": "ok"}
    assert "fclip_index_switches_total 1.0" in httpx.get(f"{url}/metrics").text


def test_an_index_that_is_updated_is_followed(served, model, catalogue) -> None:
    folder, url = served
    update_index(folder, model, catalogue.select(range(5, 17)))
    until(lambda: pictures(url) == 12)


def test_a_question_under_way_is_answered_by_the_index_it_began_with(served, model, catalogue, encoder) -> None:
    folder, url = served
    encoder.begun.clear()
    encoder.gate.clear()
    with ThreadPoolExecutor() as threads:
        begun = threads.submit(httpx.post, f"{url}/search", json={"texts": ["dress"], "k": 50}, timeout=60)
        assert encoder.begun.wait(60)
        build_index(folder, model, catalogue.select(range(10, 24)), overwrite=True)
        until(lambda: pictures(url) == 14)
        encoder.gate.set()
        old = begun.result().json()["answers"]
    assert old
    assert {answer["id"] for answer in old} <= set(catalogue.select(range(10))["id"])


def test_a_link_that_is_switched_is_followed_and_back(tmp_path, model, catalogue, encoder) -> None:
    for name, rows in (("one", range(10)), ("two", range(24))):
        build_index(tmp_path / name, model, catalogue.select(rows))
    link = tmp_path / "current"
    link.symlink_to("one")
    with following(link, encoder) as url:
        for name, number in (("two", 24), ("one", 10)):
            (tmp_path / "next").symlink_to(name)
            os.replace(tmp_path / "next", link)
            until(lambda number=number: pictures(url) == number)
        assert refused(url) is None


def test_indexes_of_another_model_never_take_away_the_one_that_answers(served, build, catalogue) -> None:
    (folder, url), other = served, build()
    other.fingerprint = "0123"
    for _ in range(3):
        build_index(folder, other, catalogue, overwrite=True)
        until(lambda: refused(url) is not None)
        assert pictures(url) == 10
        assert httpx.post(f"{url}/search", json={"texts": ["dress"]}, timeout=60).status_code == 200


@pytest.mark.parametrize("fault", ["another model", "another format", "no JSON", "nothing", "no vectors"])
def test_what_cannot_be_used_leaves_the_old_index_in_place_and_is_said(served, model, caplog, fault) -> None:
    folder, url = served
    about = json.loads((folder / "index.json").read_text())
    damaged = {
        "another model": json.dumps(about | {"fingerprint": "other"}),
        "another format": json.dumps(about | {"format": 99}),
        "no JSON": "{",
        "no vectors": json.dumps(about | {"store": "pictures-7"}),
    }
    with caplog.at_level(logging.ERROR, "fclip.serving"):
        if fault == "nothing":
            (folder / "index.json").rename(folder / "away.json")
        else:
            (folder / "index.json").write_text(damaged[fault])
        until(lambda: refused(url) is not None)
        time.sleep(0.1)  # further looks say nothing new
    said = {
        "another model": f"model other, and this server has {model.fingerprint}; start again with the checkpoint",
        "another format": "expected index format 2, got 99",
        "no JSON": "cannot read its index.json",
        "nothing": "no index in",
        "no vectors": "is damaged",
    }
    assert said[fault] in refused(url)
    assert str(folder) not in refused(url)
    errors = [r.getMessage() for r in caplog.records if r.name == "fclip.serving" and r.levelno >= logging.ERROR]
    assert errors == ["new index refused"]
    assert "fclip_index_refused 1.0" in httpx.get(f"{url}/metrics").text
    assert len(httpx.post(f"{url}/search", json={"texts": ["dress"], "k": 3}).json()["answers"]) == 3
    (folder / "index.json").write_text(json.dumps(about))
    until(lambda: refused(url) is None)
    assert "fclip_index_refused 0.0" in httpx.get(f"{url}/metrics").text
    assert pictures(url) == 10


def test_an_index_that_was_copied_bit_by_bit_takes_over_when_it_is_whole(served, tmp_path, model, catalogue) -> None:
    """index.json came first, and does not change again."""
    folder, url = served
    build_index(tmp_path / "other", model, catalogue.select(range(24)))
    about = json.loads((tmp_path / "other/index.json").read_text())
    (folder / "index.json").write_text(json.dumps(about | {"store": "pictures-2", "sample": "sample-2.npy"}))
    until(lambda: refused(url) is not None)
    (tmp_path / "other/sample-1.npy").rename(folder / "sample-2.npy")
    (tmp_path / "other/pictures-1").rename(folder / "pictures-2")
    until(lambda: pictures(url) == 24)
    assert refused(url) is None


def test_a_server_follows_nothing_when_it_is_told_so(tmp_path, model, catalogue, encoder) -> None:
    build_index(tmp_path / "index", model, catalogue.select(range(10)))
    with following(tmp_path / "index", encoder, follow_seconds=0) as url:
        build_index(tmp_path / "index", model, catalogue.select(range(24)), overwrite=True)
        time.sleep(0.3)
        assert pictures(url) == 10
