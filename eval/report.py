"""Tables of scores, once for the terminal (rich) and once as Markdown.

A cell is a share with its interval, "0.338 [0.312–0.365]"; what is not known or does not apply is "–".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A title, one row of headers, rows of cells as long as it."""

    title: str
    headers: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)


def score(value: Mapping[str, Any] | None, bold: bool = False) -> Cell:
    """A cell from {"value", "low", "high"}; None or a missing value is "–"."""
    if not value or value["value"] is None:
        return Cell("–")
    text = f"{value['value']:.3f}"
    if value.get("low") is not None:
        text += f" [{value['low']:.3f}–{value['high']:.3f}]"
    return Cell(text, bold)


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown, under its title."""
    lines = [_line(table.headers), "|" + "---|" * len(table.headers)]
    lines += [_line([f"**{c.text}**" if c.bold else c.text for c in row]) for row in table.rows]
    return f"### {table.title}\n\n" + "\n".join(lines) + "\n"


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
