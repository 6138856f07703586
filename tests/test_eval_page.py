"""The report: a page that is whole, says what the JSON says, and shows what the model did."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from eval.__main__ import main
from eval.insight import by_value, confusions, galleries, long_tail, look
from eval.page import write_report
from eval.plots import FEWEST, linear_layout, neighbour_layout
from eval.subject import Subject
from eval.surfacing import evaluate_surfacing
from fclip.captions import captions_for
from fclip.catalogue.drawn import draw_catalogue
from fclip.catalogue.schema import groups_of, select_split
from fclip.errors import UserError

VOID = {"img", "meta", "source", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.sources, self.links, self.ids, self.headings = [], [], [], [], [], []
        self.tables, self.words, self.faults = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.sources += [attributes[key] for key in ("src", "srcset") if key in attributes]
        if tag == "img":
            self.images.append(attributes)
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        if tag == "tr":
            self.tables[-1]["rows"].append([])
        if tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append("")
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if "caption" in self.open:
            self.tables[-1]["caption"] += data
        elif {"td", "th"} & set(self.open):
            self.tables[-1]["rows"][-1][-1] += data.strip()

    def table(self, caption):
        [found] = [table["rows"] for table in self.tables if table["caption"].startswith(caption)]
        return found


def embed(texts):
    rows = np.array([np.random.default_rng(sum(map(ord, t)) * 31 + len(t)).normal(size=12) for t in texts], np.float32)
    rows = rows.reshape(len(texts), 12)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embed_catalogue(model, catalogue, batch_size=64, progress=False):
    """Knows each picture's caption; every third picture is taken for another, number 5 cannot be read."""
    texts = [model.captions.render(attributes) for attributes in catalogue["attributes"][:]]
    seen = [texts[(i + 7) % len(texts)] if i % model.wrong == 0 else text for i, text in enumerate(texts)]
    rows = np.array([i for i in range(len(texts)) if i != 5])
    skipped = [(catalogue[5]["id"], "<broken> & unreadable")]
    return SimpleNamespace(vectors=embed([seen[i] for i in rows]), rows=rows, skipped=skipped)


@pytest.fixture(scope="module")
def world():
    """A catalogue of which one colour is in no training picture, and two models."""
    from datasets import Dataset

    drawn = draw_catalogue(items=24, views=2, size_px=32)
    rows = drawn.to_list()
    rare = rows[0]["attributes"]["colour"]
    for place, row in enumerate(rows):
        here = row["attributes"]["colour"] == rare or place % 4 < 2
        row["split"] = "val" if here else "train"
    whole = Dataset.from_list(rows, features=drawn.features)
    captions = captions_for(groups_of(whole))
    models = [
        SimpleNamespace(
            name=name, fingerprint=name * 3, captions=captions, wrong=wrong, reads_text=True, require_text=lambda: None
        )
        for name, wrong in (("<good>", 3), ("poor", 1))
    ]
    subjects = [Subject(m, whole, select_split(whole, "val"), f"runs/{m.name}", ["garments"], "val") for m in models]
    with pytest.MonkeyPatch.context() as patch:
        embedding = SimpleNamespace(embed_catalogue=embed_catalogue, embed_texts=lambda model, texts: embed(texts))
        patch.setitem(sys.modules, "fclip.embedding", embedding)
        patch.setitem(sys.modules, "umap", None)  # compiles for longer than all of these tests
        results = [evaluate_surfacing(s.model, s.pictures, bootstrap=50) for s in subjects]
        results[0]["command"] = "python -m eval surfacing --checkpoint 'runs/<good>'"
        yield SimpleNamespace(subjects=subjects, results=results, rare=rare, whole=whole)


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    shared = {
        "schema": 1,
        "protocol": "probe",
        "model": {"name": "<good>", "fingerprint": "<good><good><good>"},
        "counts": {"queries": 7},
        "metrics": {
            "hit@1": {"value": 0.25, "low": 0.125, "high": 0.5},
            "error": {"value": 3.5, "low": None, "high": None},
            "nested": {"mean": {"value": 0.75, "low": None, "high": None}},
        },
        "baselines": {"chance": {"hit@1": {"value": 0.01, "low": None, "high": None}}},
    }
    for name, result in zip(("good", "poor", "probe"), [*world.results, shared], strict=True):
        (folder / f"{name}.json").write_text(json.dumps(result))
    return [folder / f"{name}.json" for name in ("good", "poor", "probe")]


