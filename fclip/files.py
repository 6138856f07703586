"""Paths, and writing so that nothing is ever half there: everything is written beside its place, then renamed into it.

    with new_folder("runs/mine") as folder:
        write_json(folder / "about.json", {"by": "me"})

Until the block ends well there is no runs/mine; a folder that is replaced is whole until its successor is, on the disk
and not only in memory. A process that is killed leaves `.mine.new-PID` or `.mine.old-PID`; `recover` clears that up.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fclip.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


def expand(path: str | Path) -> str:
    """`~` and environment variables; $FCLIP_DATA, where shared data lies, is ../shared/data unless it is set."""
    text = str(path)
    if "FCLIP_DATA" not in os.environ:
        text = re.sub(r"\$(FCLIP_DATA\b|\{FCLIP_DATA\})", "../shared/data", text)
    return os.path.expanduser(os.path.expandvars(text))


@contextmanager
def new_folder(target: str | Path, overwrite: bool = False, keep: str | Path | None = None) -> Iterator[Path]:
    """A folder to write to that takes the place of `target` when the block ends well, and vanishes when it does not.

    Args:
        target: the folder.
        overwrite: whether it may exist.
        keep: where the folder that is replaced goes, in place of what is there; None: it is deleted.

    Raises:
        UserError: the target exists and `overwrite` is False, it is no folder, its parent cannot be written, or the
            disk is full.
    """
    target = Path(target).resolve()  # what a link points at is replaced, not the link
    recover(target)
    if target.exists() and not target.is_dir():
        raise UserError(f"expected a folder to write, got a file: {target}; choose another name")
    if target.exists() and not overwrite:
        raise _exists(target)
    beside = target.with_name(f".{target.name}.new-{os.getpid()}")
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
    try:
        yield beside
        for path in [*beside.rglob("*"), beside]:
            _sync(path)
        _swap(beside, target, overwrite, None if keep is None else Path(keep).resolve())
    except Exception as error:
        if is_full(error):
            before = "what was there before is untouched" if target.exists() else "nothing was written"
            raise UserError(f"cannot write {target}: the disk is full; free some space; {before}") from None
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def recover(target: str | Path) -> None:
    """Clears up after a process that was killed while it wrote `target` by `new_folder`.

    A folder that had stepped aside goes back to its place, unless its successor is there; half-written ones vanish.
    """
    target = Path(target).resolve()
    for old in _left_behind(target, "old"):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    for half in _left_behind(target, "new"):
        shutil.rmtree(half, ignore_errors=True)


def _left_behind(target: Path, kind: str) -> list[Path]:
    """The folders beside `target` of processes that no longer live; a number that is ours now was another's before."""
    found = []
    for path in target.parent.glob(f".{target.name}.{kind}-*"):
        number = path.name.rpartition("-")[2]
        if number.isdigit() and (int(number) == os.getpid() or not _lives(int(number))):
            found.append(path)
    return found


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _swap(beside: Path, target: Path, overwrite: bool, keep: Path | None) -> None:
    """Renames `beside` to `target`; an old target steps aside first, so that one of the two is always whole.

    Of several processes that write one target at once, the last wins, or without `overwrite` the first.
    """
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    while True:
        if target.exists():
            if not overwrite:
                raise _exists(target)
            with suppress(FileNotFoundError):  # another process has moved it
                target.rename(old)
        try:
            beside.rename(target)
            break
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in TAKEN:  # another process was quicker
                shutil.rmtree(old, ignore_errors=True)
                continue
            if old.exists():
                old.rename(target)
            raise
    _sync(target.parent)
    if keep is not None and old.exists():
        _swap(old, keep, True, None)
    shutil.rmtree(old, ignore_errors=True)


def _exists(target: Path) -> UserError:
    return UserError(f"{target} exists already; remove it, choose another name, or replace it by --overwrite")


def _sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk: a renaming must not get there before it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: BaseException | None) -> bool:
    """Whether writing failed for lack of space: libraries raise errors of their own, with the system's behind or in."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return True
        if any(os.strerror(number) in str(error) for number in NO_SPACE):
            return True
        error = error.__cause__ or error.__context__
    return False


def writable(file: str | Path) -> Path:
    """Makes the folder of a file that will be written, to fail before the work rather than after it.

    Raises:
        UserError: the file is a folder, or it or its folder cannot be made or written.
    """
    file = Path(file)
    if file.is_dir():
        raise UserError(f"expected a file to write, got a folder: {file}; name a file in it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {file.parent}: {error.strerror}; choose another place") from None
    where = file.resolve().parent  # of a link, where it leads: files are written beside and renamed
    special = file.exists() and not file.is_file()  # /dev/stdout, a pipe
    if not (special or os.access(where, os.W_OK)) or (file.exists() and not os.access(file, os.W_OK)):
        raise UserError(f"cannot write {file}: it may not be written; choose another place")
    return file


def writable_folder(folder: str | Path, option: str) -> Path:
    """Makes a folder that will be written to, to fail before the work rather than after it.

    Args:
        option: what names another, e.g. "--out".

    Raises:
        UserError: it cannot be made, or not be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {folder}: {error.strerror or error}; choose another {option}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write in folder {folder}; choose another {option}")
    return folder


def write_bytes(file: str | Path, data: bytes) -> None:
    """Writes a file whole or not at all; what is no file (/dev/stdout, a pipe) is written to as it is.

    Raises:
        UserError: the folder does not exist or cannot be written.
    """
    special = Path(file).exists() and not Path(file).is_file()  # of a pipe, only the link to it can be written to
    file = Path(file) if special else Path(file).resolve()  # what a link points at is replaced, not the link
    beside = file.with_name(f".{file.name}.new-{os.getpid()}")
    try:
        if special:
            file.write_bytes(data)
        else:
            beside.write_bytes(data)
            beside.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}; choose another place") from None
    finally:
        with suppress(OSError):  # a disk that cannot be written
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


def sha256(file: Path) -> str:
    """The checksum of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
