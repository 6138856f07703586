"""Files and folders: whole or not at all, and nothing left lying beside them."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fclip import files
from fclip.errors import UserError
from fclip.files import (
    expand,
    new_folder,
    read_json,
    recover,
    writable,
    writable_folder,
    write_bytes,
    write_json,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
ROOT = Path(__file__).parents[1]
PER_EXAMPLE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def fill(target: Path, text: str, overwrite: bool = False, error: type[BaseException] | None = None) -> None:
    with new_folder(target, overwrite) as folder:
        (folder / "a.txt").write_text(text)
        if error:
            raise error


def test_paths_are_expanded(monkeypatch):
    monkeypatch.delenv("FCLIP_DATA", raising=False)
    monkeypatch.delenv("NOBODY", raising=False)
    monkeypatch.setenv("SHOP", "/shop")
    assert expand("$FCLIP_DATA/catalogue") == "../shared/data/catalogue"
    assert expand("${FCLIP_DATA}/$SHOP") == "../shared/data//shop"
    assert expand("$FCLIP_DATA_OLD/x") == "$FCLIP_DATA_OLD/x"
    assert expand(Path("~/x")) == os.path.expanduser("~/x")
    assert expand("$NOBODY") == "$NOBODY"
    monkeypatch.setenv("FCLIP_DATA", "/data")
    assert expand("$FCLIP_DATA/catalogue") == "/data/catalogue"


def test_a_folder_appears_when_its_block_ends(tmp_path):
    target = tmp_path / "deep" / "er" / "new"
    with new_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("a")
        assert not target.exists()
    assert tree(target) == {"sub": None, "sub/a.txt": b"a"}
    assert [path.name for path in target.parent.iterdir()] == ["new"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_left_after_an_exception(tmp_path, error, there):
    target = tmp_path / "new"
    if there:
        fill(target, "old")
    before = tree(tmp_path)
    with pytest.raises(error):
        fill(target, "half", overwrite=True, error=error)
    assert tree(tmp_path) == before


def test_what_exists_is_replaced_only_on_request(tmp_path):
    fill(tmp_path / "new", "one")
    (tmp_path / "new" / "extra").touch()
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "new"):
        pass
    fill(tmp_path / "new", "two", overwrite=True)
    assert tree(tmp_path) == {"new": None, "new/a.txt": b"two"}


def test_a_reader_finds_one_of_the_two_whole(tmp_path, monkeypatch):
    """The old folder stays in place until the new one is complete, and steps back when the renaming fails."""
    target = tmp_path / "new"
    fill(target, "one")
    with new_folder(target, overwrite=True) as folder:
        (folder / "a.txt").write_text("two")
        assert (target / "a.txt").read_text() == "one"

    rename = Path.rename

    def full_disk(path: Path, to: Path) -> Path:
        if ".new-" in path.name:
            raise OSError("no space")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="no space"):
        fill(target, "three", overwrite=True)
    assert tree(tmp_path) == {"new": None, "new/a.txt": b"two"}


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    fill(tmp_path / "link", "one", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "a.txt").read_text() == "one"
    (tmp_path / "file").symlink_to(tmp_path / "disk" / "a.txt")
    write_text(tmp_path / "file", "two")
    assert (tmp_path / "disk" / "a.txt").read_text() == "two"


@pytest.mark.parametrize("target", ["file", "file/below"])
def test_a_folder_cannot_take_a_files_place(tmp_path, target):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"expected a folder|cannot write"), new_folder(tmp_path / target, True):
        pass
    assert tree(tmp_path) == {"file": b"mine"}


def test_a_name_without_folder_is_written_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(Path("new"), "one")
    write_text("b.txt", "two")
    assert tree(tmp_path) == {"new": None, "new/a.txt": b"one", "b.txt": b"two"}


@PER_EXAMPLE
@given(data=st.binary())
def test_bytes_come_back(tmp_path, data):
    write_bytes(tmp_path / "a", data)
    assert tree(tmp_path) == {"a": data}


@PER_EXAMPLE
@given(value=JSON, indent=st.sampled_from([None, 2]))
def test_json_comes_back(tmp_path, value, indent):
    write_json(tmp_path / "a.json", value, indent)
    assert read_json(tmp_path / "a.json", "a value") == value
    assert (tmp_path / "a.json").read_bytes().endswith(b"\n")
    assert indent or (tmp_path / "a.json").read_text().count("\n") == 1


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": {"b": -math.inf}}, {"a": object()}])
def test_what_json_cannot_say_is_refused_and_the_old_file_stays(tmp_path, value):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises((ValueError, TypeError), match="JSON"):
        write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert list(tree(tmp_path)) == ["a.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")

    def full_disk(path, data):
        with path.open("wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "write_bytes", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        write_text(tmp_path / "a.txt", "new")
    assert tree(tmp_path) == {"a.txt": b"old"}


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_text(tmp_path / "pipe", "through")
    reader.join(timeout=5)
    assert got == [b"through"]
    assert (tmp_path / "pipe").is_fifo()


def test_the_standard_output_into_a_pipe_is_written_to():
    program = "from fclip.files import *; write_text(writable('/dev/stdout'), 'through')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("through", "")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda folder: write_text(folder / "none" / "a.txt", "a"), "cannot write .*No such file"),
        (lambda folder: write_text(folder, "a"), "cannot write .*directory"),
        (lambda folder: writable(folder), "expected a file to write, got a folder"),
        (lambda folder: writable(folder / "a.txt" / "b.txt"), "cannot make folder"),
        (lambda folder: read_json(folder / "none.json", "a card"), "expected a card, found no file .*none.json"),
        (lambda folder: read_json(folder / "a.txt", "a card"), "expected a card in .*a.txt, cannot read it"),
        (lambda folder: read_json(folder, "a card"), "expected a card in .*cannot read it"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, act, message):
    (tmp_path / "a.txt").write_bytes(b"\xff {")
    with pytest.raises(UserError, match=message) as caught:
        act(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tree(tmp_path)) == ["a.txt"]


def test_the_place_of_a_file_is_made_before_the_work(tmp_path):
    assert writable(str(tmp_path / "deep" / "er" / "a.json")) == tmp_path / "deep" / "er" / "a.json"
    assert tree(tmp_path) == {"deep": None, "deep/er": None}


# Killed at any instant

KILLED = """
import itertools, json, os, signal, sys
from pathlib import Path
from fclip.files import new_folder, recover