@pytest.fixture(scope="module")
def html(world, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    tables = {f"{kind}_path": out.with_name(f"tables.{kind}") for kind in ("markdown", "csv", "latex")}
    write_report(files, out, world.subjects[0], resamples=50, **tables)
    assert all(path.read_text() for path in tables.values())
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_needs_nothing_but_itself(html, page):
    assert (page.open, page.faults) == ([], [])
    assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe", html)
    assert page.sources
    assert all(re.match(r"data:image/(png|jpeg);base64,[\w+/]", source) for source in page.sources)
    assert page.links
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)


def test_the_page_can_be_read_by_everyone(page):
    assert all(image.get("alt") for image in page.images)
    assert all(table["caption"].strip() for table in page.tables)
    assert page.headings[0] == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert len(page.ids) == len(set(page.ids))


def test_the_tables_say_what_the_results_say(world, page):
    [header, *rows] = page.table("Surfacing, ")
    assert header == ["Model", "Cos Simil.", "Text SFA", "Attr. SFA"]
    for row, result in zip(rows, world.results, strict=True):
        for shown, name in zip(row[1:], ("cosine", "text_sfa", "attribute_sfa"), strict=True):
            score = result["metrics"][name]
            assert shown == f"{score['value']:.3f} [{score['low']:.3f}–{score['high']:.3f}]"
    groups = page.table("Attribute SFA per group")
    for group, shown in zip(groups[0][1:-1], groups[1][1:-1], strict=True):
        assert shown.startswith(f"{world.results[0]['metrics']['attribute_sfa_by_group'][group]['value']:.3f}")


def test_bars_have_the_length_of_their_scores(world, html):
    for result in world.results:
        for score in result["metrics"]["attribute_sfa_by_group"].values():
            assert f'style="width:{100 * score["value"]:.2f}%"' in html


def test_other_protocols_have_a_table_that_is_never_bold(page, html):
    rows = page.table("probe: 7 queries")
    assert rows == [
        ["Score", "<good>", "chance"],
        ["hit@1", "0.250 [0.125–0.500]", "0.010"],
        ["error", "3.500", "–"],
        ["nested: mean", "0.750", "–"],
    ]
    assert "these results hold no answers per query" in html


def test_the_first_sentence_tells_the_best_model_in_plain_words(world, page):
    told = " ".join(" ".join(page.words).split())
    value = world.results[0]["metrics"]["text_sfa"]["value"]
    assert f"For {100 * value:.0f} of 100 pictures, <good> finds the right one of " in told
    assert "a difference that other pictures of such products would show too" in told
    assert "Each model was trained once" in told


def test_counts_left_out_pictures_and_commands_are_told(world, page):
    counts = {row[0]: row[1:] for row in page.table("Counts")}
    assert counts["pictures"][:2] == [str(r["counts"]["pictures"]) for r in world.results]
    assert counts["ties, settled against the model"][:2] == [str(r["counts"]["ties"]) for r in world.results]
    told = " ".join(page.words)
    assert "<broken> & unreadable" in told
    assert "python -m eval surfacing --checkpoint 'runs/<good>'" in told


def test_confusions_are_scikit_learns_and_on_the_page(world, page):
    insight = look(world.subjects[0])
    for column, matrix in enumerate(confusions(insight)):
        true, found = insight.labels.codes[:, column], insight.found[:, column]
        names = [[insight.values[code] if code >= 0 else "(none stated)" for code in codes] for codes in (true, found)]
        known = true >= 0
        labels = list(dict.fromkeys([*matrix.rows, *matrix.columns]))
        theirs = confusion_matrix(np.array(names[0])[known], np.array(names[1])[known], labels=labels)
        np.testing.assert_array_equal(matrix.counts, theirs[: len(matrix.rows), : len(matrix.columns)])
        assert matrix.counts.sum() == known.sum()
        shown = page.table(matrix.group)
        assert shown[0][1:] == matrix.columns
        assert [row[1:] for row in shown[1:]] == matrix.counts.astype(str).tolist()
        agree = sum(count for name, row in zip(matrix.rows, matrix.counts, strict=True)
                    for other, count in zip(matrix.columns, row.tolist(), strict=True) if name == other)  # fmt: skip
        assert agree == world.results[0]["pictures"]["attributes"][matrix.group].count("1")


def test_few_columns_leave_the_rest_as_one_value(world):
    insight = look(world.subjects[0])
    for matrix, all_of_it in zip(confusions(insight, limit=2), confusions(insight), strict=True):
        assert len(matrix.rows) <= 3
        assert matrix.counts.sum() == all_of_it.counts.sum()


