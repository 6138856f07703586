from __future__ import annotations

import io
import re
import threading
from dataclasses import replace

import pytest
from PIL import Image
from starlette.testclient import TestClient
from study_stores import Clock, make_study

from fclip.serving.uploads import as_jpeg
from user_study.app import clean, create_app
from user_study.config import Calibration
from user_study.rehearsal import Page, PaintingSystem, painting_systems
from user_study.store import open_store

PHOTO = as_jpeg(Image.effect_noise((60, 50), 90).convert("RGB"))
GENTLE = 'A warm <coat> & "boots"'


class Broken:
    def recommend(self, wish, n, progress):
        raise MemoryError("no room for the model")


@pytest.fixture
def start(tmp_path):
    """start(study keys…, systems={…}) → (client, store) of a running study; https, so that cookies are strict."""
    opened = []

    def make(systems=None, clock=None, monitor="", rate=0, base="https://testserver", **keys):
        study = make_study(**keys)
        store = open_store(f"sqlite:///{tmp_path}/{len(opened)}.db", study, clock or Clock())
        chosen = {**painting_systems(study), **(systems or {})}
        app = create_app(study, store, chosen, monitor_token=monitor, rate_per_minute=rate)
        client = TestClient(app, base, raise_server_exceptions=False)
        client.__enter__()
        opened.append((client, store))
        return client, store

    yield make
    for client, store in opened:
        client.__exit__(None, None, None)
        store.engine.dispose()


def begin(client, **invitation) -> Page:
    page = Page(client.get("/", params=invitation).text)
    return Page(client.post("/begin", data=page.hidden | {"consent-0": "1"}).text)


def wish(client, page: Page, photographs=(), **data):
    files = [("photographs", (f"{i}.jpg", one)) for i, one in enumerate(photographs)]
    return client.post(page.action, data=page.hidden | {"text": GENTLE} | data, files=files or None)


def wait(client) -> Page:
    for _ in range(200):
        page = Page(client.get("/study").text)
        if page.action:
            return page
        threading.Event().wait(0.02)
    raise AssertionError("the systems did not answer")


def everything(page: Page) -> dict[str, str]:
    """All pictures fit; ranks by letter."""
    names = list(dict.fromkeys(name for name, _ in page.fields))
    ranks = iter("123456789")
    given = {}
    for name in names:
        kind = name.partition("-")[0]
        if kind in ("relevant", "rank", "rating"):
            given[name] = next(ranks) if kind == "rank" else "1" if kind == "relevant" else "7"
    return given


def answers_page(client) -> Page:
    wish(client, begin(client))
    return wait(client)


def test_a_participant_goes_through_the_whole_study(start):
    client, store = start(
        calibration=(Calibration("a warm coat"),), repeat=True, ask_generated=True, least_images=2,
        completion_code="C0DE", completion_url="https://app.prolific.com/submissions/complete?cc=C0DE",
    )  # fmt: skip
    page = begin(client, PROLIFIC_PID="5f3c")
    assert page.action == "/preferences/0"
    wish(client, page, [PHOTO, PHOTO])
    for number in range(3):
        page = wait(client)
        assert page.action == f"/answers/{number}"
        assert client.post(page.action, data=page.hidden | everything(page) | {"action": "send"}).status_code == 200
    page = wait(client)
    done = client.post(page.action, data=page.hidden | {"guess": "unsure"})
    assert "C0DE" in done.text
    assert 'href="https://app.prolific.com/submissions/complete?cc=C0DE"' in done.text
    assert sum(store.places().completed) == 1
    assert "C0DE" in client.get("/").text


def test_nothing_tells_which_system_is_which(start):
    client, store = start()
    page = answers_page(client)
    text = client.get("/study").text
    assert not [system.name for system in store.study.systems if system.name in text]
    assert "painted" not in text
    assert GENTLE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;") in text
    headers, sizes, addresses = set(), set(), list(page.images)
    for address in addresses:
        answer = client.get(address)
        told = {k: v for k, v in answer.headers.items() if k not in ("content-length", "x-request-id")}
        headers.add(tuple(sorted(told.items())))
        picture = Image.open(io.BytesIO(answer.content))
        sizes.add((picture.format, picture.size, tuple(sorted(picture.info))))
    assert len(headers) == len(sizes) == 1
    assert len({len(address) for address in addresses}) == 1


