"""The page as a browser without JavaScript has it, by a plain client."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from serving import NASTY, Encoder, app_of, jpeg, make_recommender
from starlette.testclient import TestClient

from fclip.errors import StoreUnavailableError
from fclip.serving.batching import BusyError
from fclip.serving.sessions import COOKIES, LASTS_S, is_session, new_session

VOID = {"meta", "link", "input", "img", "option", "path", "circle", "br"}


class Page(HTMLParser):
    """What of a page matters here; every tag must be closed in its turn."""

    def __init__(self, response) -> None:
        super().__init__()
        self.tags, self._open, self.text, self.titles = [], [], "", []
        self.feed(response.text)
        assert self._open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data
        if self._open and self._open[-1] == "h3":
            self.titles.append(data)

    def all(self, tag, **wanted):
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]

    @property
    def found(self) -> list[str]:
        """Ids of the products, in order."""
        return [b["value"] for b in self.all("button", name="disliked")]


@pytest.fixture
def recommender():
    return make_recommender()


@pytest.fixture
def client(recommender):
    with TestClient(app_of(recommender)) as client:
        yield client


def get(client, **query) -> Page:
    response = client.get("/", params=query)
    assert response.status_code == 200, response.text
    return Page(response)


def photo_form(photos, **fields) -> dict:
    return {"data": fields, "files": [("images", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(photos)]}


def said(response, status: int) -> str:
    """What went wrong, as the page says it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"].startswith("default-src 'self'")
    Page(response)
    return re.search(r'id="problem"[^>]*>(.*?)</div>', response.text, re.S)[1]


# --- what is asked ---


def test_the_page_answers_as_the_recommender_does(client, recommender) -> None:
    page = get(client, q="dress", avoid="stripes", liked="it's", disliked="plain", **{"max.price": "60"})
    asked = {"texts": ["dress"], "avoid": ["stripes"], "liked": ["it's"], "disliked": ["plain"]}
    answers = recommender.ask(**asked, where={"price": {"max": 60.0}}, k=12)
    assert page.found == [answer.id for answer in answers]
    assert page.titles == [answer.title for answer in answers]
    photo = Page(client.post("/", **photo_form([jpeg("teal")], q="in blue")))
    images = [{"bytes": jpeg("teal"), "path": None}]
    assert photo.found == [answer.id for answer in recommender.ask(["in blue"], images, k=12)]


def test_without_a_question_there_is_something_to_look_at_within_the_filters(client) -> None:
    assert set(get(client).found) == set(NASTY)
    assert set(get(client, **{"f.colour": "red"}).found) == set(NASTY[::3])
    assert set(get(client, disliked="plain").found) == set(NASTY) - {"plain"}
    assert "once you look for something" in get(client, avoid="stripes").text


@pytest.mark.parametrize("name", NASTY)
def test_any_id_can_be_shown_liked_and_searched_like(client, recommender, name) -> None:
    page = get(client, liked=name)
    assert {"type": "hidden", "name": "liked", "value": name} in page.all("input")
    assert page.found == [answer.id for answer in recommender.ask(liked=[name], k=12)]
    start = get(client)
    place = start.found.index(name)
    thumbnail = [image["src"] for image in start.all("img")][place]
    assert client.get(thumbnail).headers["content-type"] == "image/jpeg"
    more = start.all("a", **{"class": "similar"})[place]["href"]
    assert Page(client.get(more)).found == [answer.id for answer in recommender.ask(items=[name], k=12)]


def test_what_was_typed_is_shown_as_text(client) -> None:
    words = "<script>alert(1)</script> \"'&"
    page = get(client, q=words, avoid=words, **{"f.colour": words})
    assert page.all("script") == [tag for tag in page.all("script") if tag.get("src", "").startswith("/static/")]
    assert [tag["value"] for tag in page.all("input", name="q")] == [words]
    assert words in [tag["value"] for tag in page.all("input", name="f.colour")]


