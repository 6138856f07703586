"""Tables of scores: for the terminal (rich), as Markdown, LaTeX (booktabs) and CSV.

A cell is a share with its interval, "0.338 [0.312–0.365]"; what is not known or does not apply is "–".
All forms show the same text and the same bold; the CSV has the unrounded numbers beside it, one line for each cell.

    python -m eval compare plain.json stn.json --markdown table.md --csv table.csv --latex table.tex
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable

CSV_COLUMNS = ("table", "row", "column", "text", "value", "low", "high", "deviation", "bold")
ESCAPES = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
}


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table; cells are equal when they look alike."""

    text: str
    bold: bool = False
    number: Mapping[str, Any] | None = field(default=None, compare=False)  # value, low, high, deviation: unrounded


@dataclass(frozen=True)
class Table:
    """A title, one row of headers, rows of cells as long as it."""

    title: str
    headers: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)


def score(value: Mapping[str, Any] | None, bold: bool = False) -> Cell:
    """A cell from {"value", "low", "high"}, maybe "deviation" (over runs); None or a missing value is "–"."""
    if not value or value["value"] is None:
        return Cell("–")
    text = f"{value['value']:.3f}"
    if value.get("deviation") is not None:
        text += f" ± {value['deviation']:.3f}"
    if value.get("low") is not None:
        text += f" [{value['low']:.3f}–{value['high']:.3f}]"
    return Cell(text, bold, value)


def signed(value: Mapping[str, Any], bold: bool = False) -> Cell:
    """A cell from the {"value", "low", "high"} of a difference: "+0.021 [+0.004, +0.038]"."""
    if value["value"] is None:
        return Cell("–")
    text = f"{value['value']:+.3f}"
    if value.get("low") is not None:
        text += f" [{value['low']:+.3f}, {value['high']:+.3f}]"
    return Cell(text, bold, value)


def probability(p: float | None) -> Cell:
    """A cell from a p-value."""
    if p is None:
        return Cell("–")
    return Cell("<0.001" if p < 0.001 else f"{p:.3f}", number={"value": p})


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown, under its title."""
    lines = [_line(table.headers), "|" + "---|" * len(table.headers)]
    lines += [_line([f"**{c.text}**" if c.bold else c.text for c in row]) for row in table.rows]
    return f"### {table.title}\n\n" + "\n".join(lines) + "\n"


def csv_text(tables: Sequence[Table]) -> str:
    """All tables as one CSV in long form, a line for each cell but the first of a row, which names it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for name, *cells in table.rows:
            for header, cell in zip(table.headers[1:], cells, strict=True):
                number = cell.number or {}
                numbers = [number.get(key) for key in ("value", "low", "high", "deviation")]
                writer.writerow([table.title, name.text, header, cell.text, *numbers, int(cell.bold)])
    return stream.getvalue()


def latex(table: Table) -> str:
    r"""The table as a LaTeX float in booktabs' style; the document needs \usepackage{booktabs}."""
    lines = [_tex_row([escaped(header) for header in table.headers]), r"\midrule"]
    for row in table.rows:
        lines.append(_tex_row([rf"\textbf{{{escaped(c.text)}}}" if c.bold else escaped(c.text) for c in row]))
    columns = "l" + "r" * (len(table.headers) - 1)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(table.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(ESCAPES.get(character, character) for character in text)


def write_tables(
    tables: Sequence[Table],
    notes: Sequence[str],
    markdown_path: Any = None,
    csv_path: Any = None,
    latex_path: Any = None,
) -> None:
    """Writes the tables in the forms that a path is given for; the notes stand below in Markdown and LaTeX."""
    from fclip.files import write_text

    if markdown_path is not None:
        write_text(markdown_path, "\n".join([*map(markdown, tables), *(f"- {note}" for note in notes)]) + "\n")
    if csv_path is not None:
        write_text(csv_path, csv_text(tables))
    if latex_path is not None:
        write_text(latex_path, "\n".join([*map(latex, tables), *(f"% {note}" for note in notes)]) + "\n")


def rich_table(table: Table) -> RichTable:
    """The table for `rich.print`; names are shown as they are, never read as markup."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD)
    for place, header in enumerate(table.headers):
        words = " ".join(row[place].text for row in table.rows).split()
        # A narrow terminal may put an interval under its score, but must not cut it: print with crop=False.
        drawn.add_column(Text(header), overflow="fold", min_width=max(map(len, words)) if place and words else None)
    for row in table.rows:
        drawn.add_row(*[Text(cell.text, style="bold green" if cell.bold else "") for cell in row])
    return drawn


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _tex_row(cells: Sequence[str]) -> str:
    # Braces keep a "[" that begins a cell from being read as an argument of the \\ before it.
    return " & ".join(f"{{{cell}}}" if cell.startswith("[") else cell for cell in cells) + r" \\"
