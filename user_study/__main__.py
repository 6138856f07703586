"""Plan and score a blind user study: `python -m user_study --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")]


@app.callback()
def _program() -> None:
    """Plan and score a blind user study.

    \b
    python -m user_study power --systems 4 --participants 20,40,60
    python -m user_study score answers.csv --out report/
    """


@app.command()
def score(
    answers: Annotated[Path, typer.Argument(help="An export's folder, or a CSV collected by hand.")],
    out: Annotated[Path, typer.Option(help="The folder of the report.")] = Path("report"),
    k: Annotated[
        int | None, typer.Option("--k", min=1, help="Pictures of a list that count. [default: as many as were shown]")
    ] = None,
    kinds: Annotated[str, typer.Option(metavar="own,calibration", help="Queries that count.")] = "own",
    systems: Annotated[
        str | None, typer.Option(metavar="NAME,NAME,…", help="Order of the systems. [default: as in the answers]")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples of the participants for intervals; 0: none.")] = 1000,
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="The folder may exist.")] = False,
) -> None:
    """Scores of every system with intervals, tests, effects, agreement, figures: a page, JSON, LaTeX and CSV.

    \b
    python -m user_study score answers.csv --out report/
    python -m user_study score export/ --out report/ --kinds own,calibration

    A CSV collected by hand has a row for each participant and system, with the columns participant, system,
    relevant_1 … relevant_4 (1 or 0), rank, rating; user_study/README.md tells the others.
    """
    from rich.console import Console

    from eval.report import rich_table
    from fclip.errors import UserError
    from user_study.analysis import analyse
    from user_study.reading import read_answers
    from user_study.report import sentences, write_report
    from user_study.tables import interval_table

    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already; choose another folder with --out or allow it with --overwrite")
    wanted, order = _kinds(kinds), _names(systems) if systems else None
    found = read_answers(answers)
    with Console(stderr=True).status("scores") as status:
        try:
            analysis = analyse(found, k, wanted, order, bootstrap, seed, stage=status.update)
        except ValueError as error:
            raise UserError(str(error)) from None
        write_report(analysis, out, overwrite, stage=status.update)
    Console().print(rich_table(interval_table(analysis)), crop=False)
    for sentence in sentences(analysis):
        print(sentence)
    print(f"written: {out / 'report.html'}, scores.json, table2.tex, scores.csv, comments.csv, figures/")


@app.command()
def power(
    systems: Annotated[int, typer.Option(min=2, max=26, help="How many are compared.")] = 4,
    worths: Annotated[
        str | None,
        typer.Option(metavar="W,W,…", help="Of every system, in any unit. [default: 2.75 for one, 1 for the others]"),
    ] = None,
    participants: Annotated[str, typer.Option(metavar="N,N,…", help="Who complete the study.")] = "20,40,60",
    trials: Annotated[int, typer.Option(min=10, help="Studies to simulate for each number.")] = 2000,
    alpha: Annotated[float, typer.Option(min=0.001, max=0.5, help="Level of the tests.")] = 0.05,
    seed: Seed = 0,
    figure: Annotated[Path | None, typer.Option(help="Draw the curve here (.png, .pdf).")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")] = None,
) -> None:
    """How many participants show a difference of a given size? Simulated before the study is run.

    \b
    python -m user_study power --systems 4 --worths 2.75,1,1,1 --participants 20,40,60 --figure power.png

    Of two systems of worths 2.75 and 1 people prefer the first in 2.75 / 3.75 = 73 % of cases.
    """
    from user_study.planning import plan, show

    settings = plan(systems, worths, participants, trials, alpha, seed)
    show(settings, figure, json, progress=sys.stderr.isatty())


def _kinds(text: str) -> list[str]:
    from fclip.errors import UserError

    kinds = _names(text)
    if not kinds or not {"own", "calibration"}.issuperset(kinds):
        raise UserError(f"expected kinds among own, calibration, got {text!r}")
    return kinds


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    from fclip.errors import run_program

    run_program(app, argv, "python -m user_study")


if __name__ == "__main__":
    main()
