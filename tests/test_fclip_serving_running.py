"""`fclip serve` as it is run: one process, several, another model, an end by signal; on a real index."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import quote

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient
from test_fclip_index import make_catalogue

from fclip.catalogue.schema import groups_of
from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.index import build_index
from fclip.recommend import ModelEncoder, Recommender
from fclip.serving.app import create_app, from_environment, open_recommender
from fclip.serving.settings import Settings


@pytest.fixture(scope="module")
def shop(tmp_path_factory, catalogue, build):
    """A folder with a checkpoint and an index of the drawn garments."""
    folder = tmp_path_factory.mktemp("shop")
    save_checkpoint(build(), folder / "model")
    build_index(folder / "index", load_checkpoint(folder / "model"), catalogue, str(folder / "model"))
    return folder


def settings_of(shop, **further) -> Settings:
    return Settings(index=str(shop / "index"), encoder="torch", rate_per_minute=0, **further)


def test_a_real_index_answers_as_its_recommender_does(shop, catalogue, monkeypatch) -> None:
    monkeypatch.setattr("fclip.machine.tune_cpu", lambda: None)
    for name, value in settings_of(shop).to_environment().items():
        monkeypatch.setenv(name, value)
    recommender = open_recommender(settings_of(shop))
    row = catalogue[7]
    with TestClient(from_environment()) as client:
        question = {"texts": ["red dress"], "where": {"category": ["dress", "skirt"]}, "k": 4}
        found = client.post("/search", json=question).json()["answers"]
        assert [answer["id"] for answer in found] == [answer.id for answer in recommender.ask(**question)]
        files = {"images": ("x.jpg", row["image"]["bytes"])}
        best = client.post("/search", files=files, data={"question": json.dumps({"k": 1, "explain": True})}).json()
        assert best["answers"][0]["id"] == row["id"]
        assert best["answers"][0]["why"]["shares"][0]["name"] == "photo 1"
        assert client.get(best["answers"][0]["thumbnail"]).status_code == 200
        assert client.post("/search", json={"texts": ["zorp"]}).json()["notes"] == [
            "the model never saw zorp in training"
        ]
        long = client.post("/search", json={"texts": ["dress " * 60]}).json()["notes"]
        assert any("are read" in note for note in long)
        facets = client.get("/facets").json()
        assert set(facets["groups"]) == set(groups_of(catalogue))
        nothing = {"texts": ["dress"], "where": {"category": "dress", "colour": "purpel"}}
        assert [hint["group"] for hint in client.post("/search", json=nothing).json()["relax"]] == ["colour"]
        unknown = client.post("/search", json={"texts": ["dress"], "where": {"color": "red"}})
        assert "did you mean 'colour'" in unknown.json()["error"]
        assert str(shop) not in unknown.text
        assert client.post("/feedback", json={"liked": [row["id"]], "k": 3}).status_code == 200


def test_ids_and_groups_of_any_name_work_over_http(tmp_path, model) -> None:
    names = ["a/b", "it's", 'x "y"', "100 %", "a/../b", "été"]
    made = make_catalogue({"it's a group/": ["it's", 'a "b"', "x", "x", "x", "x"]})
    catalogue = made.remove_columns("id").add_column("id", names).cast(made.features)
    index = build_index(tmp_path / "index", model, catalogue)
    with TestClient(create_app(Recommender(index, ModelEncoder(model)))) as client:
        for name in names:
            assert client.get(f"/items/{quote(name, safe='')}").json()["id"] == name
            assert client.get(f"/similar/{quote(name, safe='')}").status_code == 200
        wanted = {"texts": ["x"], "where": {"it's a group/": 'a "b"'}}
        assert [a["id"] for a in client.post("/search", json=wanted).json()["answers"]] == ["it's"]


def start(shop, *options: str) -> tuple[subprocess.Popen, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "import sys; from fclip.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", code, "serve", str(shop / "index"), "--port", str(port), *options]
    environment = {**os.environ, "FCLIP_ENCODER": "torch"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process, f"http://127.0.0.1:{port}"


def wait_for(process: subprocess.Popen, url: str) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    process.kill()
    pytest.fail(process.communicate()[1][-2000:])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_processes_serve_until_they_are_told_to_end(shop, workers) -> None:
    process, url = start(shop, "--workers", str(workers))
    try:
        wait_for(process, url)
        for _ in range(8):
            assert httpx.post(f"{url}/search", json={"texts": ["dress"]}).status_code == 200
        shown = httpx.get(f"{url}/metrics").text
        assert 'fclip_requests_total{method="POST",route="/search",status="200"} 8.0' in shown
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    lines = [json.loads(line) for line in out.splitlines()]
    assert sum(line.get("route") == "/search" for line in lines) == 8
    assert any(line["event"] == "encoder" for line in lines)
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_every_process_follows_the_index(shop, tmp_path, catalogue) -> None:
    shutil.copytree(shop / "index", tmp_path / "index")
    process, url = start(tmp_path, "--workers", "2")
    try:
        wait_for(process, url)
        assert httpx.get(f"{url}/facets").json()["pictures"] == len(catalogue)
        model = load_checkpoint(shop / "model")
        build_index(tmp_path / "index", model, catalogue.select(range(7)), str(shop / "model"), overwrite=True)
        end, same = time.monotonic() + 60, 0
        while same < 20 and time.monotonic() < end:  # new connections, which either process may answer
            same = same + 1 if httpx.get(f"{url}/facets").json()["pictures"] == 7 else 0
        assert same == 20
        assert httpx.get(f"{url}/readyz").json() == {"status": "ok"}
    finally:
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert sum("index switched" in line for line in out.splitlines()) == 2
    assert "Traceback" not in out + err
