"""A real server on a port: batching, clients that leave, an end that answers those who wait, fuzzers."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import numpy as np
import pytest
from serving import Encoder, app_of, form, jpeg, make_recommender, serving
from starlette.testclient import TestClient
from test_fclip_serving_uploads import damaged

from fclip.errors import StoreUnavailableError

QUESTION = {"texts": ["dress"], "k": 2}


def post(url: str, question: object = QUESTION) -> httpx.Response:
    return httpx.post(f"{url}/search", json=question, timeout=60, verify=False)


def get(url: str, path: str) -> httpx.Response:
    return httpx.get(f"{url}{path}", timeout=60, verify=False)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def server(encoder):
    with serving(app_of(make_recommender(encoder))) as server:
        yield server


def wait_until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


def test_concurrent_questions_are_encoded_together_and_each_gets_its_own(server, encoder) -> None:
    questions = [{"texts": [f"dress {i}"], "k": 3} for i in range(16)]
    alone = [post(server.url, question).json() for question in questions]
    encoder.batches.clear()
    encoder.gate.clear()
    with ThreadPoolExecutor(16) as clients:
        begun = encoder.begun
        answers = [clients.submit(post, server.url, questions[0])]
        wait_until(lambda: encoder.begun == begun + 1)
        answers += [clients.submit(post, server.url, question) for question in questions[1:]]
        waiting = app_state(server).answering._texts
        wait_until(lambda: waiting.waiting == 15)
        encoder.gate.set()
        assert [answer.result().json() for answer in answers] == alone
    assert encoder.batches == [1, 15]


def app_state(server):
    return server._server.config.app.state


def test_the_index_is_asked_once_before_the_first_question(monkeypatch) -> None:
    recommender, asked = make_recommender(), []
    search = recommender.index.search
    monkeypatch.setattr(recommender.index, "search", lambda *question: asked.append(1) or search(*question))
    with serving(app_of(recommender)):
        assert asked == [1]


def test_an_index_that_an_update_has_emptied_is_served(monkeypatch) -> None:
    recommender = make_recommender()
    monkeypatch.setattr(type(recommender.index), "sample", np.zeros((0,), np.float32))
    with serving(app_of(recommender)) as server:
        assert get(server.url, "/readyz").status_code == 200


def test_a_store_that_is_away_at_the_start_may_come_back() -> None:
    recommender = make_recommender()
    recommender.index.broken = StoreUnavailableError("gone")
    with serving(app_of(recommender)) as server:
        assert post(server.url).status_code == 503
        recommender.index.broken = None
        assert post(server.url).status_code == 200


def test_one_client_that_asks_for_nonsense_fails_alone(server) -> None:
    questions = [QUESTION, {"texts": ["dress"], "where": {"color": "red"}}, {"items": ["nobody"]}] * 4
    with ThreadPoolExecutor(12) as clients:
        found = list(clients.map(lambda question: post(server.url, question).status_code, questions))
    assert found == [200, 422, 422] * 4


def test_who_leaves_is_not_encoded(server, encoder) -> None:
    encoder.gate.clear()
    with ThreadPoolExecutor(1) as client:
        first = client.submit(post, server.url)
        batcher = app_state(server).answering._texts
        wait_until(lambda: not batcher._idle)
        leavers = [raw_request(server.port, json.dumps(QUESTION).encode()) for _ in range(5)]
        wait_until(lambda: batcher.waiting == 5)
        for leaver in leavers:
            leaver.close()
        wait_until(lambda: all(entry.future.cancelled() for entry in batcher._queue))
        encoder.gate.set()
        assert first.result().status_code == 200
    assert post(server.url).status_code == 200
    assert encoder.batches == [1, 1]
    assert 'status="499"} 5.0' in get(server.url, "/metrics").text


def raw_request(port: int, body: bytes, announced: int | None = None, kind: str = "application/json") -> socket.socket:
    """A client that says how much it will send, and sends this."""
    client = socket.create_connection(("127.0.0.1", port))
    length = len(body) if announced is None else announced
    client.sendall(
        f"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    client.sendall(body)
    return client


def test_a_hundred_clients_that_disconnect_while_uploading_leave_nothing_behind(server, encoder) -> None:
    start = b'--b\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n' + jpeg(size=(200, 200))
    clients = [raw_request(server.port, start, 2_000_000, "multipart/form-data; boundary=b") for _ in range(100)]
    in_flight = app_state(server).metrics.in_flight
    wait_until(lambda: in_flight._value.get() == 100)
    assert post(server.url).status_code == 200
    for client in clients:
        client.close()
    wait_until(lambda: in_flight._value.get() == 0)
    assert post(server.url).status_code == 200
    assert encoder.batches == [1, 1]
    shown = get(server.url, "/metrics").text
    assert 'route="/search",status="499"} 100.0' in shown
    assert 'status="500"' not in shown


def test_a_server_that_is_told_to_end_answers_those_who_wait(encoder) -> None:
    encoder.gate.clear()
    with serving(app_of(make_recommender(encoder))) as server, ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(post, server.url)]
        wait_until(lambda: encoder.begun == 1)
        answers += [clients.submit(post, server.url) for _ in range(7)]
        wait_until(lambda: app_state(server).answering._texts.waiting == 7)
        server.stop()
        time.sleep(0.2)
        assert not any(answer.done() for answer in answers)
        encoder.gate.set()
        assert [answer.result().status_code for answer in answers] == [200] * 8
        server.join()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("encode", "search", "decode"))]


def test_a_client_that_never_sends_what_it_announced_is_let_go() -> None:
    with serving(app_of(upload_seconds=0.2)) as server:
        client = raw_request(server.port, b"{", announced=50)
        client.settimeout(10)
        assert client.recv(1000).startswith(b"HTTP/1.1 408")
        client.close()


# --- what a fuzzer finds ---


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_malformed_uploads_are_answered_or_refused_and_nothing_else(number) -> None:
    with TestClient(app_of(), raise_server_exceptions=False) as client:
        found = [client.post("/search", **form({"k": 1}, [data])).status_code for data in damaged(number, seed=1)]
    assert set(found) == {200, 422}


# Starlette leaves the file of a form that breaks off to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_malformed_forms_are_answered_or_refused_and_nothing_else(number) -> None:
    rng = random.Random(0)
    headers = {"Content-Type": "multipart/form-data; boundary=b0undary"}
    whole = httpx.Request(
        "POST", "http://x/search", headers=headers, **form({"k": 1, "texts": ["x"]}, [jpeg(size=(9, 9))])
    )
    body, kind = whole.read(), whole.headers["content-type"]
    with TestClient(app_of(), raise_server_exceptions=False) as client:
        for _ in range(number):
            data = bytearray(body)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(data) - 30)
                data[at : at + rng.randint(0, 20)] = rng.randbytes(rng.randint(0, 8))
            response = client.post("/search", content=bytes(data), headers={"Content-Type": kind})
            assert response.status_code in (200, 400, 413, 422), response.text
            response.json()


FUZZED = [
    "POST /search",
    "POST /feedback",
    "GET /similar/{id}",
    "GET /items/{id}",
    "GET /items/{id}/thumbnail",
    "GET /facets",
]


@pytest.mark.parametrize("examples", [2, pytest.param(300, marks=pytest.mark.slow)])
def test_a_fuzzer_of_our_openapi_finds_no_mistake_of_ours(examples) -> None:
    """schemathesis asks what OpenAPI allows, and what not: the status is one that OpenAPI names, never a 500."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    app = app_of()
    operations = {o.ok().label: o.ok() for o in schemathesis.openapi.from_dict(app.openapi()).get_all_operations()}
    limits = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}

    def asking(url, named):
        def ask(case) -> None:
            response = case.call(base_url=url)
            assert response.status_code in named
            assert "image" in response.headers["content-type"] or response.json()

        return ask

    with serving(app) as server:
        for mode, label in [("positive", label) for label in FUZZED] + [("negative", label) for label in FUZZED[:3]]:
            named = {int(status) for status in operations[label].definition.raw["responses"]}
            cases = operations[label].as_strategy(generation_mode=schemathesis.GenerationMode(mode))
            settings(max_examples=examples, **limits)(given(case=cases)(asking(server.url, named)))()


def test_the_event_loop_is_free_while_the_model_works(server, encoder) -> None:
    encoder.gate.clear()
    with ThreadPoolExecutor(1) as client:
        slow = client.submit(post, server.url)
        wait_until(lambda: not app_state(server).answering._texts._idle)
        for address in ("/healthz", "/items/plain", "/facets"):
            assert get(server.url, address).status_code == 200
        assert not slow.done()
        encoder.gate.set()
        assert slow.result().status_code == 200


def test_a_loop_of_ones_own_can_run_it() -> None:
    """As another program would that mounts the app."""

    async def go() -> int:
        app = app_of()
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                found = await asyncio.gather(*[client.post("/search", json=QUESTION) for _ in range(9)])
        return {answer.status_code for answer in found}

    assert asyncio.run(go()) == {200}
