"""Building an index, and continuing a build that was killed.

    build_index("garments-index", model, open_catalogue("garments.csv"), checkpoint="runs/demo/best")
    build_index("garments-index", model, open_catalogue("garments.csv"), resume=True)

A build writes a store of its own beside the one in use and then lets index.json name it, which is one write; the one
that was in use stays for those who still read it, until the next build. building.json tells what an unfinished build
is. Inside `fclip.processes.joined` each process embeds and writes every W-th batch; the first one does the rest. The
vectors do not depend on how many there are: a batch is embedded whole or, after a kill, again as a whole.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fclip.errors import StoreUnavailableError, UserError
from fclip.files import expand, is_full
from fclip.index import ABOUT, BUILDING, FORMAT, Index, open_index, read_about, schema_of, store_uri
from fclip.index_rows import MEASURED, Kinds, index_kinds, made_of, rows_of, schema
from fclip.places import Place
from fclip.processes import gathered, is_main, share, wait
from fclip.store import Store, create_store, open_store
from fclip.store.recall import recall_under_filters

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.model import Model

WRITTEN_AT_ONCE = 2048  # pictures; every write is a file and a version of the table, and lost when killed before it
SAMPLE = 4096  # pictures drawn at random
ASKED = 64  # pictures, and as many captions, that recall is measured with
Skipped = list[tuple[int, str, str]]


@dataclass(frozen=True)
class Job:
    """What every step of a build or an update needs."""

    place: Place
    model: Model
    catalogue: Dataset
    progress: bool = False
    batch_size: int = 64
    workers: int = 0


def build_index(
    folder: str | Path,
    model: Model,
    catalogue: Dataset,
    checkpoint: str = "",
    overwrite: bool = False,
    progress: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    resume: bool = False,
    store: str | None = None,
    measure_colour: bool = False,
) -> Index:
    """Embeds a catalogue, batch by batch, into a new index; unreadable pictures are left out and listed in index.json.

    Args:
        folder: of the index, or an object store's address.
        model: from `load_checkpoint` or `open_model`.
        catalogue: from `open_catalogue`.
        checkpoint: where the model came from, so that `fclip search` finds it again.
        overwrite: replace an index that is there, once the new one is complete; nothing else is ever replaced.
        progress: show a progress bar.
        batch_size: pictures embedded at once.
        workers: processes that decode; 0: this one.
        resume: continue the unfinished build in the folder, if there is one.
        store: http://HOST:PORT/COLLECTION of a Qdrant server for the vectors; None: they lie in the folder.
        measure_colour: adds a group of the colours that the pictures show (`fclip.queries.colours`).

    Raises:
        UserError: the folder is in use, no picture can be read, or the unfinished build is of another model.
        StoreUnavailableError: the store cannot be reached.
    """
    job = Job(Place(folder), model, catalogue, progress, batch_size, workers)
    before = read_about(job.place)
    unfinished = _unfinished(job.place)
    _check_free(job.place, before, unfinished, overwrite, resume)
    kinds = index_kinds(catalogue, measure_colour)
    state = _state(job, kinds, before, store)
    if resume and unfinished is not None:
        state = _checked(unfinished, state)
    wait()  # all have looked before one writes
    try:
        rows = _begin(job, state, kinds, unfinished, resume)
        skipped = _embed_all(job, rows, kinds, state["batch_size"])
        if not any(gathered([rows.count()])):
            raise _nothing(job, state, skipped)
        if is_main():
            _finish_build(job, rows, state, before, skipped, _place(checkpoint))
    except Exception as error:
        if is_full(error):
            raise UserError(f"cannot write {job.place}: the disk is full; free some, then use --resume") from None
        raise
    wait()
    return open_index(folder)


def _unfinished(place: Place) -> dict[str, Any] | None:
    data = place.read(BUILDING)
    return None if data is None else json.loads(data)


def check_target(folder: str | Path, overwrite: bool, resume: bool) -> None:
    """Raises UserError when an index cannot be written there: before the work rather than after it."""
    place = Place(folder)
    _check_free(place, read_about(place), _unfinished(place), overwrite, resume)


def _check_free(place: Place, before: Any, unfinished: Any, overwrite: bool, resume: bool) -> None:
    if place.path is not None and place.path.exists() and not place.path.is_dir():
        raise UserError(f"expected a folder to write, got a file: {place}; choose another name")
    if unfinished is not None and not (resume or overwrite):
        raise UserError(f"{place} holds an unfinished index; continue it with --resume or start anew with --overwrite")
    if unfinished is None and before is None and not place.empty():
        if overwrite or resume:
            raise UserError(f"{place} is no index, so it is not overwritten; choose another name")
        raise UserError(f"{place} exists already; choose another name")
    if before is not None and unfinished is None and not overwrite:
        said = "nothing is left to resume; bring it up to date with --update" if resume else "choose another name"
        raise UserError(f"{place} exists already; {said}, or replace it with --overwrite")


def _state(job: Job, kinds: Kinds, before: Any, store: str | None) -> dict[str, Any]:
    """What building.json says."""
    from fclip.embedding import dimension

    number = 1 + (before.get("number", 0) if isinstance(before, dict) else 0)
    return {
        "format": FORMAT,
        "number": number,
        "store": f"{store}-{number}" if store else f"pictures-{number}",
        "fingerprint": job.model.fingerprint,
        "dimension": dimension(job.model),
        "kinds": dict(kinds),
        "batch_size": job.batch_size,
    }


def _checked(unfinished: dict[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """The unfinished build's state, unless it is of something else."""
    for name, what in {"format": "format", "fingerprint": "model", "kinds": "attribute groups"}.items():
        if unfinished.get(name) != state[name]:
            raise UserError(
                f"the unfinished index is of {what} {unfinished.get(name)}, got {state[name]}; "
                "give what it was begun with, or start anew with --overwrite"
            )
    return unfinished


