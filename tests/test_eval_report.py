"""Tables in LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from eval.report import ESCAPES, Cell, Table, csv_text, escaped, latex, probability, score, signed

UNESCAPE = {shown: character for character, shown in ESCAPES.items()}
TOKEN = re.compile("|".join(re.escape(shown) for shown in sorted(UNESCAPE, key=len, reverse=True)))


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="-", codec="utf-8")))
def test_escaped_text_is_set_as_it_is(text):
    shown = escaped(text)
    assert TOKEN.sub(lambda found: UNESCAPE[found.group()], shown) == text
    assert not re.search(r"[&%#$~^<>_{}\\]", TOKEN.sub("", shown))


def test_a_latex_table_has_a_column_for_each_header_and_a_cell_for_each_column():
    table = Table("50 % & more", ["Model", "A_1", "[b]"], [[Cell("x"), Cell("[1]", bold=True), Cell("–")]])
    shown = latex(table)
    assert r"\begin{tabular}{lrr}" in shown
    assert r"\caption{50 \% \& more}" in shown
    assert r"Model & A\_1 & {[b]} \\" in shown
    assert r"x & \textbf{[1]} & -- \\" in shown
    order = [shown.index(word) for word in (r"\toprule", "Model", r"\midrule", "x &", r"\bottomrule", r"\end{table}")]
    assert order == sorted(order)


def test_a_cell_that_begins_with_a_bracket_is_no_argument_of_the_line_break_before_it():
    table = Table("t", ["a", "b"], [[Cell("x"), Cell("y")], [Cell("[2pt] name"), Cell("z")]])
    assert r"{[2pt] name} & z \\" in latex(table)


def test_csv_quotes_what_needs_it():
    table = Table(
        'a "title", with commas', ["", "x, y"], [[Cell("first\nline"), score({"value": 0.123456, "low": None})]]
    )
    [header, row] = csv.reader(io.StringIO(csv_text([table])))
    assert dict(zip(header, row, strict=True)) == {
        "table": 'a "title", with commas',
        "row": "first\nline",
        "column": "x, y",
        "text": "0.123",
        "value": "0.123456",
        "low": "",
        "high": "",
        "deviation": "",
        "bold": "0",
    }


def test_differences_have_a_sign_and_p_values_a_floor():
    assert signed({"value": 0.0214, "low": -0.001, "high": 0.04}).text == "+0.021 [-0.001, +0.040]"
    assert signed({"value": None}).text == probability(None).text == "–"
    assert [probability(p).text for p in (0.0004, 0.001, 1.0)] == ["<0.001", "0.001", "1.000"]
    assert score({"value": 0.5, "low": 0.4, "high": 0.6, "deviation": 0.01}).text == "0.500 ± 0.010 [0.400–0.600]"