root, keeps = Path(sys.argv[1]), sys.argv[2] == "True"

def write(target, keep, text):
    with new_folder(target, overwrite=True, keep=keep) as folder:
        for name in "ab":
            (folder / name).write_text(text)

def die_before(operation):
    left = itertools.count(1)
    def count(event, arguments):
        if event.partition(".")[0] in ("os", "open", "shutil") and next(left) == operation:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)

for operation in itertools.count(1):
    target, kept = (root / str(operation) / name for name in ("last", "kept"))
    write(target, kept, "older")
    write(target, kept, "old")
    child = os.fork()
    if not child:
        die_before(operation)
        write(target, kept if keeps else None, "new")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    recover(target)
    recover(kept)
    found = [[(folder / name).read_text() for name in "ab"] for folder in (target, kept)]
    print(json.dumps([status, *found, sorted(path.name for path in target.parent.iterdir())]))
    if not status:
        break
"""
"""Replaces a folder in a process that is killed before its first operation on files, then its second, …"""


@pytest.mark.parametrize("keeps", [False, True])
def test_a_process_killed_at_any_instant_leaves_the_old_or_the_new_folder(tmp_path, keeps):
    argv = [sys.executable, "-c", KILLED, str(tmp_path), str(keeps)]
    done = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True)
    *killed, unharmed = [json.loads(line) for line in done.stdout.splitlines()]
    old, new, older = (["old"] * 2, ["new"] * 2, ["older"] * 2)
    assert unharmed == [0, new, old if keeps else older, ["kept", "last"]]
    assert len(killed) > 10
    for status, now, before, names in killed:
        assert status == signal.SIGKILL
        assert (now, before) in [(old, older), (new, older), (new, old)]
        assert names == ["kept", "last"]


WRITERS = """
import os, sys
from pathlib import Path
from fclip.errors import UserError
from fclip.files import new_folder

def write(target, overwrite, mine, theirs):
    try:
        with new_folder(target, overwrite) as folder:
            (folder / "a").write_text("whole")
            os.write(theirs, b"x")
            os.read(mine, 1)  # both have written before one of them renames
    except UserError:
        os._exit(2)
    os._exit(0)

for number in range(int(sys.argv[3])):
    target, overwrite = Path(sys.argv[1], str(number)), sys.argv[2] == "True"
    (a, to_a), (b, to_b) = os.pipe(), os.pipe()
    for mine, theirs in ((a, to_b), (b, to_a)):
        if not os.fork():
            write(target, overwrite, mine, theirs)
    codes = sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2))
    assert codes in ([0, 0], [0, 2]) and (overwrite <= (codes == [0, 0])), codes
    assert [path.name for path in target.iterdir()] == ["a"], list(target.iterdir())
"""
"""Two processes write one folder at the same time, many times over."""


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_who_write_one_folder_at_once_the_last_wins_or_the_first(tmp_path, overwrite):
    argv = [sys.executable, "-c", WRITERS, str(tmp_path), str(overwrite), "30"]
    subprocess.run(argv, cwd=ROOT, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, range(30)))


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    mine = tmp_path / f".last.new-{os.getppid()}"
    mine.mkdir()
    recover(tmp_path / "last")
    assert mine.is_dir()


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_full_disk_is_one_line_and_what_was_there_stays(tmp_path, there, hidden):
    """Also where a library hides the system's error behind one of its own."""
    if there:
        fill(tmp_path / "new", "old")
    before = tree(tmp_path)

    def write(folder: Path) -> None:
        try:
            (folder / "a.txt").write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if hidden:
                raise RuntimeError("unexpected pos 704")  # noqa: B904
            raise

    told = r"cannot write .*new: the disk is full; free some space; "
    with pytest.raises(UserError, match=told), new_folder(tmp_path / "new", overwrite=True) as folder:
        write(folder)
    assert tree(tmp_path) == before


def test_what_may_not_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # for the superuser only a read-only disk is so
    with pytest.raises(UserError, match=r"cannot write .*a\.json: it may not be written; choose another place"):
        writable(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"cannot write in folder .*out; choose another --out"):
        writable_folder(tmp_path / "out", "--out")


@pytest.mark.parametrize("forbidden", ["a.json", "."])
def test_a_file_that_is_there_wants_its_folder_as_well(tmp_path, monkeypatch, forbidden):
    """It is written beside and renamed."""
    (tmp_path / "a.json").touch()
    kept = (tmp_path / forbidden).resolve()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).resolve() != kept)
    with pytest.raises(UserError, match=r"cannot write .*a\.json: it may not be written"):
        writable(tmp_path / "a.json")
    assert writable("/dev/null") == Path("/dev/null")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot make folder .*file/out: Not a directory; choose another out="):
        writable_folder(tmp_path / "file" / "out", "out=…")
    assert writable_folder(tmp_path / "new" / "out", "--out").is_dir()
