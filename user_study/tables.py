"""The results as tables: the paper's Table 2, the same with intervals, differences, tests, effects, agreement.

    tables = results_tables(analysis)          # `eval.report.Table`: Markdown, LaTeX, CSV, page

Bold is who is better than every other system by more than the interval of the difference; without one nothing is bold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from eval.report import Cell, Table, probability
from user_study.analysis import TESTED, Analysis

PAPER = ("map", "rank", "rating")
DECIMALS = {"map": 3, "rank": 2, "rating": 2, "precision": 3, "standard_map": 3}


def named(name: str, k: int) -> str:
    """A measure as tables call it."""
    return {
        "map": f"MAP@{k}",
        "rank": "Avg. Rank",
        "rating": "Avg. Rating",
        "precision": f"P@{k}",
        "standard_map": f"Standard MAP@{k}",
    }[name]


def paper_table(analysis: Analysis) -> Table:
    """The shape of the paper's Table 2: a row for each system, three numbers."""
    k = analysis.measured.k
    table = Table("Results of the user study", ["Model", *[named(name, k) for name in PAPER]])
    for s, system in enumerate(analysis.measured.systems):
        table.rows.append([Cell(system), *[_mean(analysis, name, s, bounds=False) for name in PAPER]])
    return table


def interval_table(analysis: Analysis, brief: bool = False) -> Table:
    """The same with 95 % intervals; unless brief also the variances over participants and the Plackett-Luce worths."""
    k, estimates, worths = analysis.measured.k, analysis.estimates, analysis.worths
    spread = [f"Var. {named(name, k).removeprefix('Avg. ')}" for name in PAPER]
    headers = ["Model", *[named(name, k) for name in PAPER], *[*spread, "Worth", "Participants"] * (not brief)]
    table = Table(f"Means with 95 % intervals{'' if brief else ', variances over participants, worths'}", headers)
    for s, system in enumerate(analysis.measured.systems):
        rows = {name: estimates.names.index(name) for name in PAPER}
        variances = [number(float(estimates.variances[m, s]), DECIMALS[name]) for name, m in rows.items()]
        worth = number(float(worths.values[s]), 2, float(worths.lows[s]), float(worths.highs[s]))
        people = Cell(str(int(estimates.known[list(rows.values()), s].max())))
        more = [] if brief else [*variances, worth, people]
        table.rows.append([Cell(system), *[_mean(analysis, name, s) for name in PAPER], *more])
    return table


def other_table(analysis: Analysis) -> Table:
    """Precision, and average precision as other libraries define it."""
    others = ("precision", "standard_map")
    table = Table("The same verdicts by other measures", ["Model", *[named(n, analysis.measured.k) for n in others]])
    for s, system in enumerate(analysis.measured.systems):
        table.rows.append([Cell(system), *[_mean(analysis, name, s) for name in others]])
    return table


def difference_table(analysis: Analysis) -> Table:
    """Every pair of systems; bold where the interval does not hold 0."""
    systems, k = analysis.measured.systems, analysis.measured.k
    table = Table("Differences of the means", ["First minus second", *[named(name, k) for name in PAPER]])
    for a, b in combinations(range(len(systems)), 2):
        cells = []
        for name in PAPER:
            value, low, high = analysis.estimates.difference(name, a, b)
            cells.append(number(value, DECIMALS[name], low, high, low > 0 or high < 0, plus=True))
        table.rows.append([Cell(f"{systems[a]} − {systems[b]}"), *cells])
    return table


def friedman_table(analysis: Analysis) -> Table:
    """Friedman's test of each measure."""
    headers = ["Measure", "Participants", "χ²", "p", "Kendall's W", "Nemenyi's critical difference"]
    table = Table("Do the systems differ at all? Friedman's test", headers)
    for name in TESTED:
        found = analysis.tests[name]
        whole = found.friedman
        cells = [number(whole.chi2, 2), _p(whole.p), number(whole.w, 2), number(found.critical_difference, 2)]
        table.rows.append([Cell(named(name, analysis.measured.k)), Cell(str(whole.participants)), *cells])
    return table


def pair_table(analysis: Analysis) -> Table:
    """p-values of every pair; bold below 0.05."""
    systems = analysis.measured.systems
    headers = [f"{named(name, analysis.measured.k)}, {test}" for name in TESTED for test in ("Nemenyi", "Wilcoxon")]
    table = Table("Which systems differ? p-values, corrected for the number of pairs", ["Pair", *headers])
    for a, b in combinations(range(len(systems)), 2):
        values = [m[a, b] for name in TESTED for m in (analysis.tests[name].nemenyi, analysis.tests[name].wilcoxon)]
        table.rows.append([Cell(f"{systems[a]} / {systems[b]}"), *[_p(float(p), bold=True) for p in values]])
    return table


def position_table(analysis: Analysis) -> Table | None:
    """Values in each position, less what the systems there get on average; None when positions were not recorded."""
    places = sorted({place for found in analysis.crossover.values() for place in found.by_position})
    if not places:
        return None
    headers = ["", *[f"position {place}" for place in places], "p", "p of the left neighbour"]
    table = Table("Does the place on the page matter?", headers)
    for name, found in analysis.crossover.items():
        shifts = [number(found.by_position.get(place, math.nan), 2, plus=True) for place in places]
        table.rows.append([Cell(name.capitalize()), *shifts, _p(found.position_p), _p(found.carry_over_p)])
    return table


