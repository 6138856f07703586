"""When no product fits the filters: which of them to leave out, and which values no product has.

relaxations(index, {"colour": ["red"], "gender": ["Men"]})      # {"colour": 12, "gender": 3}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from fclip.errors import nearest

if TYPE_CHECKING:
    from fclip.index import Index

SENTENCES = 10  # on values that no product has


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
    """A sentence for every value that no product has; of many, for the first SENTENCES, and one that counts the others.

    Args:
        where: the filters.
        known: group → its values; groups that are left out, as those of numbers, are not looked at.
    """
    strange = strange_values(where, known)
    notes = [f"no product has {group}={value}; {nearest(value, known[group])}" for group, value in strange[:SENTENCES]]
    more = len(strange) - len(notes)
    return [*notes, f"no product has {more:,} more of the values either"] if more else notes


def strange_values(where: Mapping[str, Any], known: Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
    """(group, value) of every value that no product has; arguments as of `unknown_values`."""
    groups = [group for group in where if group in known]
    return [(group, value) for group in groups for value in _named(where[group]) if value not in known[group]]


def _named(wanted: Any) -> Collection[str]:
    """The values that the filter on a group names."""
    values = wanted.get("not", []) if isinstance(wanted, Mapping) else wanted
    return [values] if isinstance(values, str) else values
