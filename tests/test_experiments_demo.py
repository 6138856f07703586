"""The whole demo, small: draw, measure, train, measure, index, ask, report."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from experiments.demo import MARK, main

TINY = {
    "data.catalogue": "[drawn:40]",
    "data.workers": "0",
    "epochs": "1",
    "batch_size": "16",
    "bf16_on_cpu": "false",
    "channels_last": "false",
    "model.name": "timm:test_resnet",
    "model.image_size": "[32,32]",
    "model.embed_dim": "16",
    "model.text_width": "16",
    "model.text_layers": "1",
    "model.text_heads": "2",
}


def run(*words: object) -> int:
    """Exit code of the demo."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code or 0


class Page(HTMLParser):
    """Collects what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str | None] = []
        self.alternatives: list[str | None] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.sources.append(dict(attrs).get("src"))
            self.alternatives.append(dict(attrs).get("alt"))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    overrides = [word for key, value in TINY.items() for word in ("--override", f"{key}={value}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fclip.machine.tune_cpu", lambda: None)
        assert run("--out", folder, *overrides) == 0
    return folder


@pytest.fixture(scope="module")
def html(out) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_report_needs_nothing_but_itself(html) -> None:
    page = Page(html)
    assert not re.search(r"https?://", html)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.sources
    assert all(re.match(r"data:image/(png|jpeg);base64,", source or "") for source in page.sources)
    assert all(page.alternatives)


def test_the_report_tells_before_and_after(html) -> None:
    assert Page(html).tags.count("table") == 3
    names = ("(untrained)", "(trained)", "chance", "most frequent", "16x16 pixels")
    for expected in (*names, "Attr. SFA", "colour", "Differences to"):
        assert expected in html
    assert len(re.findall(r"\d\.\d{3} → \d\.\d{3}", html)) == 2


def test_the_report_shows_three_questions_with_their_answers(out, html) -> None:
    assert html.count("<b>asked with</b>") == 2
    assert html.count('alt="Answer 1: ') == 3
    assert "only category=" in html
    assert sorted(path.name for path in out.glob("question*.png")) == [f"question{n}.png" for n in (1, 2, 3)]


def test_what_was_made_can_be_used_further(out) -> None:
    for name in ("catalogue", "untrained", "best", "last", "index"):
        assert (out / name).is_dir()
    assert {"untrained.json", "trained.json", "table.md", "pca.png", MARK} <= {path.name for path in out.iterdir()}
    assert not list(out.glob(".*"))


def test_only_an_earlier_demo_is_replaced(tmp_path, capsys) -> None:
    (tmp_path / "thesis.tex").touch()
    assert run("--out", tmp_path) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is not of an earlier demo, so it is not replaced; " + (
        "choose another --out\n"
    )
    assert (tmp_path / "thesis.tex").exists()


def test_a_mistake_in_the_preset_leaves_nothing(tmp_path, capsys) -> None:
    assert run("--out", tmp_path / "out", "--override", "epoch=1") == 2
    assert "did you mean 'epochs'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_shows_the_command(capsys) -> None:
    assert run("--help") == 0
    assert "\n  python -m experiments.demo\n" in capsys.readouterr().out