def filter_table(analysis: Analysis) -> Table | None:
    """Participants with and without filters; None when nobody used one."""
    if not analysis.filters:
        return None
    k = analysis.measured.k
    names = list(analysis.filters[0].means)
    headers = [f"{named(name, k)}, {what}" for name in names for what in ("with", "without", "p")]
    table = Table("Participants who used filters, and those who did not", ["Filter", "with", "without", *headers])
    for effect in analysis.filters:
        cells = []
        for name in names:
            cells += [*[number(value, DECIMALS[name]) for value in effect.means[name]], _p(effect.p[name])]
        table.rows.append([Cell(effect.name), Cell(str(effect.used)), Cell(str(effect.unused)), *cells])
    return table


def calibration_table(analysis: Analysis) -> Table | None:
    """Agreement on the shared queries; None when there were none."""
    if not analysis.calibrations:
        return None
    headers = ["Query", "Ranked by", "Kendall's W", "p", "Verdicts by", "Fleiss' κ of the pictures"]
    table = Table("Do people agree? The queries that all were asked", headers)
    for one in analysis.calibrations:
        cells = [Cell(str(one.people)), number(one.w, 2), _p(one.p), Cell(str(one.judges)), number(one.kappa, 2)]
        table.rows.append([Cell(one.query), *cells])
    return table


def trust_table(analysis: Analysis) -> Table:
    """Repeated query, guesses and times, as far as they were asked."""
    table = Table("Steadiness, blinding and haste", ["", "value"])
    rows: list[tuple[str, Cell]] = []
    if (again := analysis.repeats) is not None:
        rows += [
            ("participants who were asked a query twice", Cell(str(again.people))),
            ("correlation of their ranks (Spearman)", number(again.rank_correlation, 2)),
            ("share whose best system stayed the best", number(again.same_first, 2)),
            ("absolute difference of their ratings", number(again.rating_difference, 2)),
            (f"share of {again.verdicts} pictures with the same verdict", number(again.same_verdict, 2)),
            ("Cohen's κ of the verdicts", number(again.kappa, 2)),
        ]
    if (told := analysis.guesses) is not None:
        rows += [
            ("who was asked which system was generated", Cell(str(told.asked))),
            ("unsure", Cell(str(told.unsure))),
            ("of the others: right", Cell(f"{told.right} of {told.guessed}")),
            ("share, 95 % interval", number(told.share, 2, told.low, told.high)),
            ("chance", number(told.chance, 2)),
            ("p against chance (binomial)", _p(told.p)),
        ]
    if (took := analysis.minutes) is not None:
        low, middle, high = took.quartiles
        rows += [
            ("minutes for a query: median (quartiles)", Cell(f"{middle:.1f} ({low:.1f}–{high:.1f})")),
            ("fastest and slowest, minutes", Cell(f"{took.fastest:.1f}, {took.slowest:.1f}")),
            ("faster than a third of the median", Cell(str(took.hurried))),
        ]
    table.rows.extend([Cell(name), cell] for name, cell in rows)
    return table


def count_table(analysis: Analysis) -> Table:
    """What was counted, and what was left out and why; lines that are 0 are left out but for the first."""
    told = {
        "participants": "participants with a submitted query",
        "pages": "submitted queries that count",
        "not_submitted": "participants who began and submitted none; left out",
        "failed": "answers that a system failed to give; it was not judged there",
        "absent": "systems without a row on a page; unknown there",
        "lists_unanswered": "lists with a missing verdict; left out of MAP",
        "lists_short": "lists with fewer pictures than k; the missing count as not relevant",
        "pages_unranked": "pages without a rank of every system; left out of ranks, not of worths",
        "pages_tied": "pages with equal ranks; they share the mean of their places",
        "unrated": "missing ratings; left out",
    }
    counts = analysis.measured.counts
    table = Table("What was counted", ["", "number"])
    known = [(says, counts[name]) for name, says in told.items() if counts[name] or name == "participants"]
    table.rows.extend([Cell(says), Cell(str(count))] for says, count in known)
    for system, failures in zip(analysis.measured.systems, analysis.measured.failures, strict=True):
        if failures:
            table.rows.append([Cell(f"failures of {system}"), Cell(str(failures))])
    return table


def results_tables(analysis: Analysis) -> list[Table]:
    """All that have something to say, in the order of the page."""
    found: Sequence[Table | None] = [
        paper_table(analysis),
        interval_table(analysis),
        difference_table(analysis),
        other_table(analysis),
        friedman_table(analysis),
        pair_table(analysis),
        position_table(analysis),
        filter_table(analysis),
        calibration_table(analysis),
        trust_table(analysis),
        count_table(analysis),
    ]
    return [table for table in found if table is not None and table.rows]


def number(
    value: float, decimals: int, low: float = math.nan, high: float = math.nan, bold: bool = False, plus: bool = False
) -> Cell:
    """A cell from a number and its interval; "–" where it is not known."""
    if math.isnan(value):
        return Cell("–")
    sign = "+" if plus else ""
    text = f"{value:{sign}.{decimals}f}"
    about: dict[str, Any] = {"value": value}
    if not math.isnan(low):
        between = ", " if plus else "–"
        text += f" [{low:{sign}.{decimals}f}{between}{high:{sign}.{decimals}f}]"
        about |= {"low": low, "high": high}
    return Cell(text, bold, about)


def _mean(analysis: Analysis, name: str, system: int, bounds: bool = True) -> Cell:
    estimates = analysis.estimates
    m = estimates.names.index(name)
    between = (float(estimates.lows[m, system]), float(estimates.highs[m, system])) if bounds else (math.nan, math.nan)
    return number(float(estimates.means[m, system]), DECIMALS[name], *between, estimates.best(name) == system)


def _p(p: float, bold: bool = False) -> Cell:
    cell = probability(None if math.isnan(p) else p)
    return Cell(cell.text, bold and p <= 0.05, cell.number)
