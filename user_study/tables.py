"""The results as tables: the paper's Table 2, the same with intervals, differences, tests, effects, agreement.

    parts = results_tables(analysis)           # of `eval.report.Table`: Markdown, LaTeX, CSV, page

Bold is who is better than every other system by more than the interval of the difference; without one nothing is bold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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


def interval_table(analysis: Analysis) -> Table:
    """The same with 95 % intervals over participants, and how many of them are behind it."""
    estimates, names = analysis.estimates, [named(name, analysis.measured.k) for name in PAPER]
    rows = [estimates.names.index(name) for name in PAPER]
    table = Table("Means with 95 % intervals", ["Model", *names, "Participants"])
    for s, system in enumerate(analysis.measured.systems):
        people = sorted({int(number) for number in estimates.known[rows, s]})
        told = f"{people[0]}" if len(people) == 1 else f"{people[0]}–{people[-1]}"
        table.rows.append([Cell(system), *[_mean(analysis, name, s) for name in PAPER], Cell(told)])
    return table


def spread_table(analysis: Analysis) -> Table:
    """The variance over participants, which tells who polarises, and the Plackett-Luce worths."""
    estimates, worths = analysis.estimates, analysis.worths
    headers = [f"Var. {named(name, analysis.measured.k).removeprefix('Avg. ')}" for name in PAPER]
    table = Table("Variances over participants, and worths", ["Model", *headers, "Worth"])
    for s, system in enumerate(analysis.measured.systems):
        rows = {name: estimates.names.index(name) for name in PAPER}
        variances = [number(float(estimates.variances[m, s]), DECIMALS[name]) for name, m in rows.items()]
        worth = number(float(worths.values[s]), 2, float(worths.lows[s]), float(worths.highs[s]))
        table.rows.append([Cell(system), *variances, worth])
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
    names = [named(name, analysis.measured.k).removeprefix("Avg. ") for name in TESTED]
    headers = [f"{name}: {test}" for name in names for test in ("Nemenyi", "Wilcoxon")]
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
    headers = ["Value", *[f"position {place}" for place in places], "p", "p of the left neighbour"]
    table = Table("Does the place on the page matter?", headers)
    for name, found in analysis.crossover.items():
        shifts = [number(found.by_position.get(place, math.nan), 2, plus=True) for place in places]
        table.rows.append([Cell(name.capitalize()), *shifts, _p(found.position_p), _p(found.carry_over_p)])
    return table


def filter_table(analysis: Analysis) -> Table | None:
    """Participants with and without filters; None when nobody used one."""
    if not analysis.filters:
        return None
    headers = ["Filter", "With", "Without", "p"]
    table = Table("Participants who used filters, and those who did not", headers)
    for effect in analysis.filters:
        for name, (used, unused) in effect.means.items():
            told = ((used, effect.used), (unused, effect.unused))
            cells = [Cell(f"{number(value, DECIMALS[name]).text} ({people})") for value, people in told]
            measure = named(name, analysis.measured.k)
            table.rows.append([Cell(f"{effect.name}: {measure}"), *cells, _p(effect.p[name])])
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


def repeat_table(analysis: Analysis) -> Table | None:
    """How steady answers are; None when no query was repeated."""
    again = analysis.repeats
    if again is None:
        return None
    rows = {
        "participants": Cell(str(again.people)),
        "correlation of their ranks (Spearman)": number(again.rank_correlation, 2),
        "share whose best system stayed the best": number(again.same_first, 2),
        "absolute difference of their ratings": number(again.rating_difference, 2),
        "pictures judged twice": Cell(str(again.verdicts)),
        "share with the same verdict": number(again.same_verdict, 2),
        "Cohen's κ of the verdicts": number(again.kappa, 2),
    }
    return _listed("Do people agree with themselves? The repeated query", rows)


def guess_table(analysis: Analysis) -> Table | None:
    """Whether the blinding was kept; None when nobody was asked."""
    told = analysis.guesses
    if told is None:
        return None
    rows = {
        "participants who answered": Cell(str(told.asked)),
        "unsure": Cell(str(told.unsure)),
        "of the others right": Cell(f"{told.right} of {told.guessed}"),
        "share, 95 % interval": number(told.share, 2, told.low, told.high),
        "chance": number(told.chance, 2),
        "p against chance (binomial)": _p(told.p),
    }
    return _listed("Could they tell which was generated?", rows)


def time_table(analysis: Analysis) -> Table | None:
    """How long a query took; None when times are not known."""
    took = analysis.minutes
    if took is None:
        return None
    low, middle, high = took.quartiles
    rows = {
        "queries": Cell(str(took.queries)),
        "minutes: median (quartiles)": Cell(f"{middle:.1f} ({low:.1f}–{high:.1f})"),
        "fastest, slowest": Cell(f"{took.fastest:.1f}, {took.slowest:.1f}"),
        "faster than a third of the median": Cell(str(took.hurried)),
    }
    return _listed("How long did a query take?", rows)


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
    table = Table("What was counted", ["What", "Number"])
    known = [(says, counts[name]) for name, says in told.items() if counts[name] or name == "participants"]
    table.rows.extend([Cell(says), Cell(str(count))] for says, count in known)
    for system, failures in zip(analysis.measured.systems, analysis.measured.failures, strict=True):
        if failures:
            table.rows.append([Cell(f"failures of {system}"), Cell(str(failures))])
    return table


def results_tables(analysis: Analysis) -> dict[str, list[Table]]:
    """Part of the page → its tables, those that have something to say."""
    parts = {
        "Results": (paper_table, interval_table, difference_table, spread_table),
        "Tests": (friedman_table, pair_table),
        "What else moved the answers": (position_table, filter_table, time_table),
        "Can the answers be trusted?": (calibration_table, repeat_table, guess_table),
        "Counts and other measures": (count_table, other_table),
    }
    made = {title: [make(analysis) for make in makers] for title, makers in parts.items()}
    known = {title: [table for table in tables if table is not None] for title, tables in made.items()}
    return {title: tables for title, tables in known.items() if tables}


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


def _listed(title: str, rows: Mapping[str, Cell]) -> Table:
    return Table(title, ["What", "Value"], [[Cell(name), cell] for name, cell in rows.items()])


def _mean(analysis: Analysis, name: str, system: int, bounds: bool = True) -> Cell:
    estimates = analysis.estimates
    m = estimates.names.index(name)
    between = (float(estimates.lows[m, system]), float(estimates.highs[m, system])) if bounds else (math.nan, math.nan)
    return number(float(estimates.means[m, system]), DECIMALS[name], *between, estimates.best(name) == system)


def _p(p: float, bold: bool = False) -> Cell:
    cell = probability(None if math.isnan(p) else p)
    return Cell(cell.text, bold and p <= 0.05, cell.number)