def test_what_is_missing_is_said_and_what_was_given_is_kept(start):
    client, _ = start()
    page = answers_page(client)
    told = everything(page)
    told.pop("rating-C")
    answer = client.post(page.action, data=page.hidden | told | {"action": "send", "comment-B": "hm <b>"})
    assert answer.status_code == 422
    assert "C: the rating" in answer.text
    again = client.get("/study").text
    assert "hm &lt;b&gt;" in again
    assert again.count(" checked") == len(told)


def test_an_answer_is_kept_when_it_is_given(start):
    client, _ = start()
    page = answers_page(client)
    path = page.action.replace("answers", "save")
    assert client.post(path, data=page.hidden | {"rank-A": "3"}).status_code == 204
    assert re.search(r'name="rank-A" value="3" checked', client.get("/study").text)


@pytest.mark.parametrize("value", ["0", "11", "-1", "1e9", "², ", "9" * 5000])
def test_a_number_that_is_no_rating_is_no_answer(start, value):
    client, _ = start()
    page = answers_page(client)
    assert client.post(page.action, data=page.hidden | {"rating-A": value}).status_code == 200
    assert " checked" not in client.get("/study").text


def test_sending_twice_from_two_tabs_or_after_going_back_changes_nothing(start):
    client, store = start(own_queries=2)
    first = begin(client)
    wish(client, first)
    page = wait(client)
    again = wish(client, first, text="something else")
    assert "was sent before" in again.text
    told = page.hidden | everything(page) | {"action": "send"}
    assert Page(client.post(page.action, data=told).text).action == "/preferences/1"
    late = client.post(page.action, data=told | {"rating-A": "1"})
    assert "was sent before" in late.text
    assert client.post("/save/0", data=page.hidden | {"rating-A": "1"}).status_code == 409
    [who] = [q.participant_id for q in [store.step(w).query for w in _people(store)]]
    assert store.step(who).number == 2


def _people(store):
    from sqlalchemy import text

    with store.reading() as session:
        return list(session.scalars(text("SELECT id FROM participants")))


def test_consent_needs_every_box_and_a_form_of_this_browser(start):
    client, store = start(consent=("one", "two"))
    page = Page(client.get("/").text)
    assert client.post("/begin", data=page.hidden | {"consent-0": "1"}).status_code == 422
    forged = page.hidden | {"form": "0" * 32, "consent-0": "1", "consent-1": "1"}
    assert client.post("/begin", data=forged).status_code == 403
    elsewhere = client.post("/begin", data=page.hidden, headers={"Sec-Fetch-Site": "cross-site"})
    assert elsewhere.status_code == 403
    assert _people(store) == []


@pytest.mark.parametrize("path", ["/preferences/0", "/answers/0", "/save/0", "/guess"])
def test_no_form_is_taken_without_its_word(start, path):
    client, _ = start()
    begin(client)
    assert client.post(path, data={"text": "x"}).status_code == 403
    assert client.post(path).status_code == 403


def test_a_link_continues_elsewhere_and_a_guessed_or_expired_one_does_not(start):
    clock = Clock()
    client, _ = start(clock=clock, link_days=3)
    wish(client, begin(client))
    page = wait(client)
    client.post(page.action, data=page.hidden | {"rank-A": "2"})
    link = re.search(r'href="(https://testserver/link/[^"]+)"', client.get("/study").text)[1]
    client.cookies.clear()
    assert client.get("/study").status_code == 410
    assert client.get("/link/" + "x" * 43).status_code == 410
    assert 'name="rank-A" value="2" checked' in client.get(link).text
    clock.pass_(days=4)
    assert client.get("/study").status_code == 410
    assert client.get(link).status_code == 410


def test_pictures_are_for_their_participants_browser(start):
    client, _ = start(least_images=1)
    wish(client, begin(client), [PHOTO])
    addresses = list(wait(client).images)
    assert [client.get(address).status_code for address in addresses] == [200] * 9
    client.cookies.clear()
    assert {client.get(address).status_code for address in addresses} == {404}
    begin(client)
    assert {client.get(address).status_code for address in addresses} == {404}


