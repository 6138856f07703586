"""The page in Chromium, on an index of drawn garments: a telephone, a desk, no JavaScript, only a keyboard.

Skipped, visibly, where there is no Chromium: `playwright install chromium`, or a distribution's own.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from serving import app_of, serving

from fclip.index import build_index
from fclip.recommend import ModelEncoder, Recommender
from fclip.serving import answering
from fclip.serving.uploads import open_upload

api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe: pip install axe-playwright-python")
expect = api.expect

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
DESK = {"viewport": {"width": 1280, "height": 800}}
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage"]  # in a container
PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        installed = [path for path in map(shutil.which, NAMES) if path]
        path = next(iter(installed), playwright.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("no Chromium: the page was not tried in a browser; playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def recommender(tmp_path_factory, catalogue, build):
    model = build()
    return Recommender(build_index(tmp_path_factory.mktemp("shop") / "index", model, catalogue), ModelEncoder(model))


@pytest.fixture(scope="module")
def address(recommender):
    with serving(app_of(recommender)) as server:
        yield server.url


@pytest.fixture
def visit(browser, address):
    """visit(path, **of the device) → a page; at the end none may have complained."""
    contexts, complaints = [], []

    def go(path: str = "/", **device):
        contexts.append(browser.new_context(base_url=address, **(device or DESK)))
        contexts[-1].set_default_timeout(PATIENCE_MS)
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
        page.goto(path)
        return page

    go.complaints = complaints
    yield go
    for context in contexts:
        context.close()
    assert [line for line in complaints if "Failed to load resource" not in line] == []


@pytest.fixture(scope="module", autouse=True)
def patience():
    expect.set_options(timeout=PATIENCE_MS)


def ids(page) -> list[str]:
    return page.locator("button[name=disliked]").evaluate_all("all => all.map((button) => button.value)")


def asked(page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def photo(width: int = 60, height: int = 80, noise: bool = False) -> bytes:
    pixels = np.full((height, width, 3), (200, 30, 30), np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 255, pixels.shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def file_of(data: bytes, name: str = "photo.jpg") -> dict:
    return {"name": name, "mimeType": "image/jpeg", "buffer": data}


def search(page, words: str) -> None:
    page.get_by_label("What are you looking for?").fill(words)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"q="))


@pytest.mark.parametrize("device", [PHONE, DESK], ids=["phone", "desk"])
def test_words_and_filters_find_products(visit, recommender, device) -> None:
    page = visit("/", **device)
    search(page, "red dress")
    expect(page.get_by_role("status")).to_have_text("12 products for “red dress”")
    assert ids(page) == [answer.id for answer in recommender.ask(["red dress"], k=12)]
    page.locator("summary", has_text="Colour").click()
    first = page.locator(".facet[open] .check").first
    value = first.locator("input").get_attribute("value")
    first.click()
    page.wait_for_url(re.compile(r"f\.colour="))
    assert asked(page) == {"q": ["red dress"], "f.colour": [value]}
    expect(page.locator(".facet[open]")).to_have_count(1)
    answers = recommender.ask(["red dress"], where={"colour": value}, k=12)
    assert ids(page) == [answer.id for answer in answers]
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= seen
    assert page.locator(".picture img").first.evaluate("image => image.naturalWidth") == 32


def test_without_javascript_all_of_it_works(visit, recommender) -> None:
    page = visit("/", **PHONE, java_script_enabled=False)
    search(page, "red dress")
    assert asked(page) == {"q": ["red dress"]}
    found = ids(page)
    page.get_by_role("button", name="Like").nth(3).click()
    page.wait_for_url(re.compile("liked="))
    assert asked(page) == {"q": ["red dress"], "liked": [found[3]]}
    page.locator("input[type=file]").first.set_input_files(file_of(photo()))
    page.get_by_role("button", name="Search with photos").click()
    expect(page.get_by_text("Photos are not part of the address")).to_be_visible()
    page.locator("summary", has_text="Colour").click()
    page.get_by_label("blue").check()
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("summary", has_text="Colour: blue")).to_be_visible()
    copy = page.locator("input[name=photo]").get_attribute("value")
    image = {"bytes": base64.b64decode(copy), "path": None}
    question = {"texts": ["red dress"], "images": [image], "liked": [found[3]], "where": {"colour": "blue"}}
    assert ids(page) == [answer.id for answer in recommender.ask(**question, k=12)]


def test_a_like_moves_the_answers_can_be_shared_and_taken_back(visit, recommender) -> None:
    page = visit()
    search(page, "red dress")
    before = ids(page)
    page.get_by_role("button", name="Like").last.click()
    page.wait_for_url(re.compile("liked="))
    after = ids(page)
    assert asked(page) == {"q": ["red dress"], "liked": [before[-1]]}
    assert after == [answer.id for answer in recommender.ask(["red dress"], liked=[before[-1]], k=12)] != before
    other = visit(urlsplit(page.url)._replace(scheme="", netloc="").geturl(), **PHONE)
    assert ids(other) == after
    expect(other.get_by_label("What are you looking for?")).to_have_value("red dress")
    expect(other.locator("[aria-pressed=true]")).to_have_count(1)
    page.locator(".tokens").get_by_role("button").click()
    expect(page.locator(".tokens")).to_have_count(0)
    assert ids(page) == before
    page.get_by_role("button", name="Not for me").first.click()
    page.wait_for_url(re.compile("disliked="))
    assert before[0] not in ids(page)
    expect(page.locator("#found")).to_be_focused()
    page.go_back()
    expect(page.locator("button[name=disliked]").first).to_have_attribute("value", before[0])


def test_a_photograph_is_sent_small_and_stays_while_the_page_is_open(visit, monkeypatch) -> None:
    sent, page = [], visit("/", **PHONE)
    monkeypatch.setattr(
        answering, "open_upload", lambda data, *more: sent.append(len(data)) or open_upload(data, *more)
    )
    large = photo(2400, 1800, noise=True)
    page.locator("input[type=file]").first.set_input_files(file_of(large))
    expect(page.get_by_text("Photos are not part of the address")).to_be_visible()
    assert 0 < sent[0] < len(large) / 3
    assert (page.evaluate("location.search"), page.locator("#previews li").count()) == ("", 1)
    search(page, "red dress")
    assert asked(page) == {"q": ["red dress"]}
    page.locator(".why summary").first.click()
    expect(page.locator(".why[open]")).to_contain_text("% photo 1")
    # Another one, dropped.
    data = page.evaluate_handle(
        """text => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], "dropped.jpg", { type: "image/jpeg" }));
            return transfer;
        }""",
        base64.b64encode(photo()).decode(),
    )
    page.dispatch_event("main", "drop", {"dataTransfer": data})
    page.locator(".why summary").first.click()
    page.get_by_role("button", name="Remove photo.jpg").click()
    page.get_by_role("button", name="Remove dropped.jpg").click()
    expect(page.get_by_text("Photos are not part of the address")).to_have_count(0)


def test_what_goes_wrong_is_said_and_the_answers_stay(visit) -> None:
    page = visit()
    search(page, "red dress")
    before = ids(page)
    page.locator("input[type=file]").first.set_input_files(file_of(b"no picture"))
    expect(page.get_by_role("alert")).to_contain_text("photo.jpg: expected a JPEG, PNG or WEBP picture")
    page.get_by_role("button", name="Remove photo.jpg").click()
    expect(page.locator("#problem")).to_be_empty()
    assert ids(page) == before
    page.route("**/*", lambda route: route.abort())
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    assert ids(page) == before
    page.unroute("**/*")
    page.route("**/*", lambda route: route.fulfill(status=429, content_type="text/html", body=REFUSAL))
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("alert")).to_contain_text("Ask again in 3 s.")
    assert ids(page) == before


REFUSAL = '<!doctype html><title>x</title><div id="problem"><p>Ask again in 3 s.</p></div>'


def test_filters_that_leave_nothing_can_be_left_out_at_once(visit) -> None:
    page = visit("/?q=dress&f.colour=plaid")
    page.get_by_role("button", name="Without Colour").click()
    expect(page.locator(".card").first).to_be_visible()
    assert asked(page) == {"q": ["dress"]}


def test_a_keyboard_is_enough(visit) -> None:
    page = visit()
    pressed = tabs_until(page, "#q")
    page.keyboard.type("red dress")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("q="))
    expect(page.locator("#q")).to_be_focused()
    pressed += tabs_until(page, "summary")
    assert pressed < 9
    page.keyboard.press("Enter")
    tabs_until(page, ".facet[open] input")
    page.keyboard.press("Space")
    page.wait_for_url(re.compile(r"f\."))
    expect(page.locator(".facet[open] input:checked")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".facet[open]")).to_have_count(0)
    expect(page.locator("summary.on")).to_be_focused()
    tabs_until(page, "button[name=liked]")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("liked="))
    expect(page.locator("[aria-pressed=true]")).to_be_focused()


def tabs_until(page, selector: str) -> int:
    """How often Tab was pressed; every stop on the way must be visible."""
    for count in range(1, 60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert style != "none"
            return count
    raise AssertionError(f"Tab never reaches {selector}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, scheme) -> None:
    page = visit("/", **PHONE, color_scheme=scheme)
    search(page, "red dress")
    page.get_by_role("button", name="Like").first.click()
    page.wait_for_url(re.compile("liked="))
    page.locator(".why summary").nth(1).click()
    page.locator("summary", has_text="Colour").click()
    assert violations(page) == []
    page = visit("/?q=dress&f.colour=plaid&min.x=2", **DESK, color_scheme=scheme)
    assert page.locator("#problem p").count() == 1
    assert violations(page) == []


def violations(page) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]
