"""What `python -m user_study power` does: reads the question, simulates, shows a table and a curve.

show(plan(4, "2.75,1,1,1", "20,40,60", 2000, 0.05, 0), figure=Path("power.png"))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.report import Cell, Table, rich_table
from fclip.errors import UserError
from fclip.files import writable, write_json
from user_study.design import williams
from user_study.power import WANTED, Power, enough, power

DIFFERENCE = 2.75
"""Worth of the best system where none are given: preferred to another in 73 % of cases."""
TOLD = {"friedman": "Friedman", "nemenyi": "best / second, Nemenyi", "wilcoxon": "best / second, Wilcoxon-Holm"}


@dataclass(frozen=True)
class Plan:
    """A question to the simulation."""

    worths: tuple[float, ...]
    participants: tuple[int, ...]
    trials: int
    alpha: float
    seed: int


def plan(systems: int, worths: str | None, participants: str, trials: int, alpha: float, seed: int) -> Plan:
    """Reads the options.

    Raises:
        UserError: a list holds something else, or not a worth for each system.
    """
    strengths = (DIFFERENCE, *[1.0] * (systems - 1)) if worths is None else _numbers(worths, "--worths", 0)
    if len(strengths) != systems:
        raise UserError(f"expected {systems} worths, one for each system (--systems), got {len(strengths)}")
    people = _numbers(participants, "--participants", 2)
    if any(number % 1 for number in people):
        raise UserError(f"expected whole numbers in --participants, got {participants}")
    return Plan(strengths, tuple(int(number) for number in people), trials, alpha, seed)


def show(asked: Plan, figure: Path | None = None, json: Path | None = None, progress: bool = False) -> list[Power]:
    """Simulates, prints the table and what follows from it, and writes what is asked for.

    Raises:
        UserError: a file cannot be written.
    """
    from rich.console import Console

    for file in (figure, json):
        if file is not None:
            writable(file)
    found = simulate(asked, progress)
    Console().print(rich_table(power_table(asked, found)), crop=False)
    for line in findings(asked, found):
        print(line)
    if figure is not None:
        _draw(found, figure)
        print(f"written: {figure}")
    if json is not None:
        rows = [{**vars(row), "mean_ranks": row.mean_ranks.tolist()} for row in found]
        write_json(json, {"schema": 1, **vars(asked), "power": rows})
        print(f"written: {json}")
    return found


def simulate(asked: Plan, progress: bool = False) -> list[Power]:
    """One result for each number of participants; a bar on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not progress, transient=True) as bar:
        task = bar.add_task("studies", total=asked.trials * len(asked.participants))
        return [
            power(asked.worths, number, asked.trials, asked.seed, asked.alpha, lambda n: bar.advance(task, n))
            for number in asked.participants
        ]


def power_table(asked: Plan, found: list[Power]) -> Table:
    """A row for each number of participants."""
    told = " : ".join(f"{worth:g}" for worth in asked.worths)
    title = f"Power at worths {told}, {asked.trials} simulated studies, level {asked.alpha:g}"
    table = Table(title, ["Participants", *TOLD.values(), "Nemenyi's critical difference"])
    for row in found:
        shares = [Cell(f"{getattr(row, name):.2f}") for name in TOLD]
        table.rows.append([Cell(str(row.participants)), *shares, Cell(f"{row.critical_difference:.2f}")])
    return table


def findings(asked: Plan, found: list[Power]) -> list[str]:
    """What a researcher wants to know, in sentences."""
    lines = [f"expected mean ranks: {', '.join(f'{rank:.2f}' for rank in found[-1].mean_ranks)}"]
    for name, told in TOLD.items():
        number = enough(found, name)
        said = f"{number} participants" if number else f"more than {max(asked.participants)} participants"
        lines.append(f"power of {WANTED:.0%}, {told}: {said}")
    block = len(williams(len(asked.worths)))
    if ragged := [str(number) for number in asked.participants if number % block]:
        lines.append(f"orders are balanced over every {block} participants; not a multiple: {', '.join(ragged)}")
    error = max(row.error(asked.trials) for row in found)
    return [*lines, f"simulation error: at most ± {error:.2f}"]


def _draw(found: list[Power], file: Path) -> None:
    from user_study.plots import power_figure

    drawn = power_figure(found)
    if (ending := file.suffix.lstrip(".").lower()) not in drawn.canvas.get_supported_filetypes():
        raise UserError(f"cannot draw a {ending or 'nameless'!r} picture: {file}; name it .png, .pdf or .svg")
    drawn.savefig(file, dpi=150)


def _numbers(text: str, option: str, above: float) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(above <= number < float("inf") and number > 0 for number in found):
        least = f"{above:g} or more" if above else "more than 0"
        raise UserError(f"expected numbers of {least} in {option}, with commas between, got {text!r}")
    return found
