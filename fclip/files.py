"""Paths, and writing so that nothing is ever half there: everything is written beside its place, then renamed into it.

    with new_folder("runs/mine") as folder:
        write_json(folder / "about.json", {"by": "me"})

Until the block ends well there is no runs/mine; a folder that is replaced is whole until its successor is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fclip.errors import UserError


def expand(path: str | Path) -> str:
    """`~` and environment variables; $FCLIP_DATA, where shared data lies, is ../shared/data unless it is set."""
    text = str(path)
    if "FCLIP_DATA" not in os.environ:
        text = re.sub(r"\$(FCLIP_DATA\b|\{FCLIP_DATA\})", "../shared/data", text)
    return os.path.expanduser(os.path.expandvars(text))


@contextmanager
def new_folder(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write to that takes the place of `target` when the block ends well, and vanishes when it does not.

    Raises:
        UserError: the target exists and `overwrite` is False, it is no folder, or its parent cannot be written.
    """
    target = Path(target).resolve()  # what a link points at is replaced, not the link
    if target.exists() and not target.is_dir():
        raise UserError(f"expected a folder to write, got a file: {target}; choose another name")
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists already; remove it, choose another name or ask to overwrite")
    beside = target.with_name(f".{target.name}.new-{os.getpid()}")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
    try:
        yield beside
        _swap(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _swap(beside: Path, target: Path) -> None:
    """Renames `beside` to `target`; an old target steps aside first, so that one of the two is always whole."""
    if not target.exists():
        beside.rename(target)
        return
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    target.rename(old)
    try:
        beside.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def writable(file: str | Path) -> Path:
    """Makes the folder of a file that will be written, to fail before the work rather than after it.

    Raises:
        UserError: the file is a folder, or its folder cannot be made.
    """
    file = Path(file)
    if file.is_dir():
        raise UserError(f"expected a file to write, got a folder: {file}; name a file in it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {file.parent}: {error.strerror}; choose another place") from None
    return file


def write_bytes(file: str | Path, data: bytes) -> None:
    """Writes a file whole or not at all; what is no file (/dev/stdout, a pipe) is written to as it is.

    Raises:
        UserError: the folder does not exist or cannot be written.
    """
    file = Path(file).resolve()  # what a link points at is replaced, not the link
    beside = file.with_name(f".{file.name}.new-{os.getpid()}")
    try:
        if file.exists() and not file.is_file():
            file.write_bytes(data)
        else:
            beside.write_bytes(data)
            beside.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}; choose another place") from None
    finally:
        if beside.parent.is_dir():
            beside.unlink(missing_ok=True)


def write_text(file: str | Path, text: str) -> None:
    """As `write_bytes`, for text in UTF-8."""
    write_bytes(file, text.encode())


def write_json(file: str | Path, value: Any, indent: int | None = 2) -> None:
    """Writes JSON whole or not at all; NaN is refused, since no other reader takes it. No indent: one line."""
    write_text(file, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def read_json(file: str | Path, what: str) -> Any:
    """Reads JSON.

    Raises:
        UserError: the file is missing or no JSON; `what` says what it should have been.
    """
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"expected {what}, found no file {file}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"expected {what} in {file}, cannot read it: {error}") from None
