"""Plan, run and score a blind user study: `python -m user_study --help`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from user_study.answers import Answers
    from user_study.store import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

File = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study.")]
Database = Annotated[
    str | None,
    typer.Option(
        envvar="STUDY_DATABASE",
        metavar="ADDRESS",
        help="sqlite:///FILE or postgresql://HOST/NAME. [default: NAME.db beside STUDY.yaml]",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="The folder may exist.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")]


@app.callback()
def _program() -> None:
    """Plan, run and score a blind user study.

    \b
    python -m user_study power --systems 4 --participants 20,40,60
    python -m user_study rehearse STUDY.yaml -n 20
    python -m user_study serve STUDY.yaml
    python -m user_study lock STUDY.yaml
    python -m user_study score STUDY.yaml --out report/
    """


@app.command()
def score(
    answers: Annotated[Path, typer.Argument(help="STUDY.yaml, an export's folder, or a CSV collected by hand.")],
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
    overwrite: Overwrite = False,
    database: Database = None,
) -> None:
    """Scores of every system with intervals, tests, effects, agreement, figures: a page, JSON, LaTeX and CSV.

    \b
    python -m user_study score STUDY.yaml --out report/
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
    found = _of_study(answers, database) if answers.suffix in (".yaml", ".yml") else read_answers(answers)
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


@app.command()
def serve(
    study: File,
    database: Database = None,
    host: Annotated[str, typer.Option(help="0.0.0.0: reachable from other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    rate_per_minute: Annotated[float, typer.Option(min=0, help="Requests of one address; 0: no limit.")] = 3000,
) -> None:
    """Serves the study to participants; STUDY_MONITOR_TOKEN in the environment opens /monitor to the researcher.

    \b
    python -m user_study serve STUDY.yaml

    On the internet put a proxy with TLS before it, on the same machine: cookies are then bound to https.
    """
    from user_study.running import serve

    serve(study, database, host, port, rate_per_minute)


@app.command()
def rehearse(
    study: File,
    participants: Annotated[int, typer.Option("-n", min=2, help="Simulated participants.")] = 20,
    at_once: Annotated[int, typer.Option(min=1, help="How many of them at the same time.")] = 100,
    worths: Annotated[
        str | None,
        typer.Option(metavar="W,W,…", help="Of the systems. [default: 2.75 for the first, 1 for the others]"),
    ] = None,
    think: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Mean pause before a click; 0: none at all."),
    ] = 0,
    seed: Seed = 0,
) -> None:
    """Simulated participants with known preferences through the real pages: is every answer kept, does scoring fit?

    \b
    python -m user_study rehearse STUDY.yaml -n 20
    python -m user_study rehearse STUDY.yaml -n 100 --think 5

    Systems and database are stand-ins; texts, pages and design are the study's.
    """
    from fclip.errors import UserError
    from user_study.config import load_study
    from user_study.planning import plan
    from user_study.running import rehearse

    opened = load_study(study)
    known = plan(len(opened.systems), worths, "20", 10, 0.05, seed).worths
    found = rehearse(opened, participants, known, at_once, seed, think)
    pace = f"{think:g} s before a click" if think else "no pause"
    print(f"completed: {found.completed} of {participants} in {found.seconds:.0f} s, {pace}")
    print(f"processors: {found.server_s:.1f} s of the server, {found.visitors_s:.1f} s of the simulated participants")
    print(f"{'milliseconds':<18}{'pages':>7}{'p50':>8}{'p95':>8}{'p99':>8}{'slowest':>9}")
    for page, times in found.times().items():
        print(f"{page:<18}{times.pages:>7}{times.p50:>8.0f}{times.p95:>8.0f}{times.p99:>8.0f}{times.slowest:>9.0f}")
    for name, (true, estimated) in found.worths.items():
        print(f"worth of {name}: {true:.2f} known, {estimated:.2f} recovered")
    if found.wrong:
        raise UserError(f"{len(found.wrong)} things went wrong, e.g. {found.wrong[0]}")
    print("every answer that was sent is in the export, once and as it was sent")


@app.command()
def lock(study: File, database: Database = None) -> None:
    """Ends the study: nobody answers any more, and the monitor shows results. Cannot be undone."""
    with _store(study, database) as store:
        store.lock()
        print(f"locked: {store.study.name}, {sum(store.places().completed)} completed")


@app.command()
def export(
    study: File,
    out: Annotated[Path, typer.Option(help="The folder of the export.")] = Path("export"),
    form: Annotated[str, typer.Option("--format", help="csv, json or parquet.")] = "csv",
    overwrite: Overwrite = False,
    database: Database = None,
) -> None:
    """Writes all answers as three tables with their data dictionary; the server may be running."""
    from user_study.exporting import export

    with _store(study, database) as store:
        print(f"written: {', '.join(str(out / name) for name in export(store, out, form, overwrite))}")


@app.command()
def erase(
    study: File,
    participant: Annotated[str, typer.Argument(help="The pseudonym, or the name of the invitation.")],
    database: Database = None,
) -> None:
    """Removes everything of a participant. Backups and exports that were made before still hold it."""
    from user_study.exporting import erase

    with _store(study, database) as store:
        print(f"erased: {participant}, {erase(store, participant)} queries")


@app.command()
def backup(
    study: File,
    out: Annotated[Path, typer.Argument(help="The file; it must not exist.")],
    database: Database = None,
) -> None:
    """Copies the database to a file while the server runs: answers, pictures and photographs."""
    from user_study.exporting import backup

    with _store(study, database) as store:
        backup(store, out)
    print(f"written: {out}")


@contextmanager
def _store(study: Path, database: str | None) -> Iterator[Store]:
    from user_study.running import open_study

    _, store = open_study(study, database)
    try:
        yield store
    finally:
        store.engine.dispose()


def _of_study(study: Path, database: str | None) -> Answers:
    """The answers of a study that is over: who looks before, stops when the result pleases."""
    from fclip.errors import UserError
    from user_study.exporting import answers_of

    with _store(study, database) as store:
        if store.locked() is None:
            raise UserError(f"the study is still open; end it first: python -m user_study lock {study}")
        return answers_of(store)


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
