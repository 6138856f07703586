"""The study's server, from STUDY.yaml to the end, and its rehearsal.

STUDY_MONITOR_TOKEN=… python -m user_study serve STUDY.yaml --port 8080
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import uvicorn

from fclip.serving.logs import LOG_CONFIG
from user_study.app import create_app
from user_study.config import Study, load_study
from user_study.exporting import answers_of
from user_study.rehearsal import Rehearsal, differences, painting_systems, recovered, visit
from user_study.store import Store, open_store, shared_photographs
from user_study.systems import Answering, open_systems

TOKEN = "STUDY_MONITOR_TOKEN"
READY_S = 60
SWITCH_S = 0.0005  # Python's 0.005 lets each thread that a page waits for, e.g. a system's, work ten times as long
KEEP_ALIVE_S = 75  # longer than a proxy keeps its connections (nginx: 60): it would send into one that we just closed


def open_study(file: str | Path, database: str | None) -> tuple[Study, Store]:
    """A study and its database; NAME.db beside the file when no other is named.

    Raises:
        UserError: either cannot be opened.
    """
    study = load_study(file)
    url = database or f"sqlite:///{Path(file).resolve().parent / study.name}.db"
    return study, open_store(url, study)


def serve(file: str | Path, database: str | None, host: str, port: int, rate_per_minute: float) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        UserError: the study, the database or a system cannot be opened.
    """
    from fclip.machine import tune_cpu

    study, store = open_study(file, database)
    shared_photographs(study)  # one that cannot be read is told now, not to the first participant
    tune_cpu()
    sys.setswitchinterval(SWITCH_S)
    monitor = os.environ.get(TOKEN, "")
    app = create_app(study, store, open_systems(study), monitor_token=monitor, rate_per_minute=rate_per_minute)
    told = f"the monitor at /monitor, password ${TOKEN}" if monitor else f"no monitor: set {TOKEN}"
    print(f"serving {study.name} at http://{host}:{port}; {told}; SIGTERM or Ctrl-C ends it", file=sys.stderr)
    try:
        uvicorn.run(app, host=host, port=port, log_config=LOG_CONFIG, access_log=False, server_header=False,
                    timeout_graceful_shutdown=20, timeout_keep_alive=KEEP_ALIVE_S)  # fmt: skip
    finally:
        store.engine.dispose()


@contextmanager
def served(study: Study, store: Store, systems: Mapping[str, Answering]) -> Iterator[str]:
    """A server in this process, on a port of its own; yields its address."""
    app = create_app(study, store, systems, rate_per_minute=0)
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=10, timeout_keep_alive=KEEP_ALIVE_S
        )
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            end = time.monotonic() + READY_S
            while not server.started and thread.is_alive() and time.monotonic() < end:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def served_apart(study: Study, database: str) -> Iterator[tuple[str, list[float]]]:
    """A server of painting systems in a process of its own, which the visitors' does not slow down but by its work.

    Yields: the address; a list that holds the server's seconds of a processor when it has ended.
    """
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve_painters, args=(study, database, there))
    process.start()
    there.close()
    seconds: list[float] = []
    try:
        yield here.recv(), seconds
        here.send(None)
        seconds.append(here.recv())
    finally:
        here.close()  # ends it too
        process.join()


def _serve_painters(study: Study, database: str, there: Connection) -> None:
    sys.setswitchinterval(SWITCH_S)
    store = open_store(database, study)
    with suppress(EOFError, OSError), served(study, store, painting_systems(study)) as url:
        began = time.process_time()
        there.send(url)
        there.recv()
        there.send(time.process_time() - began)
    store.engine.dispose()


def rehearse(
    study: Study,
    n: int,
    worths: Sequence[float] | None = None,
    at_once: int = 100,
    seed: int = 0,
    think_s: float = 0.0,
) -> Rehearsal:
    """Simulated participants through the application, on a database that is thrown away afterwards.

    Args:
        think_s: mean seconds before each click; 0: no pause at all.
    """
    study = replace(study, participants=n, filters=())
    shared_photographs(study)
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/rehearsal.db"
        with served_apart(study, database) as (url, server_s):
            began, cpu = time.perf_counter(), time.process_time()
            told, ms, wrong = visit(url, study, n, worths, at_once, seed, think_s)
            took, visitors_s = time.perf_counter() - began, time.process_time() - cpu
        store = open_store(database, study)
        try:
            answers, completed = answers_of(store), sum(store.places().completed)
        finally:
            store.engine.dispose()
    wrong += differences(answers, told)
    return Rehearsal(completed, wrong, ms, took, server_s[0], visitors_s, recovered(answers, study, worths))
