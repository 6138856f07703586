"""The server as a process: rehearsed, and killed between any two steps."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time

import httpx
import pytest
from study_stores import make_study

from user_study.exporting import answers_of
from user_study.rehearsal import Page
from user_study.running import rehearse
from user_study.store import open_store

SERVER = """
import sys; sys.path.insert(0, "tests")
import uvicorn
from study_stores import make_study
from user_study.app import create_app
from user_study.rehearsal import painting_systems
from user_study.store import open_store
study = make_study(repeat=True, ask_generated=True)
app = create_app(study, open_store(sys.argv[1], study), painting_systems(study))
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


def test_a_rehearsal_keeps_every_answer():
    found = rehearse(make_study(systems=2, pictures=1), 2)
    assert (found.completed, found.wrong) == (2, [])
    times = found.times()
    assert times["POST /answers"].pages == 2
    assert times["GET /items"].pages == 4
    assert times["POST /save"].pages == 2 * 2 * 3  # of each system a verdict, a rank and a rating
    assert times["all"].pages == sum(found.pages for name, found in times.items() if name != "all")
    assert all(0 < one.p50 <= one.p95 <= one.p99 <= one.slowest for one in times.values())
    assert found.server_s > 0


def test_simulated_participants_pause_before_every_click(monkeypatch):
    slept = []
    monkeypatch.setattr("user_study.rehearsal.time.sleep", slept.append)
    found = rehearse(make_study(systems=2, pictures=1), 2, think_s=4.0)
    assert (found.completed, found.wrong) == (2, [])
    pauses = [one for one in slept if one != 3.0]  # that is the waiting page's
    assert len(pauses) == 2 * (1 + 3 + 6)  # coming; consent, wish, sending; every answer
    assert 1 < sorted(pauses)[len(pauses) // 2] < 10


@pytest.mark.slow
def test_a_rehearsal_recovers_the_known_worths():
    found = rehearse(make_study(systems=3, pictures=1, own_queries=3), 40, [6.0, 2.0, 1.0])
    assert (found.completed, found.wrong) == (40, [])
    assert all(abs(known - estimated) < 0.12 for known, estimated in found.worths.values())


@pytest.mark.slow
def test_a_hundred_at_once_lose_and_double_nothing():
    found = rehearse(make_study(pictures=4, least_images=2), 100, at_once=100)
    assert (found.completed, found.wrong) == (100, [])


class Process:
    """A server that can be killed; its database stays."""

    def __init__(self, url: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url, self.process = url, None

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVER, self.url, str(self.port)])
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/static/study.css")
                return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.kill()  # -9
        self.process.wait()


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_the_server_is_killed_between_any_two_steps(tmp_path):
    url, sent = f"sqlite:///{tmp_path}/study.db", {}
    server = Process(url)
    server.start()
    client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", follow_redirects=True, timeout=30)

    def again() -> None:
        server.kill()
        server.start()

    try:
        page = Page(client.get("/").text)
        again()
        page = Page(client.post("/begin", data=page.hidden | {"consent-0": "1"}).text)
        again()
        client.post(page.action, data=page.hidden | {"text": "a red dress"})
        again()
        for query in range(2):
            while "/answers/" not in (page := Page(client.get("/study").text)).action:
                time.sleep(0.05)
            answers = {
                name: value for name, value in page.fields if name.startswith(("relevant", "rating")) and value == "1"
            }
            letters = [name[-1] for name in answers if name.startswith("rating")]
            answers |= {f"rank-{letter}": str(rank) for rank, letter in enumerate(letters, 1)}
            for name, value in answers.items():
                saved = client.post(f"/save/{query}", data=page.hidden | {name: value})
                assert saved.status_code == 204
                sent[name] = value
                if name in ("rank-B", "rating-C"):
                    again()
                    text = client.get("/study").text
                    assert all(re.search(f'name="{re.escape(n)}" value="{v}" checked', text) for n, v in sent.items())
            client.post(f"/answers/{query}", data=page.hidden | {"action": "send"})
            sent.clear()
            again()
        page = Page(client.get("/study").text)
        assert page.action == "/guess"
        client.post("/guess", data=page.hidden | {"guess": "B"})
        again()
        assert "Thank you" in client.get("/study").text
    finally:
        server.kill()
        client.close()
    store = open_store(url, make_study(repeat=True, ask_generated=True))
    found = answers_of(store)
    assert [row.guess for row in found.queries] == [None, "B"]
    assert len(found.systems) == 8
    assert sum(store.places().completed) == 1
    store.engine.dispose()
