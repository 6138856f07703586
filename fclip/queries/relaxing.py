"""When no product fits the filters: which of them to leave out, and which values no product has.

relaxations(index, {"colour": ["red"], "gender": ["Men"]})      # {"colour": 12, "gender": 3}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from fclip.errors import nearest

if TYPE_CHECKING:
    from fclip.index import Index


def relaxations(index: Index, where: Mapping[str, Any]) -> dict[str, int]:
    """Filter → how many pictures fit when it alone is left out, the most first; those that help nothing left out.

    Args:
        index: that is asked.
        where: the filters that leave nothing.
    """
    counts = {group: index.count({g: w for g, w in where.items() if g != group}) for group in where}
    return dict(sorted(((g, n) for g, n in counts.items() if n), key=lambda pair: -pair[1]))


def advice(index: Index, where: Mapping[str, Any]) -> str:
    """One sentence for a person whose filters leave nothing."""
    helpful = relaxations(index, where)
    if not helpful:
        return "leaving out one filter is not enough; leave out several"
    if len(where) == 1:
        return f"leave out the filter on {next(iter(where))}"
    return "; ".join(f"without the filter on {group} {count} pictures fit" for group, count in helpful.items())


def unknown_values(where: Mapping[str, Any], known: Mapping[str, Collection[str]]) -> list[str]:
    """A sentence for every value that no product has.

    Args:
        where: the filters.
        known: group → its values; groups that are left out, as those of numbers, are not looked at.
    """
    notes = []
    for group in [group for group in where if group in known]:
        wanted = where[group].get("not", []) if isinstance(where[group], Mapping) else where[group]
        asked = [wanted] if isinstance(wanted, str) else wanted
        notes += [
            f"no product has {group}={value}; {nearest(value, known[group])}"
            for value in asked
            if value not in known[group]
        ]
    return notes