def test_a_plain_forms_address_becomes_the_short_one(client) -> None:
    sent = {"q": "red dress", "avoid": "", "f.colour": "red", "min.price": "", "max.price": "50", "images": ""}
    response = client.get("/", params=sent, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/?q=red+dress&f.colour=red&max.price=50")
    assert client.get(response.headers["location"], follow_redirects=False).status_code == 200
    swapped = client.get("/", params=sent, headers={"X-Page": "swap"}, follow_redirects=False)
    assert 'data-address="/?q=red+dress&amp;f.colour=red&amp;max.price=50"' in swapped.text


def test_a_like_can_be_given_and_taken_back(client) -> None:
    page = Page(client.get("/", params=[("q", "dress"), ("disliked", "plain"), ("liked", "plain")]))
    assert page.all("button", name="forget", value="plain", **{"aria-pressed": "true"})
    assert not page.all("input", name="disliked")
    page = Page(client.get("/", params=[("q", "dress"), ("liked", "plain"), ("forget", "plain")]))
    assert not page.all("button", name="forget")


def test_pictures_that_are_gone_are_left_out_of_an_old_address(client) -> None:
    page = get(client, q="dress", liked="plain", disliked="gone", item="went")
    assert "no longer there" in page.text
    assert page.all("div", id="state")[0]["data-address"] == "/?q=dress&liked=plain"


def test_more_are_shown_on_demand(client) -> None:
    many = make_recommender()
    many.index.__init__([f"p{i}" for i in range(30)])
    with TestClient(app_of(many)) as client:
        page = get(client, q="dress")
        assert (len(page.found), page.all("button", name="k")[0]["value"]) == (12, "24")
        assert len(get(client, q="dress", k="24").found) == 24
        page = get(client, q="dress", k="36")
        assert (len(page.found), page.all("button", name="k")) == (30, [])


# --- filters, explanations ---


def test_filters_have_counts_of_what_fits_the_others(client) -> None:
    page = get(client, q="dress", **{"f.colour": "red", "max.price": "30"})
    checked = [tag["value"] for tag in page.all("input", name="f.colour") if "checked" in tag]
    assert checked == ["red"]
    counts = re.findall(
        r'value="(\w+)"[^>]*data-key="f colour.*?class="count">(\d+)',
        client.get("/", params={"q": "dress", "f.colour": "red", "max.price": "30"}).text,
    )
    assert dict(counts) == {"red": "2", "green": "1", "blue": "1"}


def test_filters_that_leave_nothing_say_which_to_leave_out(client) -> None:
    page = get(client, q="dress", **{"f.colour": "purple", "max.price": "25"})
    assert "Without Colour: 3 pictures fit" in page.text
    assert [tag["value"] for tag in page.all("button", name="drop") if tag["data-key"].startswith("relax")] == [
        "colour"
    ]
    assert "leaving out one filter is not enough" in get(client, **{"f.colour": "purple", "min.price": "999"}).text


def test_a_value_that_no_product_has_is_said_beside_the_answers(client) -> None:
    page = Page(client.get("/?q=dress&f.colour=red&f.colour=rde"))
    assert page.found
    assert "No product has colour=rde; did you mean 'red'?" in page.text


def test_an_answer_says_why(client) -> None:
    page = get(client, q="red dress", liked="plain")
    assert "Colour: red as in “red dress” and what was liked" in " ".join(page.text.split())
    both = Page(client.post("/", **photo_form([jpeg()], q="red")))
    assert re.search(r"\d+ % “red”\s*\d+ % photo 1", both.text)


# --- photographs ---


def test_a_page_carries_its_photographs_to_the_next_question(client, recommender) -> None:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (900, 700, 3), dtype=np.uint8)).save(stream, "JPEG")
    page = Page(client.post("/", **photo_form([jpeg("teal"), stream.getvalue()], q="dress")))
    first, second = [tag["value"] for tag in page.all("input", name="photo")]
    assert Image.open(io.BytesIO(base64.b64decode(second))).size == (256, 329)
    assert page.all("form", id="ask")[0]["method"] == "post"
    # Without files, as a like on that page sends it.
    page = Page(
        client.post("/", data={"photo": [first, second], "q": "dress", "liked": "plain"}, files={"images": ("", b"")})
    )
    cells = [{"bytes": base64.b64decode(photo), "path": None} for photo in (first, second)]
    assert page.found == [answer.id for answer in recommender.ask(["dress"], cells, liked=["plain"], k=12)]
    page = Page(client.post("/", data={"photo": [first, second], "remove": "0"}, files={"images": ("", b"")}))
    assert [tag["value"] for tag in page.all("input", name="photo")] == [second]


def test_photographs_are_not_in_the_address_and_the_page_says_so(client) -> None:
    page = Page(client.post("/", **photo_form([jpeg()], q="dress")))
    assert "Photos are not part of the address" in page.text
    assert page.all("div", id="state")[0]["data-address"] == "/?q=dress"


