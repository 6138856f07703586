"""The training program as real processes: killed without warning and resumed, and started as two machines."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fclip.checkpoint import damaged_file
from fclip.errors import UserError
from fclip.files import read_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PRESET = """
epochs: 4
batch_size: {batch_size}
save_every: 2
track: none
eval_limit: 8
model: {{name: "timm:test_resnet", image_size: [32, 32], tokenizer: trained, drop_path: 0.3,
         embed_dim: 16, text_width: 16, text_layers: 1, text_heads: 2}}
data: {{catalogue: ["drawn:20"], workers: 0}}
"""
DEADLINE_SECONDS = 240
LAUNCHES: dict[int, tuple[str, ...]] = {
    1: ("experiments.train",),
    2: ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "experiments.train"),
}


def start(folder: Path, out: str, launch: tuple[str, ...], *options: str, core: int | None = None) -> psutil.Popen:
    """Starts `python -m …` on the preset in `folder`, on one core of this machine or on all."""
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    return psutil.Popen(
        [sys.executable, "-m", *launch, str(folder / "preset.yaml"), f"out={folder / out}", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )


def finish(*runs: psutil.Popen) -> None:
    for run in runs:
        _, told = run.communicate(timeout=DEADLINE_SECONDS)
        assert run.returncode == 0, told


def kill_when(run: psutil.Popen, reached: Callable[[], bool]) -> None:
    """SIGKILL to the launcher and all its workers, at the instant that `reached` first is."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    for process in [run, *run.children(recursive=True)]:
        process.send_signal(signal.SIGKILL)
    run.communicate(timeout=DEADLINE_SECONDS)


def saved_step(last: Path) -> int:
    try:
        return read_json(last / "metrics.json", "")["step"]
    except UserError:
        return 0


def writes_over(last: Path) -> bool:
    """Whether a checkpoint is just being written beside one that is there."""
    return last.is_dir() and any(folder.is_dir() for folder in last.parent.glob(".last.new-*"))


def weights(folder: Path, out: str) -> dict[str, bytes]:
    return {name: (folder / out / name / "model.safetensors").read_bytes() for name in ("best", "last")}


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def uninterrupted(request, tmp_path_factory) -> tuple[Path, int]:
    """A folder with the finished run "whole", and the number of its processes."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "preset.yaml").write_text(PRESET.format(batch_size=8 // request.param))
    finish(start(folder, "whole", LAUNCHES[request.param]))
    return folder, request.param


def test_killed_at_a_step_and_while_it_saves_it_ends_as_if_it_had_not_been(uninterrupted):
    folder, processes = uninterrupted
    last, step = folder / "killed" / "last", random.Random(processes).choice([2, 4, 6, 8])
    kill_when(start(folder, "killed", LAUNCHES[processes]), lambda: saved_step(last) >= step)
    assert damaged_file(last) is None
    resume = ("--resume", str(last))
    kill_when(start(folder, "killed", LAUNCHES[processes], *resume), lambda: writes_over(last))
    finish(start(folder, "killed", LAUNCHES[processes], *resume))
    assert read_json(last / "metrics.json", "")["step"] == 16
    assert weights(folder, "killed") == weights(folder, "whole")
    assert not [path.name for path in last.parent.iterdir() if path.name.startswith(".")]


def test_two_machines_train_what_one_with_two_processes_does(uninterrupted):
    folder, processes = uninterrupted
    if processes == 1:
        pytest.skip("the comparison is with two processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The line of experiments/README.md. On CPUs accelerate starts it too, and does not know that there are no GPUs.
    options = ("--multi_gpu", "--num_machines=2", "--num_processes=2", "--main_process_ip=127.0.0.1")
    options += (f"--main_process_port={port}", "--mixed_precision=no", "--dynamo_backend=no", "-m", "experiments.train")
    machines = [("accelerate.commands.launch", f"--machine_rank={rank}", *options) for rank in (0, 1)]
    cores = sorted(os.sched_getaffinity(0))  # one thread for each process, as two processes on one machine have
    finish(*[start(folder, "machines", line, core=cores[rank % len(cores)]) for rank, line in enumerate(machines)])
    assert weights(folder, "machines") == weights(folder, "whole")
