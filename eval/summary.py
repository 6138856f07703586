"""A report's first sentences, in plain words: how good is the best, is that sure, and against what.

>>> sentences(found, results)
['For 47 of 100 pictures, stn finds the right caption among 430 …', …]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.compare import BASELINES, Comparison
from eval.pairs import difference, excludes_zero
from eval.scores import Score, find


def sentences(found: Comparison | None, results: Sequence[dict[str, Any]]) -> list[str]:
    """What the results say, for a reader who reads no further."""
    told = [] if found is None else [*_best(found), *_caution(found)]
    others = dict.fromkeys(r["protocol"] for r in results if r["protocol"] != "surfacing")
    if others:
        told.append(f"{'Further' if told else 'The'} results are of {', '.join(others)}; their tables stand below.")
    return told


def _best(found: Comparison) -> list[str]:
    values = [(found.score(i, "text_sfa") or {}).get("value") for i in range(len(found.names))]
    known = [i for i, value in enumerate(values) if value is not None]
    if not known:
        return ["No picture has a score."]
    best = max(known, key=lambda i: values[i] or 0)
    counts, score = found.runs[best][0]["counts"], found.score(best, "text_sfa") or {}
    attributes = found.score(best, "attribute_sfa") or {}
    first = (
        f"For {_of_100(score)} of 100 pictures, {found.names[best]} finds the right one of {counts['captions']} "
        f"captions{_between(score)}; of what is known of a garment, the caption it finds states {_percent(attributes)}."
    )
    return [first, *_against_others(found, best, known), _against_baseline(found, best)]


def _against_baseline(found: Comparison, best: int) -> str:
    baselines = found.runs[best][0].get("baselines", {})
    rivals = {shown: find(baselines[key], "text_sfa") for key, shown in BASELINES.items() if key in baselines}
    values = {shown: rival for shown, rival in rivals.items() if rival and rival["value"] is not None}
    if not values:
        return "No baseline was measured: whether that is much cannot be told."
    name = max(values, key=lambda shown: values[shown]["value"] or 0)
    return f"The best answer without a model ({name}) is right for {_of_100(values[name])} of 100."


def _against_others(found: Comparison, best: int, known: Sequence[int]) -> list[str]:
    if len(known) < 2 or not found.contenders:
        return []
    second = max((i for i in known if i != best), key=lambda i: (found.score(i, "text_sfa") or {})["value"] or 0)
    gap = difference(found.contenders[best], found.contenders[second], "text_sfa")
    if gap["value"] == 0:
        return [f"{found.names[second]} is right as often."]
    told = f"That is {abs(100 * (gap['value'] or 0)):.1f} points more than {found.names[second]}"
    if excludes_zero(gap):
        return [f"{told}, a difference that other pictures of such products would show too (95 % interval "
                f"{100 * (gap['low'] or 0):.1f} to {100 * (gap['high'] or 0):.1f})."]  # fmt: skip
    return [f"{told}, but the interval of that difference holds 0: which is better cannot be told from these pictures."]


def _caution(found: Comparison) -> list[str]:
    told = []
    if found.apart:
        told.append(f"These results must not be compared: {found.apart}.")
    leaked = max((run.get("products_in_train", 0) for runs in found.runs for run in runs), default=0)
    if leaked:
        told.append(f"{leaked} products are in the train split too: these scores are too good.")
    if all(len(runs) == 1 for runs in found.runs):
        told.append(
            "Each model was trained once: the intervals do not tell how much another training run would differ."
        )
    return told


def _of_100(score: Score) -> str:
    value = score["value"]
    return "–" if value is None else f"{100 * value:.0f}" if value >= 0.0095 or value == 0 else f"{100 * value:.1f}"


def _percent(score: Score) -> str:
    return "an unknown share" if score.get("value") is None else f"{100 * (score['value'] or 0):.0f} %"


def _between(score: Score) -> str:
    low, high = score.get("low"), score.get("high")
    return "" if low is None or high is None else f" (between {100 * low:.0f} and {100 * high:.0f}, 95 % interval)"
