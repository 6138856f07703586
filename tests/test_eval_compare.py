"""Table 1, its bold, its refusals, and the figure; results are made by hand."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from rich.console import Console

from eval.__main__ import main
from eval.compare import answers_of, compare, printable, read_result
from eval.figures import draw, project, radius
from eval.pairs import contender, winners
from eval.report import Cell, Table, markdown, score
from eval.scores import Answers, scores
from fclip.errors import UserError


def made(name, share, n=120, seed=0, dim=16, chance=0.1):
    """The result of a model that answers this share of pictures rightly, all attributes with them."""
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(n) >= share * n
    items = [f"p{i // 2}" for i in range(n)]
    known = np.stack([np.ones(n, bool), np.arange(n) % 3 > 0], 1)
    hits, cosine = known & ~wrong[:, None], np.where(wrong, 0.2, 0.3)
    answers = Answers(("colour", "sleeve"), items, ~wrong, hits, known, {"cosine": cosine})
    base = Answers(("colour", "sleeve"), items, np.full(n, chance), known * chance, known, {})
    marks = np.where(known, np.where(hits, "1", "0"), "-")
    vectors = (rng.normal(size=(50, dim)) / 9).round(5).tolist()
    return {
        "schema": 1,
        "protocol": "surfacing",
        "model": {"name": name, "fingerprint": "f"},
        "groups": ["colour", "sleeve"],
        "counts": {"pictures": n, "products": n // 2, "captions": 9, "known": {"colour": n, "sleeve": 80}},
        "captions_sha256": "c",
        "metrics": scores(answers, 100, 0),
        "baselines": {"chance": scores(base, 100, 0), "left_out": {}},
        "pictures": {
            "id": [str(i) for i in range(n)],
            "item": items,
            "cosine": cosine.tolist(),
            "rank": np.where(wrong, 2, 1).tolist(),
            "attributes": {"colour": "".join(marks[:, 0]), "sleeve": "".join(marks[:, 1])},
        },
        "first": {"id": [], "image": vectors, "text": vectors[::-1]},
    }


def bold(results, resamples, seed):
    """Score's name → the model that is surely best."""
    found = [contender(r["model"]["name"], [answers_of(r)], resamples, seed) for r in results]
    return winners(found, results[0]["baselines"])


@pytest.fixture
def save(tmp_path):
    """Writes results to files named like their models, returns the paths."""

    def write(*results):
        paths = [tmp_path / f"{i}-{result['model']['name']}.json" for i, result in enumerate(results)]
        for path, result in zip(paths, results, strict=True):
            path.write_text(json.dumps(result))
        return paths

    return write


def test_table_1_has_the_papers_columns_rows_in_order_and_baselines_below(save):
    [table, groups, _], _ = compare(save(made("stn", 0.4), made("plain", 0.9)))
    assert table.headers == ["Model", "Cos Simil.", "Text SFA", "Attr. SFA"]
    assert [row[0].text for row in table.rows] == ["stn", "plain", "chance"]
    assert table.rows[0][2].text.startswith("0.400 [0.")
    assert table.rows[2][1].text == "–"  # a baseline has no cosine
    assert groups.headers == ["Model", "colour", "sleeve", "macro"]


def test_a_sure_winner_is_bold_whatever_its_row(save):
    for order in ([0.4, 0.9], [0.9, 0.4]):
        tables, notes = compare(save(*[made(f"m{share}", share) for share in order]))
        for table in tables[:2]:
            rows = {row[0].text: [cell.bold for cell in row[1:]] for row in table.rows}
            assert all(rows.pop("m0.9"))
            assert not any(flag for row in rows.values() for flag in row)
        assert "bold: the paired 95 % interval" in notes[0]


def test_a_chance_difference_is_not_bold(save):
    tables, notes = compare(save(made("a", 0.50), made("b", 0.52, seed=1)))
    assert not any(cell.bold for table in tables for row in table.rows for cell in row)
    assert "no model's paired 95 % interval" in notes[0]


