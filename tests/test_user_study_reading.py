"""Answers survive every form; what does not fit is told by file, line and column, all at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_fakes import study

import user_study
from fclip.errors import UserError
from user_study.answers import TABLES, Answers, dictionary, write_answers
from user_study.reading import BY_HAND, read_answers

HEADER = "participant,system,relevant_1,relevant_2,rank,rating\n"


@pytest.fixture
def answers() -> Answers:
    return study(3, calibration=1)


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_an_export_is_read_as_it_was_written(answers, form, tmp_path):
    written = write_answers(answers, tmp_path, form)
    assert [file.name for file in written] == [*(f"{name}.{form}" for name in TABLES), "DICTIONARY.md"]
    assert read_answers(tmp_path) == answers


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip))
def test_whatever_a_participant_writes_comes_back(tmp_path, text):
    whole = study(1, calibration=0, repeat=False)
    first, *others = whole.systems
    said = dataclasses.replace(whole, systems=(dataclasses.replace(first, comment=text.strip()), *others))
    write_answers(said, tmp_path, "csv")
    assert read_answers(tmp_path) == said


def test_the_dictionary_tells_every_column_of_every_table():
    told = dictionary()
    for row in TABLES.values():
        for field in dataclasses.fields(row):
            assert f"| {field.name} |" in told
            assert field.metadata["says"] in told


def test_the_readme_tells_every_column_of_a_table_made_by_hand():
    told = (Path(user_study.__file__).parent / "README.md").read_text()
    for name in ("participant", "system", "relevant_1", *BY_HAND):
        assert f"`{name}`" in told


def hand(folder: Path, text: str) -> Path:
    file = folder / "answers.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_table_made_by_hand_as_spreadsheets_save_it(tmp_path):
    text = "\ufeff" + HEADER.replace(",", ";") + "anna;stn; 1;0;2;6,5\nanna;plain;yes;;1;\n;;;;;\n"
    found = read_answers(hand(tmp_path, text.replace("\n", "\r\n")))
    assert [(row.system, row.rank, row.rating, row.query, row.kind) for row in found.systems] == [
        ("stn", 2, 6.5, 0, "own"),
        ("plain", 1, None, 0, "own"),
    ]
    assert [(row.place, row.relevant) for row in found.pictures] == [(1, True), (2, False), (1, True), (2, None)]
    assert found.submitted() == found


def test_further_columns_and_failures(tmp_path):
    text = "participant,system,relevant_1,rank,rating,query,position,comment,failed\n"
    text += 'p,a,1,1,7,3,2,"so, so\nlala",0\np,b,,,,3,1,,1\n'
    found = read_answers(hand(tmp_path, text))
    assert [(row.query, row.position, row.comment, row.failed) for row in found.systems] == [
        (3, 2, "so, so\nlala", False),
        (3, 1, None, True),
    ]
    assert len(found.pictures) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("p,a,1,0,1,eleven\n", ["line 2, column rating: expected a number from 1 to 10, got 'eleven'"]),
        ("p,a,1,0,1,11\n", ["line 2, column rating: expected a number from 1 to 10, got '11'"]),
        ("p,a,1,0,1,nan\n", ["line 2, column rating: expected a number from 1 to 10, got 'nan'"]),
        ("p,a,1,2,1,5\n", ["line 2, column relevant_2: expected 1 or 0, got '2'"]),
        (",a,1,1,1,5\n", ["line 2, column participant: expected a value, got an empty cell"]),
        ("p,a,1,1,0,5\np,b,1,1,x,5\n", ["line 2, column rank: ", "line 3, column rank: expected a number from 1"]),
        ("p,a,1,1,2,5\np,a,1,1,1,5\n", ["line 3: this system of this query comes twice, first in ", "column rank"]),
        ("p,a,1,1,3,5\np,b,1,1,1,5\n", ["line 2, column rank: expected 1 to 2, the number of systems, got 3"]),
        ("p,a,1\n", ["line 2: expected 6 cells, got 3"]),
        ("", ["no answers"]),
    ],
)
def test_what_does_not_fit_is_told_by_line_and_column(tmp_path, rows, said):
    with pytest.raises(UserError) as error:
        read_answers(hand(tmp_path, HEADER + rows))
    for words in said:
        assert words in str(error.value)
    assert all("answers.csv" in line for line in str(error.value).splitlines())


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("participant,relevant_1,rank", "column 'system' is missing"),
        ("participant,system,relevant_1,ratng", "unknown column 'ratng'; did you mean 'rating'?"),
        ("participant,system,relevant_1,relevant_3", "without gaps, got [1, 3]"),
        ("participant,system,rank", "got none"),
        ("participant,system,relevant_1,rank,rank", "column 'rank' comes twice"),
    ],
)
def test_a_wrong_header_is_told(tmp_path, header, said):
    with pytest.raises(UserError) as error:
        read_answers(hand(tmp_path, header + "\n"))
    assert said in str(error.value)


def test_many_faults_are_told_together_and_not_without_end(tmp_path):
    with pytest.raises(UserError) as error:
        read_answers(hand(tmp_path, HEADER + "".join(f"p{i},a,1,1,1,99\n" for i in range(50))))
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "… and 30 more"


@pytest.mark.parametrize(
    ("table", "changes", "said"),
    [
        ("systems", {"failed": True}, "gave no answer, but has a rank or a rating"),
        ("systems", {"kind": "repeat"}, "column kind: repeat, in queries own"),
        ("systems", {"query": 7}, "queries has no row of participant 'p000', query 7"),
        ("systems", {"letter": "D", "position": 9}, "this letter of a page comes twice"),
        ("systems", {"generated": True}, "column generated: 'baseline' was 1 before"),
        ("pictures", {"system": "nobody"}, "systems has no row of participant 'p000', query 0, 'nobody'"),
        ("pictures", {"place": 2}, "this picture comes twice"),
        ("queries", {"guess": "Z"}, "expected a letter of the page or unsure, got 'Z'"),
        ("queries", {"repeats": 5}, "the participant has no other query 5"),
        ("queries", {"submitted": "2020-01-01T00:00:00"}, "column submitted: before it was started"),
        ("queries", {"filters": "[1]"}, "expected a JSON object"),
        ("queries", {"query": 1}, "this query comes twice"),
    ],
)
def test_rows_that_contradict_each_other_are_told(answers, tmp_path, table, changes, said):
    first, *others = getattr(answers, table)
    letters = {"A", "B", "C", "D"} - {getattr(first, "letter", None)}
    if "letter" in changes:
        changes = {**changes, "letter": min(letters)}
    wrong = dataclasses.replace(answers, **{table: (dataclasses.replace(first, **changes), *others)})
    write_answers(wrong, tmp_path, "csv")
    with pytest.raises(UserError) as error:
        read_answers(tmp_path)
    assert said in str(error.value)
    assert f"{table}.csv, line " in str(error.value)


def test_files_that_are_no_answers(tmp_path):
    for make, said in (
        (lambda: tmp_path, "expected pictures.csv, .json or .parquet"),
        (lambda: tmp_path / "answers.xlsx", "expected an export's folder or a .csv file"),
        (lambda: tmp_path / "gone.csv", "cannot read"),
    ):
        with pytest.raises(UserError, match=said):
            read_answers(make())
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"p,a,1,1,1,5\np\xe9,b,1,1,2,5\n")
    with pytest.raises(UserError, match=r"latin.csv, line 3: not UTF-8"):
        read_answers(tmp_path / "latin.csv")
    (tmp_path / "pictures.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="no Parquet file"):
        read_answers(tmp_path)
    (tmp_path / "pictures.csv").write_text("")
    with pytest.raises(UserError, match="one form of pictures"):
        read_answers(tmp_path)