def _begin(job: Job, state: Mapping[str, Any], kinds: Kinds, unfinished: Any, resume: bool) -> Store:
    """The store to write to: that of the unfinished build, or a new one."""
    uri = store_uri(job.place, state)
    if not (resume and unfinished is not None):
        if is_main():
            if unfinished is not None:
                _drop(job.place, unfinished["store"])
            job.place.write(BUILDING, _json(state))
            try:
                create_store(uri, schema(kinds, state["dimension"]))
            except StoreUnavailableError:
                _leave(job.place)
                raise
        wait()
    elif is_main():
        try:
            open_store(uri)
        except UserError:  # killed before there was one
            create_store(uri, schema(kinds, state["dimension"]))
    wait()
    return open_store(uri)


def _embed_all(job: Job, rows: Store, kinds: Kinds, batch_size: int) -> Skipped:
    """Embeds and writes what is not there yet, each process its share; returns what all of them skipped."""
    known = ids(job.catalogue)
    there = column_of(rows, "id")
    missing = pc.invert(pc.is_in(known, value_set=there)).to_numpy(zero_copy_only=False) if len(there) else None
    first, doubles = first_of_each(known)
    wait()  # all have seen the same rows before one writes more
    wanted = first if missing is None else first[missing[first]]
    skipped: Skipped = []
    for chunk in chunks(embedded(job, share(parts(wanted, batch_size)), kinds, skipped)):
        rows.add(chunk)
    return sorted(gathered(skipped) + doubles)


def embedded(job: Job, mine: Sequence[list[int]], kinds: Kinds, skipped: Skipped) -> Iterator[pa.Table]:
    """This process's parts as rows, a table for each part; adds to `skipped` what cannot be read."""
    from fclip.embedding import embed_batches

    batches = embed_batches(
        *(job.model, job.catalogue, job.batch_size, job.progress and is_main(), job.workers, mine),
        partial(made_of, measure_colour=MEASURED in kinds),
    )
    for rows, part in zip(mine, batches, strict=True):
        skipped += [(rows[0], identity, reason) for identity, reason in part.skipped]
        if len(part.rows):
            yield rows_of(job.catalogue.select(part.rows), part.vectors, part.also, kinds)


def _nothing(job: Job, state: Mapping[str, Any], skipped: Skipped) -> UserError:
    """Removes what an index without pictures left."""
    if is_main():
        _drop(job.place, state["store"])
        _leave(job.place)
    first = f"the first problem: {skipped[0][2]}" if skipped else "the catalogue is empty"
    return UserError(f"expected a picture to index, got none of {len(job.catalogue)}; {first}")


def _leave(place: Place) -> None:
    """Nothing is begun there any more."""
    place.remove(BUILDING)
    if place.path is not None and place.empty():
        place.path.rmdir()


def _finish_build(job: Job, rows: Store, state: Mapping[str, Any], before: Any, skipped: Skipped, origin: str) -> None:
    """Indexes the vectors, and lets index.json name them.

    What servers may still answer from stays: the store before (`retired`), and the last one of another model
    (`foreign`), whose servers refuse this one.
    """
    kinds: Kinds = state["kinds"]
    old: Mapping[str, Any] = before if isinstance(before, dict) else {}
    replaced = old.get("store", "lance") if old else None
    foreign = old.get("foreign") if old.get("fingerprint") == state["fingerprint"] else replaced
    about = {
        "format": FORMAT,
        "number": state["number"],
        "fingerprint": state["fingerprint"],
        "model": job.model.name,
        "checkpoint": origin,
        "dimension": state["dimension"],
        "groups": list(kinds),
        "numbers": [name for name, kind in kinds.items() if kind == "number"],
        "lists": [name for name, kind in kinds.items() if kind == "texts"],
        "store": state["store"],
        "retired": replaced,
        "foreign": foreign,
    }
    finish(job, rows, about, skipped, fresh=True)
    job.place.remove(BUILDING)
    for store in {old.get("retired"), old.get("foreign")} - {replaced, foreign}:
        if store is not None:
            _drop(job.place, store)


