"""Who may ask, how often and how much; what is logged about it."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from serving import CALM, app_of, form, jpeg, make_recommender
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from fclip.errors import UserError
from fclip.serving import logs
from fclip.serving.limits import CLIENTS_KEPT, RateLimit
from fclip.serving.settings import Settings, from_environment

DRESS = {"texts": ["red dress of a certain person"]}


def test_the_key_is_asked_for_everywhere_but_by_those_who_watch_the_process() -> None:
    with TestClient(app_of(api_key="s3cret é")) as client:
        for address in ("/items/plain", "/facets", "/metrics", "/openapi.json", "/nowhere"):
            refused = client.get(address)
            assert refused.status_code == 401
            assert "Authorization: Bearer" in refused.json()["error"]
            assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ({"X-API-Key": "s3cret"}, {"Authorization": "Basic s3cret"}, {"Authorization": "Bearer"}):
            assert client.post("/search", json=DRESS, headers=wrong).status_code == 401
        for right in ({"X-API-Key": "s3cret é".encode()}, {"Authorization": "bearer s3cret é".encode()}):
            assert client.get("/facets", headers=right).status_code == 200
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        described = client.get("/openapi.json", headers={"X-API-Key": "s3cret é".encode()}).json()
        assert described["security"] == [{"bearer": []}, {"key": []}]


def test_every_answer_has_the_headers_that_keep_browsers_safe() -> None:
    with TestClient(app_of(api_key="k")) as client:
        for response in (
            client.get("/healthz"),
            client.get("/facets"),
            client.get("/nowhere", headers={"X-API-Key": "k"}),
        ):
            assert response.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'self'" in response.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
            assert response.headers["referrer-policy"] == "same-origin"
            assert "access-control-allow-origin" not in response.headers


def test_pages_of_other_origins_make_no_work_for_us() -> None:
    with TestClient(app_of()) as client:
        assert client.post("/search", json=DRESS, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert client.post("/search", json=DRESS, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("route", ["/search", "/feedback"])
def test_a_body_beyond_the_limit_is_refused_however_it_is_announced(chunked, route) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n'
    for kind, start in (("application/json", b'"'), ("multipart/form-data; boundary=b", part)):
        parts = [start, *[b"x" * 1000] * 400]
        with TestClient(app_of(max_body_mb=0.1)) as client:
            body = iter(parts) if chunked else b"".join(parts)
            response = client.post(route, content=body, headers={"Content-Type": kind})
            assert response.status_code == 413
            assert response.json() == {
                "error": "the request has more than 0.1 megabytes; send fewer or smaller pictures"
            }


def test_a_large_picture_is_refused_by_its_pixels() -> None:
    with TestClient(app_of(max_megapixels=0.001)) as client:
        assert "at most 0.001 megapixels" in client.post("/search", **form({}, [jpeg()])).json()["error"]


def test_a_client_that_asks_too_often_waits_and_others_do_not() -> None:
    now = 0.0

    async def app(scope, receive, send):
        await PlainTextResponse("ok")(scope, receive, send)

    limit = RateLimit(app, per_minute=60, burst=3, clock=lambda: now)

    def ask(host: str, path: str = "/search") -> tuple[int, int | None]:
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": path, "client": (host, 1), "method": "GET", "headers": []}
        asyncio.run(limit(scope, None, send))
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], int(headers["retry-after"]) if "retry-after" in headers else None

    assert [ask("1.2.3.4")[0] for _ in range(4)] == [200, 200, 200, 429]
    assert ask("1.2.3.4") == (429, 1)
    assert ask("1.2.3.5") == (200, None)
    assert ask("1.2.3.4", "/items/x/thumbnail") == (200, None)
    now = 1.0
    assert [ask("1.2.3.4")[0] for _ in range(2)] == [200, 429]
    now = 1000.0
    assert [ask("1.2.3.4")[0] for _ in range(4)] == [200, 200, 200, 429]
    assert [ask(f"2001:db8::{i}")[0] for i in range(4)] == [200, 200, 200, 429]
    assert ask("2001:db8:0:1::1") == (200, None)
    for i in range(CLIENTS_KEPT + 50):
        limit._take(f"client {i}")
    assert len(limit._buckets) == CLIENTS_KEPT


def test_the_rate_is_a_setting_of_the_server() -> None:
    with TestClient(app_of(rate_per_minute=6, rate_burst=2)) as client:
        found = [client.post("/search", json=DRESS) for _ in range(3)]
        assert [response.status_code for response in found] == [200, 200, 429]
        assert int(found[2].headers["retry-after"]) in range(1, 11)


def test_a_line_of_the_log_tells_nothing_about_a_person(caplog) -> None:
    recommender = make_recommender()
    with caplog.at_level(logging.INFO, "fclip.serving"), TestClient(app_of(recommender)) as client:
        client.post("/search?token=private", json=DRESS, headers={"X-Request-ID": "given-by-proxy"})
        client.post("/search", **form({}, [jpeg()]), headers={"X-Request-ID": "no\tid"})
        client.get("/items/it's", headers={"User-Agent": "somebody"})
        recommender.index.broken = RuntimeError("certain person")
        client.post("/search", json=DRESS)
    lines = [logs.JsonLines().format(record) for record in caplog.records if record.name == "fclip.serving"]
    parsed = [json.loads(line) for line in lines]
    requests = [line for line in parsed if line["event"] == "request"]
    assert [(line["route"], line["status"]) for line in requests] == [
        ("/search", 200),
        ("/search", 200),
        ("/items/{id:path}", 200),
        ("/search", 500),
    ]
    assert all(
        set(line) == {"time", "level", "event", "request", "method", "route", "status", "ms"} for line in requests
    )
    assert requests[0]["request"] == "given-by-proxy"
    assert requests[1]["request"] != "no\tid"
    (failure,) = [line for line in parsed if line["event"] == "failed"]
    assert failure["error"] == "RuntimeError"
    assert any(place.startswith("_fitting:") for place in failure["at"])
    for word in ("certain person", "private", "it's", "somebody", "testclient", "0.jpg"):
        assert not any(word in line for line in lines)


# --- settings ---


def test_settings_go_through_the_environment_and_back() -> None:
    chosen = Settings(index="i", api_key="k", int8=True, max_body_mb=1.5, rate_burst=3)
    assert from_environment(chosen.to_environment()) == chosen
    assert from_environment({}, index="i", checkpoint=None) == Settings(index="i")
    assert from_environment({"FCLIP_CACHE": "x", "FCLIP_DATA": "y", "HOME": "z"}) == Settings()
    assert "k3y" not in repr(Settings(api_key="k3y"))
    assert CALM.rate_per_minute == 0


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FCLIP_MAX_IMAGES": "many"}, "expected a number for FCLIP_MAX_IMAGES, got 'many'"),
        ({"FCLIP_INT8": "maybe"}, "expected FCLIP_INT8 of 0 or 1"),
        ({"FCLIP_API_KEYS": "k"}, "unknown variable FCLIP_API_KEYS; did you mean 'FCLIP_API_KEY'"),
        ({"FCLIP_ENCODER": "onxx"}, "unknown FCLIP_ENCODER 'onxx'; did you mean 'onnx'"),
        ({"FCLIP_RATE_PER_MINUTE": "-1"}, "FCLIP_RATE_PER_MINUTE of at least 0, got -1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(environment, message) -> None:
    with pytest.raises(UserError, match=message):
        from_environment(environment)
