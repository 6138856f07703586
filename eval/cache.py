"""Embeddings on the disk, so that a second protocol on the same pictures does not encode them again.

    python -m eval --cache /scratch/embeddings surfacing …    # or FCLIP_CACHE=/scratch/embeddings; --no-cache: none
    python -m eval cache --clear                              # what is there; and away with it

A file is a whole set of embeddings, not one a picture: their last bits depend on the pictures that went through the
model together, and a store by picture would let scores depend on what was measured before. A split is asked about again
and again as the same set, so this costs little.

FOLDER/MODEL-KIND-KEY.safetensors holds `vectors` (N, D) float32 and `rows` (N,), and as text what was skipped and a
checksum. It is written beside its place and renamed, so several processes may share a folder; damaged ones are computed
again. Beyond `LIMIT` bytes those go that were not used for longest. Nothing is kept outside of `cached`.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fclip.files import expand
from fclip.processes import everybody, is_main

if TYPE_CHECKING:
    from fclip.embedding import ImageEmbeddings

VARIABLE = "FCLIP_CACHE"
LIMIT = 8 << 30  # 4 million embeddings of width 512

_FOLDER: ContextVar[Path | None] = ContextVar("where embeddings are kept", default=None)


def default_folder() -> Path | None:
    """$FCLIP_CACHE, none when that is empty; else fclip/embeddings in the user's cache folder."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return Path(expand(chosen)) if chosen else None
    return Path(expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "fclip" / "embeddings"


@contextmanager
def cached(folder: Path | None) -> Iterator[None]:
    """Keeps what is embedded for a while. Models must be what their fingerprint says: opened, not trained since."""
    token = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(token)


def keeps(fingerprint: str) -> bool:
    """Whether embeddings of the model with this fingerprint are kept."""
    return _FOLDER.get() is not None and fingerprint not in ("", "unsaved")


def kept(name: str, compute: Callable[[], ImageEmbeddings]) -> ImageEmbeddings:
    """What is kept under a name, or what `compute` gives, which is kept then; all processes take the same way."""
    folder = _FOLDER.get()
    assert folder is not None, "ask `keeps` first"
    file = folder / f"{name}.safetensors"
    found = _read(file)
    if everybody(found is not None):
        assert found is not None
        return found
    found = compute()
    if is_main():
        _write(file, found)
    return found


def files(folder: Path) -> list[Path]:
    """The files of a cache, those unused for longest first."""
    return sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)


def clear(folder: Path) -> None:
    """Removes the files of a cache, and what killed processes left half written."""
    for file in [*folder.glob("*.safetensors"), *folder.glob(".*.safetensors.new-*")]:
        file.unlink(missing_ok=True)


def _read(file: Path) -> ImageEmbeddings | None:
    """A file's embeddings, mapped into memory; None when it is not there or damaged."""
    try:
        found = _mapped(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _warn(f"the kept embeddings {file} are damaged ({type(error).__name__}: {error}); they are computed again")
        return None
    with suppress(OSError):  # another user's cache may be read
        os.utime(file)  # used just now
    return found


def _mapped(file: Path) -> ImageEmbeddings:
    """Copies of pages that are written to stay in memory, so the arrays behave like any other."""
    import numpy as np

    from fclip.embedding import ImageEmbeddings

    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 0 < size < file.stat().st_size:
            raise ValueError("no header")
        header = json.loads(stream.read(size))
    about, arrays = json.loads(header["__metadata__"]["about"]), {}
    for name, kind in (("vectors", "F32"), ("rows", "I64")):
        if header[name]["dtype"] != kind:
            raise ValueError(f"{name} are {header[name]['dtype']}, not {kind}")
        place = 8 + size + header[name]["data_offsets"][0]
        dtype = {"F32": "<f4", "I64": "<i8"}[kind]
        arrays[name] = np.memmap(file, dtype, "c", place, tuple(header[name]["shape"])).view(np.ndarray)
    if _checksum(arrays["vectors"], arrays["rows"], about["skipped"]) != about["checksum"]:
        raise ValueError("the checksum differs")
    return ImageEmbeddings(arrays["vectors"], arrays["rows"], [(i, why) for i, why in about["skipped"]])


def _write(file: Path, found: ImageEmbeddings) -> None:
    """Writes a file whole or not at all; a disk that is full or read-only costs a line, not the measurement."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    vectors, rows = np.ascontiguousarray(found.vectors, np.float32), np.ascontiguousarray(found.rows, np.int64)
    about = {"skipped": found.skipped, "checksum": _checksum(vectors, rows, found.skipped)}
    beside = file.with_name(f".{file.name}.new-{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": vectors, "rows": rows}, beside, {"about": json.dumps(about)})
        beside.replace(file)
        _make_room(file)
    except (OSError, SafetensorError) as error:
        _warn(f"cannot keep embeddings in {file.parent}: {error}; name another folder with --cache, or none")
    finally:
        if file.parent.is_dir():
            beside.unlink(missing_ok=True)


def _make_room(newest: Path) -> None:
    others = [file for file in files(newest.parent) if file != newest]
    size = sum(file.stat().st_size for file in [newest, *others])
    for file in others:
        if size <= LIMIT:
            return
        size -= file.stat().st_size
        file.unlink(missing_ok=True)


def _checksum(vectors: Any, rows: Any, skipped: Sequence[Any]) -> str:
    return f"{zlib.crc32(json.dumps(skipped).encode(), zlib.crc32(rows, zlib.crc32(vectors))):08x}"


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)
