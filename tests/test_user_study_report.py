"""The command makes a whole report of what was answered: the page, the paper's table, numbers that agree."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from study_fakes import SYSTEMS, by_hand, study

from user_study.__main__ import main
from user_study.analysis import analyse, as_json
from user_study.answers import write_answers
from user_study.tables import results_tables


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    answers = study(24, worths=(1, 40, 1, 2), calibration=1)
    write_answers(answers, folder)
    assert run("score", folder, "--out", folder / "report", "--bootstrap", "60") == 0
    return folder / "report"


def test_everything_is_there(report):
    names = {str(file.relative_to(report)) for file in report.rglob("*") if file.is_file()}
    figures = {
        f"figures/{name}.{form}"
        for name in ("critical-difference", "intervals", "ranks", "ratings")
        for form in ("png", "pdf")
    }
    assert names == {"report.html", "scores.json", "table2.tex", "scores.csv", "comments.csv", *figures}


def test_the_page_needs_nothing_but_itself_and_escapes_what_people_write(report):
    page = (report / "report.html").read_text()
    links: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attributes):
            links.extend(value or "" for name, value in attributes if name in ("src", "srcset", "href"))

    Links().feed(page)
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not re.search(r"@import|url\(|<script", page)
    assert "x &lt; y &amp; &#39;z&#39;" in page
    for words in (
        "Friedman",
        "Kendall",
        "Wilcoxon",
        "position 1",
        "gender",
        "a red dress",
        "Could they tell",
        "median",
    ):
        assert words in page


def test_the_tex_table_has_the_papers_shape_and_bold_only_where_it_is_sure(report):
    lines = (report / "table2.tex").read_text().splitlines()
    start = lines.index(r"\midrule")
    assert lines[start - 1] == r"Model & MAP@4 & Avg. Rank & Avg. Rating \\"
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines[start + 1 : start + 5]]
    assert [row[0] for row in rows] == list(SYSTEMS)
    best = json.loads((report / "scores.json").read_text())["surely_best"]
    assert best["rank"] == "tuned"
    for column, name in enumerate(("map", "rank", "rating"), 1):
        assert [row[0] for row in rows if "textbf" in row[column]] == [best[name]] * (best[name] is not None)


def test_json_csv_and_comments_agree_with_the_answers(report):
    scores = json.loads((report / "scores.json").read_text())
    analysis = analyse(study(24, worths=(1, 40, 1, 2), calibration=1), resamples=60)
    assert scores == json.loads(json.dumps(as_json(analysis)))
    with (report / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    one = next(
        row
        for row in rows
        if (row["row"], row["column"], row["table"]) == ("stn", "Avg. Rank", "Means with 95 % intervals")
    )
    assert float(one["value"]) == scores["measures"]["rank"]["stn"]["value"]
    assert float(one["low"]) == scores["measures"]["rank"]["stn"]["low"]
    with (report / "comments.csv").open(newline="") as stream:
        comments = list(csv.DictReader(stream))
    assert len(comments) == sum(row.comment is not None for row in study(24, worths=(1, 40, 1, 2)).systems) > 0
    assert scores["counts"]["participants"] == 24


def test_known_preferences_are_recovered():
    found = analyse(study(200, seed=7, calibration=0, repeat=False), resamples=40)
    order = np.argsort(found.estimates.means[found.estimates.names.index("rank")])
    assert [SYSTEMS[i] for i in order] == ["tuned", "diffusion", "baseline", "stn"]
    assert found.tests["rank"].friedman.p < 1e-6
    np.testing.assert_allclose(found.worths.values, [0.2, 0.4, 0.1, 0.3], atol=0.06)
    assert found.crossover["rank"].position_p > 0.001


def test_a_small_table_made_by_hand_is_enough(tmp_path, capsys):
    file = tmp_path / "hand.csv"
    file.write_text(by_hand(np.array([[1, 2]] * 2), np.array([[9, 1], [8, 2]]), np.ones((2, 2, 3)), ("a&b", "c")))
    assert run("score", file, "--out", tmp_path / "out", "--bootstrap", "0", "--systems", "c, a&b") == 0
    said = capsys.readouterr().out
    assert "MAP@3: no system is better than every other" in said
    assert r"a\&b" in (tmp_path / "out" / "table2.tex").read_text()
    assert "a&amp;b" in (tmp_path / "out" / "report.html").read_text()


def test_a_question_that_was_not_asked_has_no_table():
    plain = analyse(study(4, calibration=0, repeat=False), resamples=0)
    titles = [table.title for tables in results_tables(plain).values() for table in tables]
    assert not [title for title in titles if "repeated" in title or "all were asked" in title]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--k", "9"], "expected k from 1 to 2"),
        (["--systems", "a,x"], "expected the systems a, b, got a, x"),
        (["--kinds", "calibration"], "no submitted query of the kind calibration"),
        (["--kinds", "ours"], "expected kinds among own, calibration, got 'ours'"),
    ],
)
def test_a_wrong_wish_is_one_line(tmp_path, capsys, options, said):
    file = tmp_path / "hand.csv"
    file.write_text(by_hand(np.array([[1, 2]]), np.array([[9, 1]]), np.ones((1, 2, 2), int), ("a", "b")))
    assert run("score", file, "--out", tmp_path / "out", *options) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert run("score", file, "--out", tmp_path / "out") == 2
    assert "--overwrite" in capsys.readouterr().err