def test_the_interval_is_paired_so_a_small_steady_gain_is_found():
    """b is right wherever a is and on one picture more of every tenth product: unpaired intervals overlap widely."""
    a = made("a", 0.5)
    b = copy.deepcopy(a)
    gained = [i for i, rank in enumerate(a["pictures"]["rank"]) if rank == 2][:8]
    for i in gained:
        b["pictures"]["rank"][i] = 1
    assert bold([a, b], 500, 0) == {"text_sfa": 1}  # nothing else differs


def test_the_runner_up_decides_not_the_first_row():
    results = [made("low", 0.2), made("twin", 0.7, seed=1), made("top", 0.71, seed=2)]
    assert "text_sfa" not in bold(results, 500, 0)


def test_a_baseline_whose_interval_is_reached_takes_the_bold():
    results = [made("a", 0.2), made("b", 0.6)]
    assert bold(results, 300, 0)["text_sfa"] == 1
    rival = results[0]["baselines"]["chance"]["text_sfa"]
    for high in (0.55, None):  # below b's 0.6, but within its interval; and not known at all
        rival.update(value=0.5, low=None if high is None else 0.45, high=high)
        assert "text_sfa" not in bold(results, 300, 0)


def test_differences_are_told_to_the_first_model_or_to_the_one_named(save):
    paths = save(made("plain", 0.4), made("stn", 0.9), made("twin", 0.4))
    [_, _, table], notes = compare(paths)
    assert (table.title, table.headers) == (
        "Differences to plain",
        ["Model", "Δ Text SFA", "p (Text SFA)", "Δ Attr. SFA", "p (Attr. SFA)"],
    )
    [stn, twin] = table.rows
    assert stn[1].text.startswith("+0.500 [+0.")
    assert (stn[1].bold, stn[2].text) == (True, "<0.001")
    assert [cell.text for cell in twin[1:3]] == ["+0.000 [+0.000, +0.000]", "1.000"]
    assert not twin[1].bold
    assert any("Holm" in note for note in notes)
    [_, _, table], _ = compare(paths, against="stn")
    assert [row[0].text for row in table.rows] == ["plain", "twin"]
    assert table.rows[0][1].text.startswith("-0.500 [-0.")
    with pytest.raises(UserError, match="no model 'stm' among the results; did you mean 'stn'"):
        compare(paths, against="stm")


def runs_of(name, *shares):
    """Runs of one model with other weights each."""
    made_runs = [made(name, share, seed=i) for i, share in enumerate(shares)]
    for i, run in enumerate(made_runs):
        run["model"]["fingerprint"] = f"{name}{i}"
    return made_runs


def test_results_under_one_name_are_runs_of_one_model(save):
    paths = save(*runs_of("m", 0.4, 0.5, 0.6), *runs_of("n", 0.9))
    named = [f"a={path}" for path in paths[:3]] + [f"b={paths[3]}"]
    for found in (compare(named), compare(paths, group_by="name")):
        [table, _, pairs], notes = found
        assert [row[0].text for row in table.rows] in (["a", "b", "chance"], ["m", "n", "chance"])
        assert table.rows[0][2].text.startswith("0.500 ± 0.100 [0.")  # the deviation of 0.4, 0.5, 0.6
        assert table.rows[1][2].text.startswith("0.900 [0.")
        assert pairs.rows[0][1].text.startswith("+0.400 [")
        assert any(note.startswith("±: deviation over training runs") and " 3, " in note for note in notes)


def test_a_run_that_is_named_twice_is_refused(save):
    [path] = save(made("a", 0.5))
    with pytest.raises(UserError, match="two of the 2 runs of x have the same weights"):
        compare([f"x={path}", f"x={path}"])


def test_runs_on_different_data_have_no_mean(save):
    paths = save(*runs_of("a", 0.5), made("a", 0.5, n=60))
    with pytest.raises(UserError, match="no mean over runs on different data"):
        compare([f"x={path}" for path in paths], allow_different=True)


