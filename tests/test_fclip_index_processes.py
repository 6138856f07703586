"""Indexes and real processes: killed without warning, several at once, readers while one writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from datasets import Dataset

from fclip.catalogue.drawn import draw_catalogue
from fclip.catalogue.storage import load_catalogue, save_catalogue
from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.index import open_index
from fclip.indexing import build_index
from fclip.machine import tune_products
from fclip.processes import on_device

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DEADLINE_SECONDS = 300
BATCH = 4
SMALL_WRITES = """
import runpy, sys
import fclip.indexing
import fclip.index_updates
fclip.indexing.WRITTEN_AT_ONCE = fclip.index_updates.WRITTEN_AT_ONCE = {batch}
from fclip.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory, build) -> Path:
    """A folder with a catalogue of 80 pictures, a model, and a program that writes a batch at a time."""
    folder = tmp_path_factory.mktemp("shop")
    save_catalogue(draw_catalogue(items=40, views=2, size_px=32), folder / "garments")
    save_checkpoint(build(), folder / "model")
    (folder / "small_writes.py").write_text(SMALL_WRITES.format(batch=BATCH))
    return folder


def start(shop: Path, out: Path, *options: str, garments: str = "garments", processes: int = 1) -> psutil.Popen:
    program = [str(shop / "small_writes.py")]
    if processes > 1:
        program = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *program]
    words = ["index", "--checkpoint", shop / "model", "--catalogue", shop / garments, "--out", out]
    return psutil.Popen(
        [sys.executable, *program, *map(str, words), "--batch-size", str(BATCH), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # One core, one thread, as torchrun gives each of several processes: more sum in another order.
        preexec_fn=partial(os.sched_setaffinity, 0, {min(os.sched_getaffinity(0))}) if processes == 1 else None,
    )


def finish(run: psutil.Popen) -> str:
    _, told = run.communicate(timeout=DEADLINE_SECONDS)
    assert run.returncode == 0, told
    return told


def kill_when(run: psutil.Popen, reached: Callable[[], bool]) -> None:
    """SIGKILL to the process, and to all that it started, at the instant that `reached` first is."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    for process in [run, *run.children(recursive=True)]:
        process.send_signal(signal.SIGKILL)
    run.communicate(timeout=DEADLINE_SECONDS)


def versions(store: Path) -> int:
    """How often a store was written."""
    return len(list(store.glob("*.lance/_versions/*.manifest")))


def contents(out: Path) -> dict[str, tuple]:
    """All that an index says of each picture; a picture that is there twice is an error."""
    index = open_index(out)
    columns = ["id", "item", "picture", "facts", "thumbnail", "vector", *(g.column for g in index.schema.values())]
    rows = [row for part in index.store.scan(columns) for row in part.to_pylist()]
    found = {row["id"]: tuple(map(str, row.values())) for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
def whole(shop) -> dict[str, tuple]:
    """What one process that nobody disturbs writes, to the last bit: memory format and who multiplies count."""
    tune_products()
    model = on_device(load_checkpoint(shop / "model"))
    build_index(shop / "whole", model, load_catalogue(shop / "garments"), batch_size=BATCH)
    return contents(shop / "whole")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_build_is_resumed_with_all_that_it_had_written(shop, whole, tmp_path, processes) -> None:
    out = tmp_path / "index"
    kill_when(start(shop, out, processes=processes), lambda: versions(out / "pictures-1") >= 5)
    assert not (out / "index.json").exists()
    kill_when(start(shop, out, "--resume", processes=processes), lambda: versions(out / "pictures-1") >= 9)
    finish(start(shop, out, "--resume", processes=processes))
    assert contents(out) == whole
    assert not (out / "building.json").exists()


def test_two_processes_build_the_index_of_one(shop, whole, tmp_path) -> None:
    told = finish(start(shop, tmp_path / "index", processes=2))
    assert contents(tmp_path / "index") == whole
    assert told.count("80 pictures in ") == 1
    about = [json.loads((folder / "index.json").read_text()) for folder in (tmp_path / "index", shop / "whole")]
    for one in about:
        del one["checkpoint"]
    assert about[0] == about[1]
    assert (tmp_path / "index" / "sample-1.npy").read_bytes() == (shop / "whole" / "sample-1.npy").read_bytes()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_update_leaves_an_index_and_the_next_does_the_rest(shop, whole, tmp_path, processes) -> None:
    out, garments = tmp_path / "index", load_catalogue(shop / "garments")
    some = garments.select([row for row in range(80) if row % 2 or row < 16])
    swapped = some.to_list()
    for row in range(0, 40, 2):  # other pictures than they should have
        swapped[row]["image"] = swapped[row + 1]["image"]
    build_index(out, load_checkpoint(shop / "model"), Dataset.from_list(swapped, features=some.features))
    before = versions(out / "pictures-1")
    kill_when(start(shop, out, "--update", processes=processes), lambda: versions(out / "pictures-1") >= before + 3)
    between = contents(out)
    assert set(some["id"][:]) <= between.keys() <= set(garments["id"][:])
    assert open_index(out).search(np.ones(16, np.float32))
    told = finish(start(shop, out, "--update", processes=processes))
    assert "0 removed; 80 pictures in " in told
    found = contents(out)
    assert found.keys() == whole.keys()
    for name, values in whole.items():
        assert found[name][:5] + found[name][6:] == values[:5] + values[6:]
        ours, theirs = (np.array(json.loads(one[5])) for one in (found[name], values))
        assert ours == pytest.approx(theirs, abs=1e-6)  # of a batch of another size


READER = """
import sys, time
import numpy as np
from fclip.index import open_index
index = open_index(sys.argv[1])
rng, seen, deadline = np.random.default_rng(int(sys.argv[2])), 0, time.monotonic() + 300
while seen < 80 and time.monotonic() < deadline:
    answers = index.search(rng.normal(size=16), k=5, where={"colour": {"not": ["nowhere"]}})
    assert len(answers) == 5 and all(answer.thumbnail for answer in answers), answers
    assert len(index.candidates(rng.normal(size=16).astype("f4"), 8).vectors) == 8
    assert sum(index.values("category").values()) >= 16
    assert len(index) >= seen, "pictures vanished"
    seen = len(index)
assert seen == 80, seen
"""


def test_two_read_while_one_writes(shop, tmp_path) -> None:
    out, garments = tmp_path / "index", load_catalogue(shop / "garments")
    build_index(out, load_checkpoint(shop / "model"), garments.select(range(16)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, str(out), str(n)], env=environment, stderr=subprocess.PIPE)
        for n in range(2)
    ]
    finish(start(shop, out, "--update"))
    for reader in readers:
        _, told = reader.communicate(timeout=DEADLINE_SECONDS)
        assert reader.returncode == 0, told.decode()
