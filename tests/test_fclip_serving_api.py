"""Every route: what goes in, what comes out, and every way it may go wrong; always JSON, never a 500."""

from __future__ import annotations

import json
import threading
from urllib.parse import quote

import numpy as np
import pytest
from serving import COLOURS, NASTY, Encoder, app_of, form, jpeg, make_recommender
from starlette.testclient import TestClient

from fclip.errors import StoreUnavailableError
from fclip.serving.schemas import MAX_K


@pytest.fixture
def recommender():
    return make_recommender()


@pytest.fixture
def client(recommender):
    with TestClient(app_of(recommender)) as client:
        yield client


def ids(response) -> list[str]:
    assert response.status_code == 200, response.text
    return [answer["id"] for answer in response.json()["answers"]]


def problem(response, status: int) -> str:
    """The one line of an error."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert "\n" not in response.json()["error"]
    return response.json()["error"]


def expected(recommender, **question) -> list[str]:
    return [answer.id for answer in recommender.ask(**question)]


# --- search ---


@pytest.mark.parametrize(
    "question",
    [
        {"texts": ["red dress"], "k": 3},
        {"texts": ["red dress", "long"], "k": 5, "fusion": "mean"},
        {"items": ["a/b/c"], "texts": ["in blue"], "weights": {"text": 2, "item": 1}, "k": 4},
        {"texts": ["dress"], "avoid": ["stripes"], "diversity": 0.5, "k": 4},
        {"texts": ["dress"], "liked": ["it's"], "disliked": ["plain"], "k": 4},
        {"texts": ["dress"], "where": {"colour": ["red", "blue"], "price": {"min": 5, "max": 60}}, "k": 9},
        {"texts": ["dress"], "where": {"colour": {"not": ["red"]}}, "k": 9},
        {"texts": ["dress"], "where": {"price": 20}, "k": 9},
        {"texts": ["dress"], "where": {"price": [20, 30.0]}, "k": 9},
        {"texts": ["dress"], "where": {"price": {"not": [20]}}, "k": 9},
    ],
)
def test_a_question_is_answered_as_the_recommender_does(client, recommender, question) -> None:
    assert ids(client.post("/search", json=question)) == expected(recommender, **question)


def test_photographs_come_by_a_form(client, recommender) -> None:
    photo = jpeg("teal")
    cell = {"bytes": photo, "path": None}
    assert ids(client.post("/search", **form({"k": 3}, [photo]))) == expected(recommender, images=[cell], k=3)
    assert ids(client.post("/search", **form(None, [photo]))) == expected(recommender, images=[cell], k=12)
    both = {"texts": ["in blue"], "avoid": ["stripes"], "k": 3}
    cells = [cell, {"bytes": jpeg("navy"), "path": None}]
    found = client.post("/search", **form(both, [photo, jpeg("navy")]))
    assert ids(found) == expected(recommender, images=cells, **both)


def test_an_answer_tells_about_its_picture(client, recommender) -> None:
    answer = client.post("/search", json={"texts": ["dress"], "k": 1, "explain": True}).json()["answers"][0]
    (known,) = recommender.ask(["dress"], k=1, explain=True)
    assert answer["score"] == pytest.approx(known.score)
    assert (answer["item"], answer["title"], answer["attributes"]) == (known.item, known.title, known.attributes)
    assert answer["why"]["words"] == str(known.why)
    assert client.get(answer["thumbnail"]).content == known.thumbnail


def test_a_filter_that_leaves_nothing_says_what_to_leave_out(client) -> None:
    found = client.post("/search", json={"texts": ["dress"], "where": {"colour": "purple", "price": {"max": 25}}})
    assert (found.status_code, found.json()["answers"]) == (200, [])
    assert found.json()["relax"] == [{"group": "colour", "pictures": 3}]


@pytest.mark.parametrize("wanted", ["rde", ["rde"]])
def test_where_nothing_fits_a_value_that_no_product_has_is_said(client, wanted) -> None:
    found = client.post("/search", json={"texts": ["dress"], "where": {"price": {"max": 90}, "colour": wanted}})
    assert found.json()["notes"] == ["no product has colour=rde; did you mean 'red'? known: blue, green, red"]
    assert client.post("/search", json={"texts": ["dress"], "where": {"colour": "red"}}).json()["notes"] == []


def test_of_several_values_that_which_no_product_has_is_said_beside_the_answers(client) -> None:
    where = {"colour": ["red", "greem"], "price": {"min": 0}}
    found = client.post("/search", json={"texts": ["dress"], "where": where}).json()
    assert {answer["attributes"]["colour"] for answer in found["answers"]} == {"red"}
    assert found["notes"] == ["no product has colour=greem; did you mean 'green'? known: blue, green, red"]


def test_the_nearest_values_are_looked_for_beside_the_event_loop(client, monkeypatch) -> None:
    from fclip.queries import relaxing

    threads = []
    monkeypatch.setattr(relaxing, "nearest", lambda value, known: threads.append(threading.current_thread().name) or "")
    client.post("/search", json={"texts": ["dress"], "where": {"colour": ["rde", "greem"]}})
    assert [name.partition("_")[0] for name in threads] == ["asyncio", "asyncio"]  # the pool of to_thread


def test_an_unknown_facet_names_the_nearest_and_not_where_the_index_lies(client) -> None:
    said = problem(client.post("/search", json={"texts": ["dress"], "where": {"color": "red"}}), 422)
    assert said == "no attribute group 'color' in this index; did you mean 'colour'? known: colour, price"


MISTAKES = {
    "nothing asked": ({}, "expected a text, a picture, an item or a like"),
    "only blanks": ({"texts": ["  "]}, "texts.0: expected at least 1 character, got 0"),
    "a long text": ({"texts": ["x" * 10_000]}, "texts.0: expected at most 1000 characters, got 10000"),
    "many texts": ({"texts": ["x"] * 9}, "texts: expected at most 8 values, got 9"),
    "k of 0": ({"texts": ["x"], "k": 0}, "k: expected at least 1, got 0"),
    "k too large": ({"texts": ["x"], "k": MAX_K + 1}, "k: expected at most 100, got 101"),
    "a huge k": ({"texts": ["x"], "k": 10**400}, "k: expected at most 100, got 1000"),
    "a part of k": ({"texts": ["x"], "k": 2.5}, "k: expected a whole number, got 2.5"),
    "an unknown key": ({"text": ["xxxx"]}, "unknown key 'text'; did you mean 'texts'? known: avoid, disliked, "),
    "an unknown end": (
        {"where": {"price": {"mx": 3}}},
        "unknown key 'where.price.mx'; did you mean 'max'? known: max, min",
    ),
    "an unknown key with a name of pydantic's": ({"[value]": 1}, "unknown key '[value]'; known: avoid, "),
    "an unknown key with a name of ours": ({"query": "xxxx"}, "unknown key 'query'; known: avoid, "),
    "a group with a name of ours": ({"where": {"value": True}}, "where.value: expected words, a number, "),
    "an end of a group with a name of ours": ({"where": {"range": {"min": "x"}}}, "where.range.min: expected a number"),
    "an unknown end with a name of ours": (
        {"where": {"price": {"value": 3}}},
        "unknown key 'where.price.value'; known: max, min",
    ),
    "a group that is called not": ({"where": {"not": {"not": "x"}}}, "where.not.not: expected a list"),
    "more than not": (
        {"where": {"price": {"not": [3], "mim": 1}}},
        "unknown key 'where.price.mim'; known: not",
    ),
    "no list": ({"texts": "xxxx"}, 'texts: expected a list, e.g. ["a", "b"], got a string'),
    "no list of what is not": (
        {"where": {"colour": {"not": "x"}}},
        'where.colour.not: expected a list, e.g. ["a", "b"]',
    ),
    "no question": (["xxxx"], "expected keys and values, got a list"),
    "an unknown weight": (
        {"texts": ["x"], "weights": {"txt": 1}},
        "weights.txt: expected 'text', 'image' or 'item', got",
    ),
    "two mistakes": ({"texts": "x", "k": "x"}, "; and 1 more"),
    "an unknown item": ({"items": ["nobody"]}, "no picture 'nobody' in this index"),
    "an unknown fusion": (
        {"texts": ["x"], "fusion": "sum"},
        "fusion: expected 'mean', 'slerp', 'late' or 'rrf', got 'sum'",
    ),
    "a range without ends": (
        {"texts": ["x"], "where": {"price": {}}},
        "where.price: expected min, max or both, got neither",
    ),
    "a filter of another kind": (
        {"texts": ["x"], "where": {"price": True}},
        "where.price: expected words, a number, a list of them, ",
    ),
    "no filter": ({"texts": ["x"], "where": {"price": None}}, '{"min": …, "max": …} or {"not": […]}, got null'),
    "a value of another kind": ({"where": {"price": [5, True]}}, "where.price.1: expected words or a number, got true"),
    "no value": ({"where": {"price": {"not": [None]}}}, "where.price.not.0: expected words or a number, got null"),
    "an end of another kind": ({"where": {"price": {"min": True}}}, "where.price.min: expected a number, got true"),
    "a number for words": ({"texts": ["x"], "where": {"colour": 3}}, "expected words to filter colour by, got 3"),
    "numbers for words": ({"texts": ["x"], "where": {"colour": {"not": [2.5]}}}, "to filter colour by, got 2.5"),
    "words for a number": ({"texts": ["x"], "where": {"price": "low"}}, "expected a number to filter price by, got"),
    "a huge number": ({"where": {"price": 10**400}}, "where.price: expected a number, got 1000"),
    "a long value": ({"where": {"colour": ["x" * 201]}}, "where.colour.0: expected at most 200 characters, got 201"),
    "many values": ({"where": {"price": [1] * 101}}, "where.price: expected at most 100 values, got 101"),
    "no values": ({"texts": ["x"], "where": {"colour": []}}, "where.colour: expected at least 1 value, got 0"),
    "weights of 0": ({"texts": ["x"], "weights": {"text": 0}}, "has weight 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_question_that_makes_no_sense_is_refused_in_one_line(client, name) -> None:
    question, message = MISTAKES[name]
    said = problem(client.post("/search", json=question), 422)
    assert message in said
    assert "xxxx" not in said


BODIES = {
    "no json": ("application/json", b"{", 422, "expected JSON, got a mistake at line 1 column 1 (EOF while"),
    "nan": (
        "application/json",
        b'{"texts": ["x"], "diversity": NaN}',
        422,
        "diversity: expected a finite number, got nan",
    ),
    "a lone surrogate": (
        "application/json",
        b'{"texts": ["\\ud800"]}',
        422,
        "expected JSON, got a mistake at line 1 column ",
    ),
    "no utf-8": ("application/json", b'{"texts": ["\xff"]}', 422, "expected JSON, got a mistake at line 1 column "),
    "deep": ("application/json", b"[" * 5000, 422, "expected JSON, got a mistake at line 1 column "),
    "a long question": ("application/json", b" " * 300_000, 422, "256 kilobytes"),
    "no content type": ("", b"{}", 415, "expected application/json or multipart/form-data"),
    "another content type": ("text/plain", b"{}", 415, "got text/plain"),
    "a form without boundary": ("multipart/form-data", b"{}", 400, "boundary"),
    "another boundary": ("multipart/form-data; boundary=x", b"--y\r\n", 400, ""),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_none_is_refused(client, name) -> None:
    kind, body, status, message = BODIES[name]
    assert message in problem(
        client.post("/search", content=body, headers={"Content-Type": kind} if kind else {}), status
    )


def test_too_many_or_other_files_are_refused(client) -> None:
    assert "at most 8 pictures" in problem(client.post("/search", **form({}, [jpeg()] * 9)), 422)
    problem(client.post("/search", **form({}, [jpeg()] * 20)), 400)
    assert "got an empty file" in problem(client.post("/search", **form({}, [b""])), 422)
    assert "damaged or cut off" in problem(client.post("/search", **form({}, [jpeg(size=(90, 90))[:500]])), 422)


AS_A_FORM = "photographs come as a form: files in the field images, the rest as JSON in the field question"


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (
            {"files": {"image": ("x.jpg", jpeg())}},
            422,
            f"unknown field 'image'; did you mean 'images'? known: images, question; {AS_A_FORM}",
        ),
        (
            {"files": {"photo": ("x.jpg", jpeg())}},
            422,
            f"unknown field 'photo'; known: images, question; {AS_A_FORM}",
        ),
        (
            {"files": {"images": (None, "photo.jpg")}},
            422,
            "expected files in the field images, got text; with curl: -F images=@photo.jpg",
        ),
        (
            {"files": {"question": ("q.json", b"{}")}},
            422,
            "expected text in the field question, got a file; with curl: -F 'question=<question.json'",
        ),
        ({"json": {"images": ["photo.jpg"]}}, 422, f"unknown key 'images'; {AS_A_FORM}"),
        ({"json": {"texts": ["dress"], "image": "x" * 9999}}, 422, f"unknown key 'image'; {AS_A_FORM}"),
        ({"json": {"photo": "x", "y": 1}}, 422, f"unknown key 'photo'; {AS_A_FORM}; and 1 more"),
        (
            {"json": {"images": ["x" * 300_000]}},
            422,
            f"a question may have 256 kilobytes, got 292; {AS_A_FORM}",
        ),
        (
            {"content": jpeg(), "headers": {"Content-Type": "image/jpeg"}},
            415,
            f"expected application/json or multipart/form-data, got image/jpeg; {AS_A_FORM}",
        ),
    ],
)
@pytest.mark.parametrize("route", ["/search", "/feedback"])
def test_photographs_sent_in_another_way_are_told_the_right_one(client, route, sent, status, message) -> None:
    assert problem(client.post(route, **sent), status) == message


# --- feedback and similar ---


def test_feedback_moves_the_answers_and_is_not_remembered(client, recommender) -> None:
    plain = {"texts": ["dress"], "k": 6}
    before = ids(client.post("/search", json=plain))
    verdicts = {"liked": [before[5]], "disliked": [before[0]]}
    moved = ids(client.post("/feedback", json=plain | verdicts))
    assert moved == expected(recommender, **plain, **verdicts)
    assert moved != before
    assert before[0] not in moved
    assert ids(client.post("/search", json=plain)) == before
    assert "liked or disliked" in problem(client.post("/feedback", json=plain), 422)


def test_similar_products_without_the_product_itself(client, recommender) -> None:
    assert ids(client.get("/similar/plain?k=3")) == expected(recommender, items=["plain"], k=3)
    assert "plain" not in ids(client.get("/similar/plain?k=100"))
    assert "no picture 'nobody'" in problem(client.get("/similar/nobody"), 404)
    assert "k: expected at most 100, got 101" in problem(client.get("/similar/plain?k=101"), 422)


# --- items ---


@pytest.mark.parametrize("name", NASTY)
def test_ids_may_hold_anything(client, name) -> None:
    for quoted in (quote(name, safe=""), quote(name)):
        found = client.get(f"/items/{quoted}")
        assert found.status_code == 200
        assert found.json()["id"] == name
        assert client.get(f"/items/{quoted}/thumbnail").headers["content-type"] == "image/jpeg"
        assert name not in ids(client.get(f"/similar/{quoted}?k=50"))
    assert name not in ids(client.post("/search", json={"items": [name], "k": 50}))


def test_a_thumbnail_is_kept_by_the_browser(client) -> None:
    first = client.get("/items/plain/thumbnail")
    assert first.headers["cache-control"] == "private, max-age=86400"
    again = client.get("/items/plain/thumbnail", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_an_unknown_item_is_404(client) -> None:
    for address in ("/items/nobody", "/items/nobody/thumbnail", "/items/%00", "/items/a%2F..%2Fb"):
        assert "no picture" in problem(client.get(address), 404)


def test_an_unknown_address_names_the_nearest_and_another_method_those_there_are(client) -> None:
    said = problem(client.get("/serch"), 404)
    assert said.startswith("no address '/serch'; did you mean '/search'? known: /, /facets, /feedback, ")
    assert "x" * 61 not in problem(client.get(f"/{'x' * 5000}"), 404)
    assert problem(client.get("/search"), 405) == "expected POST for '/search', got GET"
    assert problem(client.post("/openapi.json"), 405) == "expected GET or HEAD for '/openapi.json', got POST"
    page = client.put("/")
    assert page.status_code == 405
    assert "Expected GET or POST for " in page.text


# --- facets ---


def test_facets_count_what_fits(client) -> None:
    everything = client.get("/facets").json()
    assert everything["pictures"] == len(NASTY)
    assert everything["groups"]["colour"] == {"values": {"red": 4, "green": 4, "blue": 3}, "number": False}
    assert everything["groups"]["price"]["number"] is True
    some = client.get("/facets", params={"where": json.dumps({"price": {"max": 20}})}).json()
    assert some["groups"]["colour"]["values"] == dict.fromkeys(COLOURS, 1)
    one = client.get("/facets", params={"where": json.dumps({"price": 20})}).json()
    assert one["pictures"] == 1
    said = problem(client.get("/facets", params={"where": '{"colour": 3}'}), 422)
    assert said == "expected words to filter colour by, got 3"
    assert "color" in problem(client.get("/facets", params={"where": '{"color": "red"}'}), 422)
    assert "expected JSON" in problem(client.get("/facets", params={"where": "{"}), 422)


def test_facets_say_which_value_no_product_has(client) -> None:
    assert client.get("/facets").json()["notes"] == []
    for where, notes in (
        ({"colour": "red", "price": 20}, []),
        ({"colour": ["red", "rde"]}, ["no product has colour=rde; did you mean 'red'? known: blue, green, red"]),
    ):
        for _ in range(2):  # counts are kept
            assert client.get("/facets", params={"where": json.dumps(where)}).json()["notes"] == notes


# --- parameters of an address ---


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/similar/plain?k=2&diversty=1", "unknown key 'diversty'; did you mean 'diversity'? known: diversity, k"),
        ("/similar/plain?where={}", "unknown key 'where'; known: diversity, k"),
        ("/similar/plain?k=two", "k: expected a whole number, got 'two'"),
        ("/similar/plain?k=", "k: expected a whole number, got ''"),
        ("/similar/plain?k=0", "k: expected at least 1, got 0"),
        ("/similar/plain?diversity=nan", "diversity: expected a finite number, got 'nan'"),
        ("/similar/plain?diversity=2", "diversity: expected at most 1, got 2"),
        ("/similar/plain?kk=1&dd=2", "unknown key 'kk'; did you mean 'k'? known: diversity, k; and 1 more"),
        ("/facets?query=x", "unknown key 'query'; known: where"),
        ("/facets?filter=x", "unknown key 'filter'; known: where"),
        ("/facets?were={}", "unknown key 'were'; did you mean 'where'? known: where"),
        (f"/facets?where={'x' * 10_001}", "where: expected at most 10000 characters, got 10001"),
        (f"/facets?{'x' * 9000}=1", f"unknown key '{'x' * 60}'; known: where"),
    ],
)
def test_an_unknown_or_wrong_parameter_is_refused_in_one_line(client, address, message) -> None:
    assert problem(client.get(address), 422) == message


@pytest.mark.parametrize("address", ["/", "/items/plain", "/items/plain/thumbnail", "/healthz", "/readyz", "/metrics"])
def test_where_links_are_shared_and_kept_unknown_parameters_are_passed_over(client, address) -> None:
    assert client.get(f"{address}?utm_source=mail&v=7").status_code == 200


# --- what machines ask ---


def test_a_store_that_went_away_is_503_until_it_is_back(client, recommender) -> None:
    assert client.get("/readyz").json() == {"status": "ok"}
    recommender.index.broken = StoreUnavailableError("no answer from http://secret:6333")
    for address in (
        "/readyz",
        "/items/plain",
        "/items/plain/thumbnail",
        "/similar/plain",
        '/facets?where={"colour":"red"}',
    ):
        response = client.get(address)
        assert problem(response, 503) == "the index cannot be reached; ask again"
        assert int(response.headers["retry-after"]) > 0
    problem(client.post("/search", json={"texts": ["dress"]}), 503)
    assert client.get("/healthz").status_code == 200
    recommender.index.broken = None
    assert client.get("/readyz").status_code == 200


def test_a_mistake_of_ours_is_one_line_without_what_was_asked(client, recommender, caplog) -> None:
    recommender.index.broken = RuntimeError("the words were: red dress")
    response = client.post("/search", json={"texts": ["red dress"]})
    said = problem(response, 500)
    assert response.headers["x-request-id"] in said
    assert "red dress" not in said


def test_metrics_count_by_route_and_never_by_id(client) -> None:
    client.get("/items/plain")
    client.get("/items/it's")
    client.post("/search", json={"texts": ["a", "b"]})
    client.request("PRIVATE", "/somebody/private")
    shown = client.get("/metrics").text
    assert 'fclip_requests_total{method="GET",route="/items/{id:path}",status="200"} 2.0' in shown
    assert 'fclip_requests_total{method="other",route="none",status="404"} 1.0' in shown
    assert 'fclip_batch_items_sum{kind="texts"} 2.0' in shown
    assert "plain" not in shown.replace("text/plain", "")
    assert "private" not in shown.lower()


def test_openapi_describes_every_route_with_limits_and_examples(client) -> None:
    described = client.get("/openapi.json").json()
    assert {"/search", "/feedback", "/similar/{id}", "/items/{id}", "/items/{id}/thumbnail", "/facets"} <= set(
        described["paths"]
    )
    body = described["paths"]["/search"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    question = described["components"]["schemas"]["Question"]
    assert question["properties"]["k"]["maximum"] == MAX_K
    assert question["properties"]["texts"]["items"]["maxLength"] == 1000
    parameters = described["paths"]["/similar/{id}"]["get"]["parameters"]
    assert [f"{each['in']} {each['name']}" for each in parameters] == ["path id", "query k", "query diversity"]
    assert parameters[1]["schema"]["maximum"] == MAX_K
    assert [each["name"] for each in described["paths"]["/facets"]["get"]["parameters"]] == ["where"]
    filters = question["properties"]["where"]["anyOf"][0]["additionalProperties"]["oneOf"]
    word_or_number = [{"type": "string", "minLength": 1, "maxLength": 200}, {"type": "number"}]
    assert filters[:2] == [
        {"oneOf": word_or_number},
        {"type": "array", "items": {"oneOf": word_or_number}, "minItems": 1, "maxItems": 100},
    ]
    text = json.dumps(described)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in described["components"]["schemas"]


def test_answers_hold_no_nan(client, recommender) -> None:
    """A picture of zeros has no direction; JSON has no NaN."""
    recommender.encoder.embed_texts = lambda texts: np.full((len(texts), 16), np.nan, np.float32)
    response = client.post("/search", json={"texts": ["dress"]})
    assert response.status_code in (200, 500)
    json.loads(response.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_many_that_wait_are_turned_away() -> None:
    encoder = Encoder()
    with TestClient(app_of(make_recommender(encoder), max_waiting=1)) as client:
        response = client.post("/search", json={"texts": ["a", "b"]})
        assert problem(response, 503) == "too many questions are waiting; ask again"
        assert response.headers["retry-after"] == "1"