def test_a_file_may_have_an_equals_sign(tmp_path):
    path = tmp_path / "lr=1.json"
    path.write_text(json.dumps(made("only", 0.5)))
    [table, *_], _ = compare([path])
    assert table.rows[0][0].text == "only"


def test_csv_has_the_unrounded_numbers_and_latex_the_bold(save, tmp_path):
    import csv

    results = [made("a_b & c", 0.4), made("plain", 0.9)]
    compare(save(*results), csv_path=tmp_path / "t.csv", latex_path=tmp_path / "t.tex")
    with (tmp_path / "t.csv").open() as stream:
        rows = {(row["row"], row["column"]): row for row in csv.DictReader(stream) if row["table"].startswith("Surf")}
    told = rows["plain", "Text SFA"]
    score_ = results[1]["metrics"]["text_sfa"]
    assert [float(told[key]) for key in ("value", "low", "high")] == [score_[key] for key in ("value", "low", "high")]
    assert (told["bold"], rows["a_b & c", "Text SFA"]["bold"]) == ("1", "0")
    assert rows["chance", "Cos Simil."]["value"] == ""
    tex = (tmp_path / "t.tex").read_text()
    assert r"a\_b \& c & " in tex
    assert r"\textbf{0.900 [0." in tex
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 3
    assert r"$\Delta$ Text SFA" in tex


def test_equal_models_have_no_winner():
    assert bold([made("a", 0.5), made("b", 0.5)], 200, 0) == {}


def test_a_model_that_does_not_beat_the_baselines_is_not_bold():
    results = [made("a", 0.2, chance=0.5), made("b", 0.4, chance=0.5)]
    assert set(bold(results, 300, 0)) == {"cosine"}  # no baseline has a cosine


def test_one_model_is_shown_without_bold(save):
    tables, notes = compare(save(made("only", 0.9)))
    assert not any(cell.bold for cell in tables[0].rows[0])
    assert notes == ["nothing is bold: there is one model only"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r["pictures"]["id"].__setitem__(0, "other"), r"different pictures \(120 and 120, 119 in common\)"),
        (lambda r: r["pictures"]["item"].__setitem__(0, "other"), "under different products"),
        (lambda r: r.update(captions_sha256="d"), "different captions"),
        (lambda r: r.update(groups=["colour", "fit"]), "name different attributes"),
    ],
)
def test_results_about_different_data_are_refused(save, change, reason):
    other = made("b", 0.9)
    change(other)
    with pytest.raises(UserError, match=rf"not comparable: a and b .*{reason}.*--allow-different"):
        compare(save(made("a", 0.5), other))


def test_two_results_of_one_name_are_told_apart(save):
    with pytest.raises(UserError, match=r"not comparable: a \(a\) and a \(b\) saw different pictures"):
        compare(save(made("a", 0.1), made("a", 0.9, n=60)))


def test_different_data_side_by_side_on_request_never_bold(save):
    other = made("b", 0.9, n=60)
    tables, notes = compare(save(made("a", 0.1), other), allow_different=True)
    assert not any(cell.bold for table in tables for row in table.rows for cell in row)
    assert notes == ["nothing is bold: a and b saw different pictures (120 and 60, 60 in common)"]


def test_models_of_one_name_are_told_apart_by_their_files(save):
    [table, *_], _ = compare(save(made("m", 0.5), made("m", 0.9)))
    assert [row[0].text for row in table.rows][:2] == ["m (0-m)", "m (1-m)"]


def test_markdown_has_both_tables_bold_and_notes(save, tmp_path):
    compare(save(made("a|b", 0.4), made("plain", 0.9)), tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "| Model | Cos Simil. | Text SFA | Attr. SFA |\n|---|---|---|---|\n| a\\|b | 0.240 [" in text
    assert "| plain | **0.290 [" in text
    assert "### Attribute SFA per group" in text
    assert "- bold: the paired" in text


def test_cells():
    assert score(None) == score({"value": None}) == Cell("–")
    assert score({"value": 0.5, "low": None, "high": None}).text == "0.500"
    assert score({"value": 0.5, "low": 0.25, "high": 0.75}, bold=True) == Cell("0.500 [0.250–0.750]", bold=True)
    assert "**1**" in markdown(Table("t", ["h"], [[Cell("1", bold=True)]]))


def test_names_are_never_read_as_markup(capsys):
    Console(width=100).print(*printable([Table("[red]t", ["[b]h"], [[Cell("[/i] name")]])]))
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("[red]t", "[b]h", "[/i] name"))