def finish(job: Job, rows: Store, about: Mapping[str, Any], skipped: Skipped, fresh: bool) -> None:
    """Draws the sample, indexes the vectors and writes index.json."""
    rows = open_store(rows.uri)  # which sees at once what other processes have just written
    drawn = _drawn(job.catalogue)
    sample = np.array([row["vector"] for row in rows.get(drawn, ["vector"])], np.float32)
    questions = cache(lambda: _questions(job, sample))
    tuning = rows.optimise(questions, fresh)
    filtered = recall_under_filters(rows, questions(), schema_of(about)) if tuning.recall else []
    stream = io.BytesIO()
    np.save(stream, sample, allow_pickle=False)
    job.place.write(f"sample-{about['number']}.npy", stream.getvalue())
    told = {
        "pictures": rows.count(),
        "sample": f"sample-{about['number']}.npy",
        "search": {
            "kind": tuning.kind,
            "settings": tuning.settings,
            "recall": tuning.recall,
            "filtered": filtered,
        },
        "skipped": [[identity, reason] for _, identity, reason in skipped],
    }
    job.place.write(ABOUT, _json({**about, **told}))


def _questions(job: Job, sample: np.ndarray) -> dict[str, np.ndarray]:
    """What recall is measured with: what photographs and what words of customers may look like.

    A photograph is near a picture and is none: a picture with a fifth of another one. Words are captions, where the
    model has a tower for them.
    """
    from fclip.embedding import embed_texts

    first, second = sample[:ASKED], np.roll(sample, 1, axis=0)[:ASKED]
    blend = 0.8 * first + 0.2 * second
    asked = {"photographs": blend / np.maximum(np.linalg.norm(blend, axis=1, keepdims=True), 1e-12)}
    if getattr(job.model, "captions", None) is not None:
        every = max(1, len(job.catalogue) // ASKED)
        some = job.catalogue.select(range(0, len(job.catalogue), every))["attributes"][:ASKED]
        texts = sorted({job.model.captions.render(attributes) for attributes in some} - {""})
        if texts:
            asked["words"] = embed_texts(job.model, texts)
    return asked


def _drawn(catalogue: Dataset) -> list[str]:
    """Ids of `SAMPLE` pictures, drawn by a hash: the same ones of the same catalogue."""
    names = (name for part in ids(catalogue).chunks for name in part.to_pylist())
    return heapq.nsmallest(SAMPLE, names, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())


def ids(catalogue: Dataset) -> pa.ChunkedArray:
    """The ids of all rows."""
    return pa.chunked_array(catalogue.select_columns(["id"]).with_format("arrow")[:]["id"])


def column_of(rows: Store, name: str) -> pa.ChunkedArray:
    """A column of text of all rows of a store."""
    return pa.chunked_array([c for part in rows.scan([name]) for c in part[name].chunks], pa.string())


def first_of_each(names: pa.ChunkedArray) -> tuple[np.ndarray, Skipped]:
    """The first row of every id, and the rows whose id another one has already."""
    if pc.count_distinct(names).as_py() == len(names):
        return np.arange(len(names)), []
    seen: set[str] = set()
    first, doubles = [], []
    for row, name in enumerate(names.to_pylist()):
        if name in seen:
            doubles.append((row, name, "another picture has the same id"))
        else:
            first.append(row)
        seen.add(name)
    return np.array(first), doubles


def parts(rows: np.ndarray, batch_size: int) -> list[list[int]]:
    """Rows by the batch that they are in when all are embedded: what was killed is embedded again as it would be."""
    if not len(rows):
        return []
    cuts = np.flatnonzero(np.diff(rows // batch_size)) + 1
    return [part.tolist() for part in np.split(rows, cuts)]


def chunks(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of about `WRITTEN_AT_ONCE` rows."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= WRITTEN_AT_ONCE:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _place(checkpoint: str) -> str:
    """What `open_model` finds from any folder: a full path, also in NAME:FILE; a published name as it is."""
    name, colon, file = "", "", checkpoint
    if not Path(expand(checkpoint)).exists():
        name, colon, file = checkpoint.rpartition(":")  # also in image:NAME:FILE
    path = Path(expand(file))
    return f"{name}{colon}{path.resolve()}" if file and path.exists() else checkpoint


def _drop(place: Place, store: str) -> None:
    """Removes a store of the index and the sample that was drawn from it, if they are there."""
    place.remove(f"sample-{store.rpartition('-')[2]}.npy")
    with suppress(UserError):
        open_store(store_uri(place, {"store": store})).drop()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
