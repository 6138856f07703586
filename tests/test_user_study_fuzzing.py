"""What strangers and broken programs send to the study: it is answered or refused, and nothing of it is kept."""

from __future__ import annotations

import random
import re
from contextlib import contextmanager, suppress

import pytest
from serving import jpeg, make_recommender, serving
from sqlalchemy import func, select
from starlette.testclient import TestClient
from study_stores import make_study, postgres, postgres_programs
from test_fclip_serving_uploads import damaged

from fclip.serving.uploads import RefusedUploadError, open_upload
from user_study.app import create_app
from user_study.jobs import finish, next_job
from user_study.models import Photograph, Query
from user_study.rehearsal import Page, painting_systems
from user_study.sessions import form_word
from user_study.store import new_token, open_store
from user_study.systems import IndexSystem


@contextmanager
def opened(url: str, **keys):
    """The program of a study and its store."""
    study = make_study(**{"filters": ("colour",), "ask_generated": True} | keys)
    store = open_store(url, study)
    systems = {**painting_systems(study), "system-1": IndexSystem(make_recommender())}
    try:
        yield create_app(study, store, systems, rate_per_minute=0), store, systems
    finally:
        store.engine.dispose()


def count(store, kind, *where) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(kind).where(*where))


def document(app, form: dict) -> dict:
    """The program's OpenAPI, with the fields of its forms, which it reads by hand; statuses are those of a page."""
    found = app.openapi()
    body = {"type": "object", "properties": form, "required": ["form"], "additionalProperties": {"type": "string"}}
    for operations in found["paths"].values():
        for method, operation in operations.items():
            if method == "post":
                operation["requestBody"] = {"content": {"multipart/form-data": {"schema": body}}}
    return found


def fields(token: str, letters: str, pictures: list[str]) -> dict:
    text, words = {"type": "string"}, {"type": "string", "maxLength": 40}
    found = {"form": {"enum": [form_word(token)]}, "consent-0": text, "external": words, "text": words}
    found |= {"filter-colour": {"enum": ["red", "", "x"]}, "action": {"enum": ["send", "save"]}}
    found |= {"photographs": {"type": "string", "format": "binary"}, "guess": {"enum": [*letters, "unsure", "Z"]}}
    for letter in letters:
        found |= {f"rank-{letter}": text, f"rating-{letter}": {"enum": ["1", "10", "11"]}, f"comment-{letter}": words}
    return found | {f"relevant-{one}": {"enum": ["0", "1", ""]} for one in pictures}


@pytest.mark.slow
@pytest.mark.parametrize(("examples", "kind"), [(30, "sqlite"), (30, "postgresql")])
def test_a_fuzzer_of_the_pages_finds_no_mistake_of_ours(examples, kind, tmp_path) -> None:
    """schemathesis asks as somebody unknown, as one who is to say what they like, and as one who is to judge."""
    if kind == "sqlite":
        fuzz(f"sqlite:///{tmp_path}/study.db", examples)
    elif postgres_programs() is None:
        pytest.skip("no PostgreSQL here: apt install postgresql")
    else:
        with postgres() as url:
            fuzz(url, examples)


def fuzz(url: str, examples: int) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    limits = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
    with opened(url, own_queries=2) as (app, store, systems):
        tokens = [new_token() for _ in range(3)]
        wishing, judging = (store.claim(token) for token in tokens[1:])
        store.ask(judging, 0, "a red dress", None, [])
        for name, system in systems.items():
            job = next_job(store, name)
            finish(store, job, system.recommend(job.wish, 2, lambda _: None))
        pictures = [picture.id for answer in store.step(judging).query.answers for picture in answer.pictures]
        assert store.step(wishing).kind == "preferences"

        def asking(address, cookies):
            def ask(case) -> None:
                response = case.call(base_url=address, cookies=cookies)
                assert response.status_code < 500, response.text
                kind = response.headers.get("content-type", ["none"])[0]
                assert response.status_code in (204, 303, 409) or kind.startswith(("text/", "image/"))

            return ask

        with serving(app) as server:
            for token in tokens:
                raw = document(app, fields(token, "A", pictures[:1]))
                for found in schemathesis.openapi.from_dict(raw).get_all_operations():
                    # An address that is read holds nothing that could be of another kind than OpenAPI says.
                    for mode in ("positive", "negative") if found.ok().method == "post" else ("positive",):
                        cases = found.ok().as_strategy(generation_mode=schemathesis.GenerationMode(mode))
                        ask = given(case=cases)(asking(server.url, {"study": token}))
                        settings(max_examples=examples, **limits)(ask)()
        assert store.step(judging).number >= 1


def malformed(number: int) -> list[bytes]:
    """Damaged pictures, without those whose damage no decoder minds."""
    found: list[bytes] = []
    for data in damaged(3 * number, seed=3):
        with suppress(RefusedUploadError):
            open_upload(data)
            continue
        found.append(data)
    return found[:number]


@contextmanager
def wishing(folder):
    """A participant who is to send at least one photograph: their browser, their form, the store."""
    with opened(f"sqlite:///{folder}/study.db", least_images=1) as (app, store, _):
        with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
            page = Page(client.get("/").text)
            page = Page(client.post("/begin", data=page.hidden | {"consent-0": "1"}).text)
            yield client, page, store
        assert count(store, Photograph) == 0
        assert count(store, Query, Query.text.is_not(None)) == 0


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_malformed_photographs_are_refused_in_words_and_none_is_kept(number, tmp_path) -> None:
    files = malformed(number)
    assert len(files) == number
    with wishing(tmp_path) as (client, page, _):
        for data in files:
            sent = {"data": page.hidden | {"text": "a red dress"}, "files": {"photographs": ("x.jpg", data)}}
            answer = client.post(page.action, **sent)
            assert answer.status_code == 422, answer.text
            empty = "Please choose 1 to 4 photographs"
            assert "Photograph 1, x.jpg: " in answer.text or (not data and empty in answer.text)


# Starlette leaves the file of a form that breaks off to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_malformed_forms_are_refused_on_a_page_and_nothing_of_them_is_kept(number, tmp_path) -> None:
    rng = random.Random(0)
    headings = []
    with wishing(tmp_path) as (client, page, _):
        headers = {"Content-Type": "multipart/form-data; boundary=b0undary"}
        sent = {"data": page.hidden | {"text": "a red dress"}, "files": {"photographs": ("x.jpg", jpeg()[:-99])}}
        whole = client.build_request("POST", page.action, headers=headers, **sent).read()
        for _ in range(number):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(data))
                data[at : at + rng.randint(0, 20)] = rng.randbytes(rng.randint(0, 8))
            answer = client.post(page.action, content=bytes(data), headers=headers)
            assert answer.status_code in (400, 403, 422), answer.text
            headings += re.findall("<h1>(.*)</h1>", answer.text)
    assert len(headings) == number
    assert set(headings) == {"That did not arrive whole", "This page is out of date", "What are you looking for?"}