def test_cookies_are_strict_over_https_and_plain_on_localhost(start):
    client, _ = start()
    strict = client.get("/").headers["set-cookie"]
    assert strict.startswith("__Host-study=")
    assert all(word in strict for word in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"))
    assert "Domain" not in strict
    plain, _ = start(base="http://localhost")
    assert plain.get("/").headers["set-cookie"].startswith("study=")


def test_every_page_forbids_what_it_does_not_need(start):
    client, _ = start()
    for path in ("/", "/study", "/nowhere", "/static/study.css"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/").headers["cache-control"] == "no-store"


def test_a_photograph_is_stripped_and_what_is_none_is_refused_in_words(start):
    client, _ = start(least_images=1, most_images=2)
    page = begin(client)
    exif = Image.Exif()
    exif[0x010E] = "SECRET PLACE"
    stream = io.BytesIO()
    Image.open(io.BytesIO(PHOTO)).save(stream, "JPEG", exif=exif, comment=b"SECRET WORDS")
    refused = wish(client, page, [b"GIF89a nothing"])
    assert refused.status_code == 422
    assert "Photograph 1, 0.jpg: expected a JPEG, PNG or WEBP picture, got a GIF" in refused.text
    assert "at most" not in wish(client, page, [PHOTO] * 3).text
    assert wish(client, page, [PHOTO] * 3).status_code == 422
    assert wish(client, page, text=" ").status_code == 422
    wish(client, page, [stream.getvalue()])
    [own] = [address for address, says in wait(client).images.items() if "photograph" in says]
    kept = client.get(own).content
    assert b"SECRET" not in kept
    assert Image.open(io.BytesIO(kept)).size == (60, 50)


def test_the_study_goes_on_when_a_system_fails_and_says_so_in_the_data(start):
    from user_study.exporting import answers_of

    client, store = start(systems={"system-2": Broken()})
    page = answers_page(client)
    assert client.get("/study").text.count("gave no answer this time") == 1
    assert client.post(page.action, data=page.hidden | everything(page) | {"action": "send"}).status_code == 200
    rows = {row.system: row for row in answers_of(store).systems}
    assert [name for name, row in rows.items() if row.failed] == ["system-2"]
    assert rows["system-2"].rank is None


def test_who_comes_too_late_is_thanked(start):
    client, store = start(participants=1)
    begin(client)
    client.cookies.clear()
    page = Page(client.get("/").text)
    assert "Everybody we need" in client.post("/begin", data=page.hidden | {"consent-0": "1"}).text
    assert len(_people(store)) == 1


def test_the_same_invitation_does_not_begin_twice(start):
    client, store = start()
    begin(client, PROLIFIC_PID="5f3c")
    client.cookies.clear()
    page = Page(client.get("/?PROLIFIC_PID=5f3c").text)
    assert client.post("/begin", data=page.hidden | {"consent-0": "1"}).status_code == 409
    assert len(_people(store)) == 1


def test_the_rate_is_limited(start):
    client, _ = start(rate=8)
    assert [client.get("/").status_code for _ in range(4)] == [200, 200, 429, 429]


def dead_end(answer, status: int, heading: str) -> str:
    """The text of a page that ends somewhere, after looking whether it is one of the study's."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert f"<h1>{heading}</h1>" in answer.text
    assert '<link rel="stylesheet" href="/static/study.css">' in answer.text
    assert "{" not in answer.text
    return answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nowhere"), ("GET", "/begin"), ("DELETE", "/"), ("POST", "/answers/first"), ("POST", "/save/9e9"),
     ("POST", f"/preferences/{10**30}"), ("GET", "/static/nothing.css"), ("GET", "/items/%00"),
     ("GET", "/openapi.json")],
)  # fmt: skip
def test_an_address_that_leads_nowhere_is_told_on_a_page(start, method, path):
    client, _ = start()
    answer = client.request(method, path)
    assert 'href="/">Go on with the study<' in dead_end(answer, answer.status_code, "There is no such page")
    assert answer.status_code in (404, 405)


def test_who_comes_too_often_is_told_how_long_to_wait(start):
    client, _ = start(rate=8)
    for _ in range(2):
        client.get("/")
    answer = client.get("/")
    assert f"Wait {answer.headers['retry-after']} seconds, then go on" in dead_end(answer, 429, "One moment, please")


def test_who_sends_too_much_is_told_what_to_do(start, monkeypatch):
    monkeypatch.setattr("user_study.app.MAX_BODY", 100_000)
    client, _ = start(least_images=1)
    page = begin(client)
    told = dead_end(wish(client, page, [bytes(200_000)]), 413, "That was too large")
    assert "choose fewer or smaller ones" in told
    chunks = (b"x" * 1000 for _ in range(300))  # of a length that is not announced
    dead_end(client.post(page.action, content=chunks, headers={"Content-Type": "text/plain"}), 403,
             "This page is out of date")  # fmt: skip
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    head = b'--b\r\nContent-Disposition: form-data; name="photographs"; filename="x"\r\n\r\n'
    chunks = (head if i == 0 else b"x" * 1000 for i in range(300))
    dead_end(client.post(page.action, content=chunks, headers=kind), 413, "That was too large")
    assert Page(client.get("/study").text).action == page.action


def test_a_mistake_of_ours_is_told_with_the_number_that_the_log_has(start, monkeypatch):
    client, store = start()
    begin(client)

    def fail(*_):
        raise RuntimeError("SECRET")

    monkeypatch.setattr(store, "step", fail)
    answer = client.get("/study")
    told = dead_end(answer, 500, "That was our mistake")
    assert answer.headers["x-request-id"] in told
    assert "SECRET" not in told
    monkeypatch.undo()
    assert client.get("/study").status_code == 200


def test_a_form_of_another_visit_an_expired_link_and_the_end_are_told_on_pages(start):
    clock = Clock()
    client, store = start(clock=clock, link_days=1)
    page = begin(client)
    assert "Go on with the study" in dead_end(client.post(page.action), 403, "This page is out of date")
    other = client.post(page.action, data=page.hidden, headers={"Sec-Fetch-Site": "cross-site"})
    dead_end(other, 403, "This page is out of date")
    dead_end(client.post(page.action, content=b"--", headers={"Content-Type": "multipart/form-data"}), 400,
             "That did not arrive whole")  # fmt: skip
    store.lock()
    dead_end(wish(client, page), 410, "The study has ended")
    clock.pass_(days=2)
    assert "Write to those who invited you" in dead_end(client.get("/study"), 410, "This link does not work")
    assert dead_end(client.get("/link/short"), 410, "This link does not work").count('href="/"') == 1


def test_what_a_database_cannot_hold_is_left_out_of_words(start):
    client, store = start()
    page = begin(client, participant="a\0b")
    wish(client, page, text="a\0 red\r\ndress ")
    page = wait(client)
    told = page.hidden | {"comment-A": "h\0m", "comment-\0": "x", "rank-\0": "1"}
    assert client.post(page.action, data=told).is_success
    query = store.step(_people(store)[0]).query
    assert query.text == "a red\ndress"
    assert query.answers[0].comment == "hm"
    assert clean("\ud800x") == "?x"
    assert clean(None) == ""


def test_the_monitor_asks_for_its_token_and_hides_results_until_the_lock(start):
    client, store = start(monitor="s3cret", systems={"system-1": Broken()})
    page = answers_page(client)
    client.post(page.action, data=page.hidden | everything(page) | {"action": "send"})
    assert client.get("/monitor").status_code == 401
    assert client.get("/monitor", auth=("x", "wrong")).status_code == 401
    assert client.get("/monitor", headers={"Authorization": "Basic ?"}).status_code == 401
    shown = client.get("/monitor", auth=("", "s3cret")).text
    assert "no room for the model" in shown
    assert "mean rank" not in shown
    store.lock()
    assert "mean rank" in client.get("/monitor", auth=("", "s3cret")).text
    assert client.get("/").status_code == 200
    assert client.post(page.action, data=page.hidden).status_code == 410
    closed, _ = start()
    assert closed.get("/monitor").status_code == 404


def test_information_is_markdown_without_html(start):
    client, _ = start(information="We ask **you**. <script>alert(1)</script>")
    text = client.get("/").text
    assert "<strong>you</strong>" in text
    assert "<script>" not in text


def test_the_systems_paint_what_they_are_asked(start):
    study = replace(make_study(), pictures=3)
    found = PaintingSystem(2).recommend(None, study.pictures, lambda _: None)
    assert [one.item for one in found] == [f"painted-2-{i}" for i in range(3)]