def test_a_narrow_terminal_cuts_no_number(capsys):
    cells = [Cell("a rather long name of a model")] + [Cell("0.338 [0.312–0.365]")] * 4
    Console(width=80).print(
        *printable([Table("t", ["", "a_model_of_a_long_name", "chance", "most frequent", "x" * 40], [cells])]),
        crop=False,
    )
    assert capsys.readouterr().out.count("[0.312–0.365]") == 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "found no file"), ("{", "cannot read it"), ('{"a": 1}', "another JSON"), ("[]", "another JSON")],
)
def test_files_that_are_no_results(tmp_path, content, reason):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=reason):
        read_result(path)


def test_a_result_of_another_schema_is_refused(save):
    with pytest.raises(UserError, match="expected schema 1, got 2"):
        read_result(save(made("a", 0.5) | {"schema": 2})[0])


def test_radius_is_the_mean_distance_to_the_centroid():
    square = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) + 5
    assert radius(square) == pytest.approx(np.sqrt(2))


def test_one_pca_for_models_of_one_space_and_one_each_otherwise():
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(50, 6)), rng.normal(size=(50, 6)) + 20
    [a, b], shared = project([near, far])
    assert shared
    assert np.linalg.norm(a.mean(0) - b.mean(0)) == pytest.approx(np.sqrt(6) * 20, rel=0.1)  # their distance is drawn
    [a, b], shared = project([near, rng.normal(size=(50, 9)) + 20])
    assert not shared
    np.testing.assert_allclose([a.mean(0), b.mean(0)], 0, atol=1e-9)  # each on its own centroid


def test_two_dimensions_keep_the_most_variance():
    cloud = np.random.default_rng(1).normal(size=(50, 5)) * [9, 1, 7, 1, 1]
    [flat], _ = project([cloud])
    centred = cloud - cloud.mean(0)
    assert flat.var(0).sum() == pytest.approx((np.linalg.svd(centred, compute_uv=False)[:2] ** 2).sum() / 50)


@pytest.mark.parametrize("dims", [(8, 8), (8, 12)])
def test_the_figure_is_drawn(tmp_path, dims):
    from PIL import Image

    named = {f"model {dim} {i}": made("", 0.5, dim=dim)["first"] for i, dim in enumerate(dims)}
    draw(named, tmp_path / "pca.png")
    with Image.open(tmp_path / "pca.png") as picture:
        assert picture.width > 1500
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_a_figure_that_cannot_be_drawn_says_why(tmp_path):
    first = made("", 0.5)["first"]
    with pytest.raises(UserError, match=r"cannot draw a 'txt' picture"):
        draw({"m": first}, tmp_path / "x.txt")
    with pytest.raises(UserError, match="two datapoints"):
        draw({"m": {"text": first["text"][:1], "image": first["image"][:1]}}, tmp_path / "x.png")


def test_command_line_compares_and_draws(save, tmp_path, capsys):
    paths = [str(path) for path in save(made("stn", 0.4), made("plain", 0.9))]
    with pytest.raises(SystemExit) as end:
        main(["compare", *paths, "--markdown", str(tmp_path / "t.md"), "--figure", str(tmp_path / "f.png")])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("Cos Simil.", "plain", "chance", "macro", "bold: "))
    assert (tmp_path / "t.md").exists()
    assert (tmp_path / "f.png").exists()


def test_command_line_refuses_in_one_line(save, capsys):
    paths = [str(path) for path in save(made("a", 0.4), made("b", 0.9, n=60))]
    with pytest.raises(SystemExit) as end:
        main(["compare", *paths])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: not comparable: a and b saw different pictures")
