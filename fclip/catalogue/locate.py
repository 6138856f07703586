"""Where the pictures that a data set lists lie on this disk.

    >>> locate(Path("data/deepfashion"), ["img/MEN/Denim/id_00000080/01_1_front.jpg"])
    ['/…/data/deepfashion/Img/img/MEN/Denim/id_00000080/01_1_front.jpg']

Lists and archives disagree in two ways: in upper and lower case, and in a folder `Img` around `img`. Both are mended by
looking at each folder once. A picture that is not there keeps the path where it should be: it is counted and the first
are named here, `fclip catalogue` lists every one, and training skips it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

SHOWN = 5  # absent pictures that are named
Listing = Callable[[str], Mapping[str, str]]


def locate(root: Path, names: Sequence[str]) -> list[str]:
    """The absolute paths of listed pictures, in their order.

    Args:
        root: the folder of the data set.
        names: paths below it, with `/`; a name may come several times.
    """
    base = str(root.absolute())
    listed = cache(_listed)
    around = listed(base).get("Img") or listed(base).get("img")
    bases = [base, f"{base}/{around}"] if around else [base]
    found = {name: next(filter(None, (_walk(b, name, listed) for b in bases)), None) for name in dict.fromkeys(names)}
    absent = [name for name, path in found.items() if path is None]
    if absent:
        logging.getLogger(__name__).warning(
            "%d of %d pictures are listed but not below %s: %s%s",
            *(len(absent), len(found), root, ", ".join(absent[:SHOWN]), ", …" * (len(absent) > SHOWN)),
        )
    expected = bases[-1] if around and "img" in listed(bases[-1]) else base
    return [found[name] or f"{expected}/{name}" for name in names]


def _walk(base: str, name: str, listed: Listing) -> str | None:
    """The path of `name` below `base`, each part as the disk spells it; None if there is none."""
    path = base
    for part in name.split("/"):
        entries = listed(path)
        spelling = entries.get(part) or entries.get(part.lower())
        if spelling is None:
            return None
        path = f"{path}/{spelling}"
    return path


def _listed(folder: str) -> dict[str, str]:
    """What a folder holds, under its own spelling and in lower case; the own spelling wins."""
    try:
        entries = os.listdir(folder)
    except OSError:
        return {}
    return {entry.lower(): entry for entry in entries} | {entry: entry for entry in entries}
