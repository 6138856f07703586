"""What training has seen of the test: shared products, copied pictures, nearly equal pictures.

    python -m eval leaks --catalogue data/catalogue --json leaks.json --sheet leaks.png
    python -m eval leaks --catalogue train/ --catalogue test/ --checkpoint fashionclip --strict

Every two splits are compared (train with test, query with gallery, …), and no picture with its own split:

    products    in both splits; not of query and gallery, which share them on purpose
    identical   files equal byte for byte, or pixels equal after decoding
    near        perceptual hashes that differ in at most `bits` of 256 (`eval.near_duplicates`)
    similar     with a checkpoint: cosine of the embeddings of at least `cosine`
    conflicts   of the pairs above: attribute groups in which both have a value, and another one

A pair is told once, by the strongest of identical (bytes, then pixels), near and similar. Plain pictures (one colour)
have no low frequencies to tell apart: only exact copies of them count.

The result: schema, protocol, catalogue, command, bits, cosine, model (None without a checkpoint), counts {pictures,
unreadable, plain, splits {name: pictures}}, found {"train–test": {products, bytes, pixels, near, similar, conflicts}},
products {"train–test": [names]}, pairs [{kind, splits, rows, ids, items, distance, cosine, conflicts}] (worst first,
at most `MOST_PAIRS`), skipped [[id, reason]].
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.near_duplicates import MOST_BITS, Hashes, cosine_pairs, hash_pairs, perceptual_hash
from eval.subject import SCHEMA, command, embed_images, write_result
from fclip.errors import UserError
from fclip.files import writable
from fclip.processes import on_device

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.images import Source

KINDS = ("bytes", "pixels", "near", "similar")  # the gravest first
MOST_PAIRS = 10_000  # in the JSON; counts are of all
SHEET_PAIRS = 24
BATCH = 256  # pictures in memory at a time
QUERIES = {"query", "gallery"}


@dataclass
class Looks:
    """What the N pictures of a catalogue look like; what cannot be read has hash 0 and is not `read`."""

    read: NDArray[np.bool_]  # (N,)
    plain: NDArray[np.bool_]  # (N,) one colour all over
    data: list[bytes]  # (N,) checksum of the file
    pixels: list[bytes]  # (N,) checksum of size and pixels
    hashes: Hashes  # (N, 32)
    skipped: list[list[str]]
    vectors: NDArray[np.float32] | None = None  # (n, D) of `rows`
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


Pairs = dict[tuple[int, int], dict[str, Any]]
"""(row, row) → {kind, distance, cosine}."""


def run_leaks(
    catalogue: str | Path | Sequence[str | Path],
    *,
    checkpoint: str | Path | None = None,
    bits: int = 8,
    cosine: float = 0.98,
    out: str | Path | None = None,
    sheet: str | Path | None = None,
    catalogue_format: str | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """Looks for leaks between the splits of one or several catalogues.

    Args:
        catalogue: one or several; of several, every picture keeps the split that it has there.
        checkpoint: a model whose embeddings are compared too.
        bits: hashes that differ in at most so many of 256 are near, 0 … 15.
        cosine: embeddings of at least this cosine are similar.
        out: the JSON file. None writes nothing.
        sheet: a PNG of the worst pairs.
        catalogue_format: of the catalogues, recognised when None.
        batch_size, progress: of embedding.

    Raises:
        UserError: there is only one split, bits or cosine are out of range, or a path is not usable.
    """
    from fclip.catalogue.kinds import word_groups

    if not 0 <= bits <= MOST_BITS or not 0 < cosine <= 1:
        raise UserError(f"expected bits in 0 … {MOST_BITS} and a cosine in 0 … 1, got {bits} and {cosine}")
    targets = [None if path is None else writable(path) for path in (out, sheet)]
    paths = [str(catalogue)] if isinstance(catalogue, (str, Path)) else [str(path) for path in catalogue]
    whole = _open(paths, catalogue_format)
    splits = np.array(whole["split"][:])
    if len(names := list(dict.fromkeys(splits.tolist()))) < 2:
        raise UserError(f"expected at least two splits, got only {names[0]}; name the other's catalogue too")
    model = None
    if checkpoint is not None:
        from fclip.pretrained import open_model

        model = on_device(open_model(checkpoint, word_groups(whole)))
    looks = look(whole, progress)
    if model is not None:
        images = embed_images(model, whole, batch_size=batch_size, progress=progress)
        looks.vectors, looks.rows = images.vectors, np.asarray(images.rows, np.int64)
    result = _result(whole, splits, looks, bits, cosine)
    result["catalogue"] = paths
    result["model"] = None if model is None else {"name": model.name, "fingerprint": model.fingerprint}
    options: dict[str, Any] = {
        "catalogue": paths,
        "checkpoint": checkpoint,
        "bits": bits,
        "cosine": cosine,
        "format": catalogue_format,
    }
    result["command"] = command("leaks", options | {"json": out, "sheet": sheet})
    write_result(targets[0], result)
    if targets[1] is not None:
        draw_sheet(whole, result["pairs"], targets[1])
    return result


def _open(paths: Sequence[str], catalogue_format: str | None) -> Dataset:
    """Several catalogues one after the other. Opened as one, shared products would move into one split."""
    from datasets import concatenate_datasets

    from fclip.catalogue import open_catalogue
    from fclip.catalogue.assemble import align

    parts = [open_catalogue(path, format=catalogue_format) for path in paths]
    return parts[0] if len(parts) == 1 else concatenate_datasets(align(parts))


def look(whole: Dataset, progress: bool = False) -> Looks:
    """Decodes every picture once, several at a time."""
    from tqdm.auto import tqdm

    n = len(whole)
    looks = Looks(np.zeros(n, bool), np.zeros(n, bool), [b""] * n, [b""] * n, np.zeros((n, 32), np.uint8), [])
    cells = whole.select_columns(["id", "image"])
    with ThreadPool() as pool, tqdm(total=n, desc="hashing", unit="img", disable=not progress) as bar:
        row = 0
        for batch in cells.iter(batch_size=BATCH):
            for name, found in zip(batch["id"], pool.map(_look, batch["image"]), strict=True):
                if isinstance(found, str):
                    looks.skipped.append([str(name), found])
                else:
                    looks.read[row] = True
                    looks.data[row], looks.pixels[row], looks.hashes[row], looks.plain[row] = found
                row += 1
            bar.update(len(batch["id"]))
    return looks


def _look(cell: Mapping[str, Any]) -> tuple[bytes, bytes, Hashes, bool] | str:
    from fclip.images import decode, encoded

    try:
        data = encoded(cell)
        picture = decode({**cell, "bytes": data})
    except (OSError, ValueError) as error:
        return str(error)
    shown = repr(picture.size).encode() + picture.tobytes()
    plain = len(picture.getcolors(1) or []) == 1
    return _digest(data), _digest(shown), perceptual_hash(picture), plain


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def find_pairs(looks: Looks, first: NDArray[np.int64], second: NDArray[np.int64], bits: int, cosine: float) -> Pairs:
    """Pairs of a picture of the first rows and one of the second, each by its gravest kind."""
    pairs: Pairs = {}
    first, second = first[looks.read[first]], second[looks.read[second]]
    for kind, digests in (("bytes", looks.data), ("pixels", looks.pixels)):
        own = defaultdict(list)
        for row in first.tolist():
            own[digests[row]].append(row)
        for row in second.tolist():
            for other in own.get(digests[row], ()):
                pairs.setdefault((other, row), {"kind": kind, "distance": 0, "cosine": None})
    shaped = [rows[~looks.plain[rows]] for rows in (first, second)]
    a, b, distance = hash_pairs(looks.hashes[shaped[0]], looks.hashes[shaped[1]], bits)
    for row, other, far in zip(shaped[0][a].tolist(), shaped[1][b].tolist(), distance.tolist(), strict=True):
        pairs.setdefault((row, other), {"kind": "near", "distance": far, "cosine": None})
    if looks.vectors is not None:
        _add_similar(pairs, looks, looks.vectors, shaped, cosine)
    return pairs


def _add_similar(
    pairs: Pairs, looks: Looks, vectors: NDArray[np.float32], rows: Sequence[NDArray[np.int64]], cosine: float
) -> None:
    place = np.full(len(looks.read), -1)
    place[looks.rows] = np.arange(len(looks.rows))
    known = [of[place[of] >= 0] for of in rows]
    try:
        a, b, cosines = cosine_pairs(vectors[place[known[0]]], vectors[place[known[1]]], cosine)
    except ValueError as error:
        raise UserError(f"cannot compare embeddings: {error}") from None
    for row, other, near in zip(known[0][a].tolist(), known[1][b].tolist(), cosines.tolist(), strict=True):
        pairs.setdefault((row, other), {"kind": "similar", "distance": None, "cosine": None})["cosine"] = round(near, 6)


def _result(whole: Dataset, splits: NDArray[Any], looks: Looks, bits: int, cosine: float) -> dict[str, Any]:
    facts = whole.select_columns(["id", "item", "attributes"])[:]
    names = list(dict.fromkeys(splits.tolist()))
    found, products, listed = {}, {}, []
    for one, two in combinations(sorted(names, key=_order), 2):
        rows = [np.flatnonzero(splits == name) for name in (one, two)]
        shared = set.intersection(*({facts["item"][row] for row in of} for of in rows))
        pairs = find_pairs(looks, rows[0], rows[1], bits, cosine)
        told = [_pair(key, pair, facts, (one, two)) for key, pair in pairs.items()]
        title = f"{one}–{two}"
        products[title] = [] if {one, two} == QUERIES else sorted(map(str, shared))
        found[title] = {"products": len(products[title])}
        found[title] |= {kind: sum(pair["kind"] == kind for pair in told) for kind in KINDS}
        found[title]["conflicts"] = sum(bool(pair["conflicts"]) for pair in told)
        listed += told
    listed.sort(key=lambda p: (KINDS.index(p["kind"]), p["distance"] or 0, -(p["cosine"] or 0), p["ids"]))
    counts = {"pictures": len(whole), "unreadable": len(looks.skipped), "plain": int(looks.plain.sum()),
              "splits": {name: int((splits == name).sum()) for name in names}}  # fmt: skip
    result = {"schema": SCHEMA, "protocol": "leaks", "bits": bits, "cosine": cosine, "counts": counts, "found": found}
    return result | {"products": products, "pairs": listed[:MOST_PAIRS], "skipped": looks.skipped}


def _order(split: str) -> int:
    from fclip.catalogue.schema import SPLITS

    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def _pair(
    rows: tuple[int, int], pair: Mapping[str, Any], facts: Mapping[str, Any], splits: tuple[str, str]
) -> dict[str, Any]:
    first, second = (facts["attributes"][row] or {} for row in rows)
    return {
        **pair,
        "splits": list(splits),
        "rows": list(rows),
        "ids": [str(facts["id"][row]) for row in rows],
        "items": [str(facts["item"][row]) for row in rows],
        "conflicts": {
            group: [value, second[group]]
            for group, value in first.items()
            if value and second.get(group) and _values(value) != _values(second[group])
        },
    }


def _values(value: Any) -> set[str]:
    return {value} if isinstance(value, str) else set(value)


def is_found(result: Mapping[str, Any]) -> bool:
    """Whether anything leaks."""
    return any(number for found in result["found"].values() for number in found.values())


def draw_sheet(whole: Dataset, pairs: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Writes the worst pairs side by side.

    Raises:
        UserError: the file cannot be written.
    """
    from fclip.contact_sheet import pair_sheet, save_contact_sheet

    column = whole.select_columns(["image"])
    shown: list[tuple[Sequence[Source], Sequence[Sequence[str]]]] = []
    for pair in pairs[:SHEET_PAIRS]:
        by = {"near": f"{pair['distance']} bits differ", "similar": f"cosine {pair['cosine']}"}
        differ = "; ".join(f"{group}: {one} / {two}" for group, (one, two) in pair["conflicts"].items())
        words = [(f"{split}: {name}", f"{by.get(pair['kind'], 'same ' + pair['kind'])}", differ)
                 for split, name in zip(pair["splits"], pair["ids"], strict=True)]  # fmt: skip
        shown.append(([column[row]["image"] for row in pair["rows"]], words))
    save_contact_sheet(path, pair_sheet(f"{len(pairs)} pairs of pictures in two splits", shown))