def test_the_script_gets_no_copies_of_what_it_has(client) -> None:
    response = client.post("/", **photo_form([jpeg()]), headers={"X-Page": "swap"})
    assert 'name="photo"' not in response.text
    assert "Photos are not part" in response.text


def test_a_form_without_a_photograph_becomes_an_address(client) -> None:
    sent = client.post("/", data={"q": "dress"}, files={"images": ("", b"")}, follow_redirects=False)
    assert (sent.status_code, sent.headers["location"]) == (303, "/?q=dress")


def test_a_photograph_that_was_only_named_is_asked_for_again(client) -> None:
    page = client.get("/", params={"q": "dress", "images": "me.jpg"})
    assert "Your photo was not sent" in page.text
    assert Page(page).found


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "an empty file"), (b"GIF89a", "a GIF"), (jpeg()[:200], "damaged"), (jpeg(size=(4, 4)), "4 x 4 pixels")],
)
def test_a_bad_photograph_is_named_and_the_others_count(client, recommender, data, words) -> None:
    assert words in said(client.post("/", **photo_form([data])), 422)
    response = client.post("/", **photo_form([data, jpeg("teal")]))
    assert "0.jpg: " in said(response, 200)
    images = [{"bytes": jpeg("teal"), "path": None}]
    assert Page(response).found == [answer.id for answer in recommender.ask(images=images, k=12)]


def test_too_many_photographs_are_a_sentence(client) -> None:
    assert "at most 8 photos, got 9" in said(client.post("/", **photo_form([jpeg()] * 9)), 422)
    assert "Too many files" in said(client.post("/", **photo_form([jpeg()] * 30)), 400)


def test_a_damaged_copy_is_a_sentence(client) -> None:
    response = client.post("/", data={"photo": "%%%"}, files={"images": ("", b"")})
    assert "A photo of the page arrived damaged" in said(response, 422)


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"q": "dress", "min.price": "cheap"}, "Expected a number for price, got &#39;cheap&#39;"),
        ({"q": "x" * 1001}, "at most 1,000 characters"),
        ({"q": "dress", "f.size": "M"}, "No attribute group &#39;size&#39; in this index"),
    ],
)
def test_a_mistake_is_a_sentence_above_the_filled_form(client, query, words) -> None:
    response = client.get("/", params=query)
    assert words in said(response, 422)
    assert f'value="{query["q"]}"' in response.text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StoreUnavailableError("at /somewhere"), "The index cannot be reached; ask again."),
        (BusyError(), "Too many questions are waiting"),
    ],
)
def test_a_server_in_trouble_says_so_on_the_page(client, recommender, error, words) -> None:
    recommender.index.broken = error
    response = client.get("/", params={"q": "dress"})
    assert words in said(response, 503)
    assert response.headers["retry-after"]
    assert 'value="dress"' in response.text


def test_refusals_of_the_layers_are_pages_too() -> None:
    with TestClient(app_of(rate_per_minute=1, rate_burst=2, max_body_mb=0.01)) as client:
        assert "The request has more than 0.01 megabytes" in said(client.post("/", **photo_form([b"x" * 20_000])), 413)
        assert client.get("/").status_code == 200
        response = client.get("/", params={"q": "a&b", "f.x": "<"})
        assert re.search(r"Too many questions; ask again in \d+ s\.", said(response, 429))
        assert response.headers["retry-after"]
        assert Page(response).all("a", href="/?q=a%26b&f.x=%3C")
        assert client.post("/search", json={"texts": ["dress"]}).headers["content-type"] == "application/json"
        assert client.get("/static/page.css").status_code == 200


def test_a_fault_of_ours_is_a_page_that_says_nothing_about_it(recommender) -> None:
    with TestClient(app_of(recommender), raise_server_exceptions=False) as client:
        recommender.index.broken = RuntimeError("secret")
        response = client.get("/", params={"q": "dress"})
        assert "This server made a mistake" in said(response, 500)
        assert "secret" not in response.text


# --- the key ---


