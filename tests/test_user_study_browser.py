"""The study in a real browser: phone and desktop, with and without JavaScript, resumed elsewhere, axe on every page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from serving import jpeg, make_recommender
from study_stores import make_study

from user_study.rehearsal import painting_systems
from user_study.running import served
from user_study.store import open_store
from user_study.systems import IndexSystem

pytest.importorskip("playwright", reason="no playwright here: pip install playwright")
CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip("no Chromium here: apt install chromium", allow_module_level=True)
pytestmark = pytest.mark.slow

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
DESKTOP = {"viewport": {"width": 1366, "height": 900}}


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def site(tmp_path):
    study = make_study(
        pictures=4, filters=("colour",), repeat=True, ask_generated=True, least_images=2, completion_code="C0DE",
        information="We compare recommendations.\n\nYour answers are kept for **five years**.",
    )  # fmt: skip
    store = open_store(f"sqlite:///{tmp_path}/study.db", study)
    systems = {**painting_systems(study), "system-1": IndexSystem(make_recommender())}
    with served(study, store, systems) as url:
        yield url, store
    store.engine.dispose()


def violations(page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found]


def begin(page, url: str) -> None:
    page.goto(url)
    page.get_by_label("I have read this").check()
    page.get_by_role("button", name="Begin").click()


def wish(page) -> None:
    page.get_by_label("In words").fill("a red dress")
    photographs = [{"name": f"{i}.jpg", "mimeType": "image/jpeg", "buffer": jpeg("blue")} for i in range(2)]
    page.get_by_label("photographs").set_input_files(photographs)
    page.get_by_label("Only this colour").select_option("red")
    page.get_by_role("button", name="Show me").click()


def judge(page) -> None:
    page.get_by_role("heading", name="Which of these").wait_for(timeout=30_000)
    for name in page.eval_on_selector_all("[name^=relevant]", "all => [...new Set(all.map(one => one.name))]"):
        page.locator(f'[name="{name}"][value="1"]').check()
    for rank, letter in enumerate("ABCD", 1):
        page.locator(f'[name="rank-{letter}"][value="{rank}"]').check()
        page.locator(f'[name="rating-{letter}"][value="8"]').check()


def send(page) -> None:
    page.get_by_role("button", name="Send").click()


@pytest.mark.parametrize("device", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("javascript", [True, False], ids=["script", "plain"])
def test_the_whole_study_is_done_and_every_page_is_accessible(chromium, site, device, javascript):
    url, store = site
    context = chromium.new_context(**device, java_script_enabled=javascript)
    page, wrong, errors = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)

    def look() -> None:
        if javascript:  # axe is one
            wrong.extend(violations(page))
            width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            wrong.extend([f"{page.url} is {width} px too wide"] if width else [])

    page.goto(url)
    look()
    begin(page, url)
    look()
    wish(page)
    look()
    for _ in range(2):
        judge(page)
        look()
        send(page)
    look()
    page.get_by_label("I cannot tell").check()
    send(page)
    page.get_by_text("C0DE").wait_for()
    look()
    assert wrong == []
    assert errors == []
    assert sum(store.places().completed) == 1
    context.close()


@pytest.mark.parametrize(("width", "rows"), [(1280, 1), (1000, 2), (390, 4)])
def test_no_system_stands_alone_beside_others(chromium, site, width, rows):
    url, _ = site
    context = chromium.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    begin(page, url)
    wish(page)
    page.get_by_role("heading", name="Which of these").wait_for(timeout=30_000)
    tops = page.eval_on_selector_all("section", "all => all.map(one => Math.round(one.getBoundingClientRect().top))")
    assert len(tops) == 4
    assert sorted(tops.count(top) for top in dict.fromkeys(tops)) == [4 // rows] * rows
    context.close()


def test_what_was_given_is_there_in_another_browser_without_sending(chromium, site):
    url, _ = site
    first = chromium.new_context(**DESKTOP)
    page = first.new_page()
    begin(page, url)
    wish(page)
    judge(page)
    page.get_by_label("Comment on B").fill("nice")
    page.get_by_label("Comment on B").blur()
    page.get_by_text("Saved.").wait_for()
    page.get_by_text("Continue later").click()
    link = page.locator(".link a").get_attribute("href")
    first.close()
    second = chromium.new_context(**PHONE)
    page = second.new_page()
    page.goto(link)
    assert page.get_by_label("Comment on B").input_value() == "nice"
    assert page.locator('[name="rank-C"][value="3"]').is_checked()
    send(page)
    page.get_by_text("Once more").wait_for()
    page.go_back()
    page.goto(f"{url}/study")
    assert page.get_by_text("Once more").is_visible()
    second.close()


def test_the_monitor_is_accessible(chromium, tmp_path):
    from user_study.app import create_app  # its token is given to the program

    study = replace(make_study(), pictures=1)
    store = open_store(f"sqlite:///{tmp_path}/study.db", study)
    store.claim("x" * 43)
    app = create_app(study, store, painting_systems(study), monitor_token="s3cret", rate_per_minute=0)
    from serving import serving

    with serving(app) as server:
        context = chromium.new_context(**PHONE, http_credentials={"username": "x", "password": "s3cret"})
        page = context.new_page()
        page.goto(f"{server.url}/monitor")
        assert re.search("asked for a place", page.content())
        assert violations(page) == []
        context.close()
    store.engine.dispose()
