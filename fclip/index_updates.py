"""Bringing an index up to date with its catalogue: only what is new, changed or gone is touched.

    index, changes = update_index("garments-index", model, open_catalogue("garments.csv"))

Two keys of each row tell what has changed (`fclip.index_rows`). Inside `fclip.processes.joined` each process compares
and writes its share; the first one removes and indexes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fclip.images import UnreadableImageError
from fclip.index import Index, open_index
from fclip.index_rows import MEASURED, Kinds, Made, check_kinds, facts, picture_key, rows_of
from fclip.indexing import (
    WRITTEN_AT_ONCE,
    Job,
    Skipped,
    chunks,
    column_of,
    embedded,
    finish,
    first_of_each,
    ids,
    parts,
)
from fclip.places import Place
from fclip.processes import gathered, is_main, share, wait
from fclip.store import Store

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.model import Model


@dataclass(frozen=True)
class Changes:
    """How many pictures an update wrote and removed."""

    added: int
    changed: int
    removed: int

    @property
    def any(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def update_index(
    folder: str | Path,
    model: Model,
    catalogue: Dataset,
    progress: bool = False,
    batch_size: int = 64,
    workers: int = 0,
) -> tuple[Index, Changes]:
    """Brings an index to the state of a catalogue: embeds what is new or has another picture, removes what is gone.

    It works on the store in use, batch by batch, and each batch is there whole or not at all: readers see the old or
    the new rows, and after a kill the same call does the rest. A picture of the index that can no longer be read keeps
    its rows, and is listed; what merely says something else keeps its vector.

    Args:
        folder: of the index.
        model: the one that the index was built with.
        catalogue, progress, batch_size, workers: as for `build_index`.

    Raises:
        UserError: no index, one of another model or of other attribute groups.
        StoreUnavailableError: the store cannot be reached.
    """
    job = Job(Place(folder), model, catalogue, progress, batch_size, workers)
    index = open_index(folder)
    index.check_model(model)
    kinds = {name: group.kind for name, group in index.schema.items()}
    check_kinds(catalogue, kinds)
    names = ids(catalogue)
    there = {name: column_of(index.store, name) for name in ("id", "picture", "facts")}
    first, doubles = first_of_each(names)
    gone = there["id"].filter(pc.invert(pc.is_in(there["id"], value_set=names))).to_pylist()
    wait()  # all have seen the same rows before one writes
    skipped: Skipped = []
    changes = _write_changes(job, index.store, kinds, share(parts(first, batch_size)), there, skipped)
    skipped = sorted(gathered(skipped) + doubles)
    total = Changes(*(sum(values) for values in zip(*map(astuple, gathered([changes])), strict=True)))
    if is_main():
        removed = index.store.delete(gone)
        total = replace(total, removed=removed)
        if total.any or [list(problem[1:]) for problem in skipped] != index.about["skipped"]:
            finish(job, index.store, index.about, skipped, fresh=False)
    wait()
    return open_index(folder), total


def _write_changes(
    job: Job, rows: Store, kinds: Kinds, mine: Sequence[list[int]], there: Mapping[str, Any], skipped: Skipped
) -> Changes:
    """This process's share of the new and changed pictures."""
    new, other, said = _compared(job, mine, there, skipped)
    added = changed = 0
    for chunk in chunks(embedded(job, new, kinds, skipped)):
        rows.add(chunk)
        added += len(chunk)
    for chunk in chunks(embedded(job, other, kinds, skipped)):
        rows.upsert(chunk)
        changed += len(chunk)
    for start in range(0, len(said), WRITTEN_AT_ONCE):
        rows.upsert(_said_anew(job.catalogue.select(said[start : start + WRITTEN_AT_ONCE]), rows, kinds))
    return Changes(added, changed + len(said), 0)


def _compared(
    job: Job, mine: Sequence[list[int]], there: Mapping[str, Any], skipped: Skipped
) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """New rows and rows with another picture, by parts, and rows that only say something else."""
    new, other, said = [], [], []
    for part in mine:
        some = job.catalogue.select(part)
        table = some.select_columns([n for n in some.column_names if n != "image"]).with_format("arrow")[:]
        places = pc.index_in(table["id"], value_set=there["id"]).to_pylist()
        fresh, moved = [], []
        for row, place, told, cell in zip(part, places, facts(table), some["image"], strict=True):
            if place is None:
                fresh.append(row)
                continue
            try:
                same = picture_key(cell) == there["picture"][place].as_py()
            except UnreadableImageError as error:
                skipped.append((row, there["id"][place].as_py(), str(error)))
                continue
            if not same:
                moved.append(row)
            elif told != there["facts"][place].as_py():
                said.append(row)
        new += [fresh] * bool(fresh)
        other += [moved] * bool(moved)
    return new, other, said


def _said_anew(pictures: Dataset, rows: Store, kinds: Kinds) -> pa.Table:
    """Rows of pictures of which all but what the catalogue says is there."""
    colour = [f"group_{place}" for place, name in enumerate(kinds) if name == MEASURED]
    old = rows.get(pictures["id"][:], ["vector", "thumbnail", "picture", *colour])
    vectors = np.array([row["vector"] for row in old], np.float32)
    made = [Made(row["thumbnail"], row["picture"], *(row[column] for column in colour)) for row in old]
    return rows_of(pictures, vectors, made, kinds)