def test_with_a_key_the_page_asks_for_it_once() -> None:
    with TestClient(app_of(api_key="s3cret é")) as client:
        asked = client.get("/", params={"q": "dress"})
        assert (asked.status_code, Page(asked).all("input", name="back")[0]["value"]) == (401, "/?q=dress")
        assert client.get("/static/page.css").status_code == 200
        wrong = client.post("/sign-in", data={"key": "s3cret", "back": "/?q=dress"})
        assert "That is not the key" in said(wrong, 401)
        assert not client.cookies
        right = client.post("/sign-in", data={"key": " s3cret é ", "back": "/?q=dress"}, follow_redirects=False)
        assert (right.status_code, right.headers["location"]) == (303, "/?q=dress")
        cookie = right.headers["set-cookie"].lower()
        assert {"httponly", "samesite=lax", "path=/"} <= set(cookie.split("; "))
        assert "s3cret" not in cookie
        assert len(Page(client.get("/", params={"q": "dress"})).found) == len(NASTY)
        assert client.get("/items/plain/thumbnail").status_code == 200
        client.cookies.clear()
        assert client.get("/items/plain/thumbnail").status_code == 401


def test_over_tls_the_cookie_is_bound_to_the_host() -> None:
    with TestClient(app_of(api_key="key"), base_url="https://shop.example") as client:
        cookie = client.post("/sign-in", data={"key": "key"}, follow_redirects=False).headers["set-cookie"]
        assert cookie.startswith(f"{COOKIES[0]}=")
        assert "Secure" in cookie
        assert client.get("/").status_code == 200


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil", "/search", ""])
def test_signing_in_leads_nowhere_else(back) -> None:
    with TestClient(app_of(api_key="key")) as client:
        answer = client.post("/sign-in", data={"key": "key", "back": back}, follow_redirects=False)
        assert answer.headers["location"] == "/"


def test_without_a_key_there_is_nothing_to_sign_in_to(client) -> None:
    for answer in (client.get("/sign-in", follow_redirects=False), client.post("/sign-in", follow_redirects=False)):
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "set-cookie" not in answer.headers


def test_a_session_ends_and_is_of_one_key() -> None:
    token = new_session("key", now=1000.0)
    assert is_session(token, "key", now=1000.0 + LASTS_S - 1)
    assert not is_session(token, "key", now=1000.0 + LASTS_S + 1)
    assert not is_session(token, "other", now=1000.0)
    until, _, proof = token.partition(".")
    for forged in ("", ".", f"{until}.", f"{int(until) + 9}.{proof}", f"x{token}", f"{until}.é"):
        assert not is_session(forged, "key", now=1000.0)


# --- a slow connection ---


def test_pages_and_files_are_small_and_known_again(client) -> None:
    page = client.get("/", params={"q": "dress"})
    assert (page.headers["content-encoding"], page.headers["cache-control"]) == ("gzip", "private, no-cache")
    assert int(page.headers["content-length"]) < 8_000
    again = client.get("/", params={"q": "dress"}, headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    total = 0
    for address in re.findall(r'"(/static/[^"]+)"', page.text):
        file = client.get(address)
        total += int(file.headers["content-length"])
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert client.get(address, headers={"If-None-Match": file.headers["etag"]}).status_code == 304
        assert client.get(address.partition("?")[0] + "?v=old").headers["cache-control"] == "no-cache"
        assert client.get(address, headers={"Accept-Encoding": "identity"}).content == file.content
    assert 0 < total < 12_000
    assert client.get("/static/page.py").status_code == 404


def test_pictures_have_their_size_and_wait_until_they_are_seen(client) -> None:
    images = get(client).all("img")
    assert {(image["width"], image["height"]) for image in images} == {("40", "50")}
    assert [image.get("loading") for image in images] == [None] * 4 + ["lazy"] * (len(NASTY) - 4)


def test_what_was_answered_to_photographs_is_kept_nowhere(client) -> None:
    assert client.post("/", **photo_form([jpeg()])).headers["cache-control"] == "no-store"


def test_the_page_needs_nothing_that_the_policy_forbids(client) -> None:
    page = Page(client.post("/", **photo_form([jpeg()], q="red", liked="plain", avoid="x")))
    assert all(tag.get("src", "").startswith("/static/") for tag in page.all("script"))
    assert not [name for _, found in page.tags for name in found if name == "style" or name.startswith("on")]


def test_an_encoder_is_asked_once_for_each_question() -> None:
    encoder = Encoder()
    with TestClient(app_of(make_recommender(encoder))) as client:
        client.get("/", params={"q": "dress"})
        client.get("/")
    assert encoder.batches == [1]
