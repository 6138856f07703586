"""A study's results as a folder: one page that needs nothing but itself, and the numbers for other programs.

python -m user_study score export --out report/

report.html   tables, figures, comments
scores.json   everything unrounded
table2.tex    the paper's Table 2, and below it the same with intervals
scores.csv    all tables, a line for each cell
comments.csv  what participants wrote, by system
figures/      the figures as .png and .pdf
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.html import figure_uris, render
from eval.report import csv_text, latex
from fclip.files import new_folder, write_json, write_text
from user_study.analysis import Analysis, as_json
from user_study.plots import figures
from user_study.tables import interval_table, named, paper_table, results_tables

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    analysis: Analysis, out: str | Path, overwrite: bool = False, stage: Callable[[str], None] = lambda _: None
) -> None:
    """Writes the folder, whole or not at all.

    Raises:
        UserError: the folder exists already, or cannot be written.
    """
    with new_folder(out, overwrite) as folder:
        stage("figures")
        drawn = figures(analysis)
        pictures = [(name, says, figure_uris(draw)) for name, (says, draw) in drawn.items()]
        (folder / "figures").mkdir()
        for name, (_, draw) in drawn.items():
            figure = draw()
            figure.savefig(folder / "figures" / f"{name}.png", dpi=200)
            figure.savefig(folder / "figures" / f"{name}.pdf", metadata={"CreationDate": None})
        stage("page")
        write_text(folder / "report.html", page(analysis, pictures))
        write_json(folder / "scores.json", as_json(analysis))
        write_text(folder / "table2.tex", "\n".join(map(latex, (paper_table(analysis), interval_table(analysis)))))
        write_text(
            folder / "scores.csv", csv_text([table for part in results_tables(analysis).values() for table in part])
        )
        write_text(folder / "comments.csv", comments_text(analysis))


def page(analysis: Analysis, pictures: Sequence[tuple[str, str, object]]) -> str:
    """The page."""
    comments = {
        system: [row for row in analysis.comments if row.system == system] for system in analysis.measured.systems
    }
    values = {
        "sentences": sentences(analysis),
        "parts": results_tables(analysis),
        "pictures": pictures,
        "comments": comments,
        "written": len(analysis.comments),
        "analysis": analysis,
    }
    return render("study_report.html.j2", TEMPLATES, **values)


def sentences(analysis: Analysis) -> list[str]:
    """What the page says first."""
    measured, rank = analysis.measured, analysis.tests["rank"].friedman
    people = measured.counts["participants"]
    said = [f"Participants: {people}. Systems: {len(measured.systems)}, each judged by {measured.k} pictures."]
    if math.isnan(rank.p):
        said.append("The answers are too few or too alike to test whether the systems differ.")
    else:
        p = "p < 0.001" if rank.p < 0.001 else f"p = {rank.p:.3f}"
        verdict = "differ" if rank.p <= 0.05 else "cannot be told apart"
        said.append(f"By their ranks the systems {verdict} (Friedman, {p}; Kendall's W {rank.w:.2f}).")
    for name in ("rank", "map", "rating"):
        best, called = analysis.estimates.best(name), named(name, measured.k)
        if best is not None:
            said.append(f"{called}: {measured.systems[best]} is better than every other by more than the interval.")
        else:
            said.append(f"{called}: no system is better than every other by more than the interval.")
    return said


def comments_text(analysis: Analysis) -> str:
    """The comments as CSV, by system."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["system", "participant", "query", "kind", "rank", "rating", "comment"])
    for system in analysis.measured.systems:
        for row in analysis.comments:
            if row.system == system:
                numbers = ["" if value is None else f"{value:g}" for value in (row.rank, row.rating)]
                writer.writerow([system, row.participant, row.query, row.kind, *numbers, row.comment])
    return stream.getvalue()
