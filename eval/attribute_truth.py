"""What pictures show of every value of every group: the truth of DeepFashion's category and attribute prediction.

>>> truth = read_truth(pictures, vocabulary_of(whole))
>>> truth.positive[:, truth.columns.index("category:dress")]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

CATEGORY = "category"
Vocabulary = dict[str, list[str]]
"""Group → values; "category" first where the catalogue has categories."""


@dataclass(frozen=True)
class Truth:
    """What N pictures show, of V values in all, in the vocabulary's order."""

    vocabulary: Vocabulary
    ids: list[str]
    items: list[str]
    positive: NDArray[np.bool_]  # (N, V)

    @property
    def columns(self) -> list[str]:
        """(V,) "group:value"."""
        return [f"{group}:{value}" for group, values in self.vocabulary.items() for value in values]

    @property
    def groups(self) -> dict[str, list[int]]:
        """Group → its columns."""
        starts = np.cumsum([0, *map(len, self.vocabulary.values())])
        return {g: list(range(starts[n], starts[n + 1])) for n, g in enumerate(self.vocabulary)}

    def take(self, rows: NDArray[np.int64]) -> Truth:
        """These pictures only."""
        ids, items = ([column[row] for row in rows] for column in (self.ids, self.items))
        return Truth(self.vocabulary, ids, items, self.positive[rows])


def vocabulary_of(whole: Dataset, groups: Sequence[str] = ()) -> Vocabulary:
    """The values of every group, whatever the split, in alphabetical order.

    Raises:
        UserError: an unknown group, or there is nothing to predict.
    """
    from fclip.catalogue.schema import check_groups, groups_of

    check_groups(whole, [group for group in groups if group != CATEGORY])
    wanted = list(groups) or list(dict.fromkeys([CATEGORY, *groups_of(whole)]))
    found = {group: _distinct(whole, group) for group in wanted if group in (*groups_of(whole), *whole.column_names)}
    found = {group: values for group, values in found.items() if values}
    if not found:
        raise UserError(f"the catalogue states no value of {', '.join(wanted)}; measure on one that does")
    return found


def _column(pictures: Dataset, group: str) -> pa.Array:
    """The values of a group, text or lists of text; the column "category" goes before a group of that name."""
    own = group == CATEGORY and CATEGORY in pictures.column_names
    table = pictures.select_columns([CATEGORY if own else "attributes"]).with_format("arrow")[:]
    chunk = table.column(0).combine_chunks()
    return chunk if own else chunk.field(group)


def _distinct(pictures: Dataset, group: str) -> list[str]:
    column = _column(pictures, group)
    values = column.flatten() if pa.types.is_list(column.type) else column
    return sorted(value for value in pc.unique(values).to_pylist() if value)


def read_truth(pictures: Dataset, vocabulary: Vocabulary) -> Truth:
    """What the pictures of a split show."""
    parts = []
    for group, values in vocabulary.items():
        if group != CATEGORY and group not in pictures.features["attributes"]:
            parts.append(np.zeros((len(pictures), len(values)), bool))
            continue
        column = _column(pictures, group)
        several = pa.types.is_list(column.type)
        row = pc.list_parent_indices(column).to_numpy() if several else np.arange(len(column))
        flat = column.flatten() if several else column
        code = pc.fill_null(pc.index_in(flat, value_set=pa.array(values, flat.type)), -1).to_numpy(zero_copy_only=False)
        part = np.zeros((len(pictures), len(values)), bool)
        part[row[code >= 0], code[code >= 0]] = True
        parts.append(part)
    ids, items = (list(map(str, pictures[name][:])) for name in ("id", "item"))
    return Truth(vocabulary, ids, items, np.concatenate(parts, axis=1))
