"""What is in a catalogue, and what is wrong with it: one look before hours of training.

    fclip catalogue $FCLIP_DATA/catalogue --json report.json --strict

`describe` counts and decodes, `problems` says in sentences what should be mended, `render` prints both.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fclip.catalogue.schema import SPLITS
from fclip.errors import UserError
from fclip.images import decode, encoded

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console

FREQUENT = 10  # values of a group that the report lists
SHOWN = 5  # examples of a problem that are printed
BATCH = 256  # pictures in memory at a time


def describe(catalogue: Dataset, check_images: bool = True, progress: bool = True) -> dict[str, Any]:
    """Counts a catalogue and looks for its faults.

    Args:
        catalogue: in the schema.
        check_images: whether to decode every picture; without, `images` is None.
        progress: shows a bar while decoding.

    Returns:
        JSON-able: pictures, items, splits, attributes, duplicate_ids, leaking_items, images.
    """
    facts = catalogue.remove_columns("image").with_format("arrow")[:]
    ids, items, splits = (facts[name].to_pylist() for name in ("id", "item", "split"))
    attributes = facts["attributes"].combine_chunks()
    return {
        "pictures": len(ids),
        "items": len(set(items)),
        "splits": _splits(items, splits),
        "attributes": {g.name: _group(attributes.field(g.name).to_pylist()) for g in attributes.type},
        "duplicate_ids": {id_: n for id_, n in Counter(ids).items() if n > 1},
        "leaking_items": _leaking(items, splits),
        "images": check_pictures(catalogue, progress) if check_images else None,
    }


def _splits(items: list[str], splits: list[str]) -> dict[str, dict[str, int]]:
    members = defaultdict(set)
    for item, split in zip(items, splits, strict=True):
        members[split].add(item)
    pictures = Counter(splits)
    order = [*SPLITS, *sorted(pictures.keys() - set(SPLITS))]
    return {s: {"pictures": pictures[s], "items": len(members[s])} for s in order if pictures[s]}


def _group(values: list[Any]) -> dict[str, Any]:
    """Counts one attribute group; every value of a list counts."""
    known = [v for value in values if value is not None for v in (value if isinstance(value, list) else [value])]
    counts = Counter(known)
    return {
        "values": len(counts),
        "frequent": dict(counts.most_common(FREQUENT)),
        "missing": sum(value is None for value in values),
    }


def _leaking(items: Iterable[str], splits: Iterable[str]) -> dict[str, list[str]]:
    """Products in more than one split: what a model learnt of them in training spoils the measurement.

    A query and its answer in the gallery are one product: together these two are one split.
    """
    seen = defaultdict(set)
    for item, split in zip(items, splits, strict=True):
        seen[item].add(split)
    return {item: sorted(found) for item, found in seen.items() if len(found) > 1 and found != {"query", "gallery"}}


def check_pictures(catalogue: Dataset, progress: bool = True) -> dict[str, Any]:
    """Decodes every picture, several at a time.

    Returns:
        `unreadable`: [{id, reason}]; `width`, `height`: {min, median, max} in pixels; `identical`: groups of ids whose
        files are the same byte for byte; `identical_across_splits`: those groups that are in several splits.
    """
    from rich.console import Console
    from rich.progress import track

    columns = catalogue.select_columns(["id", "image", "split"])
    batches = track(
        columns.iter(batch_size=BATCH),
        "Decoding pictures",
        total=-(-len(columns) // BATCH),
        console=Console(stderr=True),
        disable=not progress,
    )
    unreadable, sizes = [], []
    same = defaultdict(list)  # hash → (id, split) of the pictures
    with ThreadPool() as pool:
        for batch in batches:
            for id_, split, found in zip(batch["id"], batch["split"], pool.map(_check, batch["image"]), strict=True):
                if isinstance(found, str):
                    unreadable.append({"id": id_, "reason": found})
                else:
                    sizes.append(found[0])
                    same[found[1]].append((id_, split))
    twins = [group for group in same.values() if len(group) > 1]
    return {
        "unreadable": unreadable,
        "width": _spread([width for width, _ in sizes]),
        "height": _spread([height for _, height in sizes]),
        "identical": [[id_ for id_, _ in group] for group in twins],
        "identical_across_splits": [[id_ for id_, _ in g] for g in twins if len({split for _, split in g}) > 1],
    }


def _check(cell: Mapping[str, Any]) -> tuple[tuple[int, int], bytes] | str:
    """Size in pixels and hash of a picture, or why it cannot be read."""
    try:
        data = encoded(cell)
        return decode({**cell, "bytes": data}).size, hashlib.blake2b(data, digest_size=16).digest()
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        return f"cannot read {cell['path'] or 'a picture without path or bytes'}: {reason}"
    except UserError as error:
        return str(error)


def _spread(values: list[int]) -> dict[str, float] | None:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)} if values else None


def problems(report: Mapping[str, Any]) -> list[str]:
    """The faults in a report, a sentence each, the gravest first; an empty list for a sound catalogue."""
    images = report["images"] or {"unreadable": [], "identical_across_splits": []}
    found = [
        ("pictures cannot be read", [f"{bad['id']} ({bad['reason']})" for bad in images["unreadable"]]),
        ("products are in several splits", [f"{i} ({', '.join(s)})" for i, s in report["leaking_items"].items()]),
        ("identical pictures are in several splits", [" = ".join(ids) for ids in images["identical_across_splits"]]),
        ("ids occur more than once", [f"{id_} ({n} times)" for id_, n in report["duplicate_ids"].items()]),
    ]
    return [
        f"{len(cases)} {what}: {'; '.join(cases[:SHOWN])}{'; …' * (len(cases) > SHOWN)}"
        for what, cases in found
        if cases
    ]


def render(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints a report.

    Args:
        report: of `describe`.
        console: where to; None: standard output.
    """
    from rich.console import Console
    from rich.markup import escape

    console = console or Console()
    console.print(f"[bold]{report['pictures']:,}[/] pictures of [bold]{report['items']:,}[/] products")
    rows = [(s, f"{n['pictures']:,}", f"{n['items']:,}") for s, n in report["splits"].items()]
    console.print(_table(("split", "pictures", "products"), rows))
    groups = report["attributes"].items()
    if groups:
        values = [(g, f"{c['values']:,}", f"{c['missing']:,}", _frequent(c["frequent"])) for g, c in groups]
        console.print(_table(("attribute", "values", "unknown", "most frequent"), values))
    images = report["images"]
    if images and images["width"]:
        sides = [
            f"{s} {x['min']} to {x['max']} px (median {x['median']:g})"
            for s in ("width", "height")
            for x in [images[s]]
        ]
        console.print("; ".join(sides))
    for sentence in problems(report):
        console.print(f"[yellow]![/] {escape(sentence)}", soft_wrap=True)
    if not problems(report):
        console.print("[green]no faults found[/]" + ("" if images else " (pictures not checked)"))


def _frequent(counts: Mapping[str, int]) -> str:
    shown = list(counts.items())[:SHOWN]
    return ", ".join(f"{value} {n:,}" for value, n in shown) + (", …" if len(counts) > SHOWN else "")


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(name, justify="right" if name in ("pictures", "products", "values", "unknown") else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