def test_galleries_show_what_the_results_say(world, page):
    insight = look(world.subjects[0])
    found = galleries(insight, number=4)
    ranks = dict(zip(world.results[0]["pictures"]["id"], world.results[0]["pictures"]["rank"], strict=True))
    assert {ranks[one.id] for one in found["right"]} == {1}
    assert all(one.found == one.own and not one.wrong for one in found["right"])
    for one in [*found["wrong"], *found["farthest"]]:
        assert one.rank == ranks[one.id] > 1
        assert one.found_cosine >= one.own_cosine
        assert one.found != one.own
        assert one.wrong
    assert found["farthest"][0].rank == max(ranks.values())
    for examples in found.values():
        assert len({one.item for one in examples}) == len(examples) == 4
    alternatives = [image["alt"] for image in page.images]
    assert all(one.own in alternatives for one in galleries(insight)["wrong"])


def test_rare_attributes_are_counted_in_the_train_split(world, page, html):
    insight = look(world.subjects[0])
    train = select_split(world.whole, "train")["attributes"][:]
    for value in by_value(insight):
        assert value.trained == sum(attributes[value.group] == value.value for attributes in train)
    bins = long_tail(insight, resamples=20)
    assert sum(b.known for b in bins) == sum(world.results[0]["counts"]["known"].values())
    assert sum(b.values for b in bins) == len(by_value(insight))
    assert bins[0].name == "0"
    total = sum(b.known * b.score["value"] for b in bins) / sum(b.known for b in bins)
    assert total == pytest.approx(world.results[0]["metrics"]["attribute_sfa"]["value"], abs=1e-5)
    assert f"colour: {world.rare}" in html
    assert page.table("Attributes found, by how often")[1][0] == "0"


def test_layouts_keep_the_order_of_pictures_and_captions():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(9, 6)), rng.normal(size=(4, 6)) + 20
    flat = linear_layout(images, texts)
    assert (flat.images.shape, flat.texts.shape) == ((9, 2), (4, 2))
    assert np.linalg.norm(flat.texts.mean(0) - flat.images.mean(0)) == pytest.approx(20 * np.sqrt(6), rel=0.1)


def test_without_umap_neighbours_are_laid_out_by_t_sne(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    rng = np.random.default_rng(0)
    near = np.repeat(np.eye(2), 10, axis=0) + 0.01 * rng.normal(size=(20, 2))
    found = neighbour_layout(near[:15], near[15:])
    assert found.method == "t-SNE"
    points = np.concatenate([found.images, found.texts])
    gap = np.linalg.norm(points[:10].mean(0) - points[10:].mean(0))
    assert gap > np.linalg.norm(points[:10] - points[:10].mean(0), axis=1).mean()
    assert neighbour_layout(near[: FEWEST - 2], near[:1]) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_with_umap_neighbours_are_laid_out_by_it():
    rng = np.random.default_rng(0)
    near = np.repeat(np.eye(2), 20, axis=0) + 0.01 * rng.normal(size=(40, 2))
    first, again = neighbour_layout(near[:30], near[30:]), neighbour_layout(near[:30], near[30:])
    assert first.method == "UMAP"
    np.testing.assert_array_equal(first.images, again.images)


def test_what_does_not_belong_together_is_refused(world, files, tmp_path):
    other = world.subjects[0]
    out = tmp_path / "x.html"
    with pytest.raises(UserError, match="runs/poor is none of the models of the results"):
        write_report(files[:1], out, world.subjects[1])
    train = Subject(other.model, world.whole, select_split(world.whole, "train"), "runs/x", ["garments"], "train")
    with pytest.raises(UserError, match="is about other pictures"):
        write_report(files[:1], out, train)
    with pytest.raises(UserError, match="no attribute group 'color' in the captions; did you mean 'colour'"):
        write_report(files[:1], out, other, group="color")
    assert not out.exists()


def run(*argv):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in argv])
    return end.value.code or 0


def test_command_line_writes_the_page_of_results_alone(files, tmp_path, capsys):
    out = tmp_path / "new" / "report.html"
    assert run("report", *files[:2], "--out", out, "--csv", tmp_path / "t.csv") == 0
    assert capsys.readouterr().out == f"written: {out}\n"
    page = Page(out.read_text(encoding="utf-8"))
    assert "--checkpoint" in " ".join(page.words)
    assert (tmp_path / "t.csv").exists()
    assert run("report", *files[:1], "--out", out, "--checkpoint", "x") == 2
    assert "expected --checkpoint and --catalogue together" in capsys.readouterr().err
    (tmp_path / "no.json").write_text('{"schema": 1}')
    assert run("report", tmp_path / "no.json") == 2
    assert "expected a result with protocol, model and metrics" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "card"])
def test_help_teaches_with_an_example(command, capsys):
    assert run(command, "--help") == 0
    assert f"python -m eval {command} " in capsys.readouterr().out
