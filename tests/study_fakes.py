"""Simulated participants with known preferences, as an export of the study would hold their answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from user_study.answers import Answers, PictureRow, QueryRow, SystemRow
from user_study.design import make_design, next_order, pages

SYSTEMS = ("baseline", "tuned", "stn", "diffusion")
WORTHS = (2.0, 4.0, 1.0, 3.0)
LIKED = (0.4, 0.6, 0.2, 0.6)
TEXTS = ("a red dress", "a warm coat")


def study(
    participants: int = 24,
    seed: int = 0,
    worths: Sequence[float] = WORTHS,
    systems: Sequence[str] = SYSTEMS,
    calibration: int = 1,
    repeat: bool = True,
    k: int = 4,
) -> Answers:
    """Rankings by Plackett-Luce, verdicts by coin, ratings that follow the rank; the last system is generated."""
    from user_study.design import Places

    rng, design = np.random.default_rng(seed), make_design(systems, seed)
    completed = [0] * len(design.orders)
    tables: tuple[list[PictureRow], list[SystemRow], list[QueryRow]] = ([], [], [])
    clock = datetime(2026, 3, 1, 9)
    for number in range(participants):
        order = next_order(design, Places(tuple(completed), (0,) * len(completed)))
        assert order is not None
        completed[order] += 1
        ranks: dict[str, int] = {}
        for page in pages(design, order, 1, calibration, repeat):
            if page.kind != "repeat":  # a repeated query is answered as before
                utility = dict(zip(systems, np.log(worths) + rng.gumbel(size=len(systems)), strict=True))
                ranks = ranks if page.kind == "repeat" else _ranked(utility)
            first = ranks if page.kind == "own" else first  # noqa: F821
            given = first if page.kind == "repeat" else ranks
            clock += timedelta(minutes=30)
            took = timedelta(minutes=float(rng.uniform(2, 9)))
            who = f"p{number:03d}"
            text = TEXTS[page.calibration] if page.calibration is not None else f"wish of {who}"
            guess = page.letters[systems[-1]] if rng.random() < 0.7 else page.letters[systems[0]]
            tables[2].append(
                QueryRow(
                    who,
                    page.query,
                    page.kind,
                    text,
                    3,
                    {"gender": "Women"} if page.kind == "own" and number % 3 == 0 else None,
                    clock,
                    clock + took,
                    guess if page.kind == "own" else None,
                    page.repeats,
                )
            )
            for position, system in enumerate(page.systems, 1):
                place = systems.index(system)
                rating = float(np.clip(9 - 2 * given[system] + rng.integers(-1, 3), 1, 10))
                comment = f"{system}, \"hm\";\nx < y & 'z'" if rng.random() < 0.1 else None
                about = (who, page.query, page.kind, system, page.letters[system], position, float(given[system]))
                tables[1].append(SystemRow(*about, rating, comment, False, place == len(systems) - 1))
                for picture in range(1, k + 1):
                    chance = LIKED[place % len(LIKED)]
                    item = f"{system}-{picture}"
                    where = (who, page.query, system, page.letters[system], position, picture, item)
                    tables[0].append(PictureRow(*where, bool(rng.random() < chance)))
    pictures, rows, queries = tables
    rows.sort(key=lambda row: (row.participant, row.query, systems.index(row.system)))
    return Answers(tuple(pictures), tuple(rows), tuple(queries))


def _ranked(utility: dict[str, float]) -> dict[str, int]:
    return {name: place for place, name in enumerate(sorted(utility, key=lambda name: -utility[name]), 1)}


def by_hand(ranks: np.ndarray, ratings: np.ndarray, liked: np.ndarray, systems: Sequence[str] = SYSTEMS) -> str:
    """A CSV as somebody types it: ranks and ratings (P, S), verdicts (P, S, k)."""
    k = liked.shape[2]
    lines = [",".join(["participant", "system", *[f"relevant_{i + 1}" for i in range(k)], "rank", "rating"])]
    for p in range(len(ranks)):
        for s, system in enumerate(systems):
            lines.append(",".join(map(str, [f"p{p}", system, *liked[p, s].astype(int), ranks[p, s], ratings[p, s]])))
    return "\n".join(lines) + "\n"
