"""The study's server, from STUDY.yaml to the end, and its rehearsal.

STUDY_MONITOR_TOKEN=… python -m user_study serve STUDY.yaml --port 8080
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import uvicorn

from fclip.serving.logs import LOG_CONFIG
from user_study.app import create_app
from user_study.config import Study, load_study
from user_study.exporting import answers_of
from user_study.rehearsal import PaintingSystem, Rehearsal, differences, painting_systems, recovered, visit
from user_study.store import Store, open_store
from user_study.systems import Answering, open_systems

TOKEN = "STUDY_MONITOR_TOKEN"
READY_S = 60


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
    tune_cpu()
    monitor = os.environ.get(TOKEN, "")
    app = create_app(study, store, open_systems(study), monitor_token=monitor, rate_per_minute=rate_per_minute)
    told = f"the monitor at /monitor, password ${TOKEN}" if monitor else f"no monitor: set {TOKEN}"
    print(f"serving {study.name} at http://{host}:{port}; {told}; SIGTERM or Ctrl-C ends it", file=sys.stderr)
    try:
        uvicorn.run(app, host=host, port=port, log_config=LOG_CONFIG, access_log=False, server_header=False,
                    timeout_graceful_shutdown=20)  # fmt: skip
    finally:
        store.engine.dispose()


@contextmanager
def served(study: Study, store: Store, systems: Mapping[str, Answering]) -> Iterator[str]:
    """A server in this process, on a port of its own; yields its address."""
    app = create_app(study, store, systems, rate_per_minute=0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=10))
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


def rehearse(
    study: Study, n: int, worths: Sequence[float] | None = None, at_once: int = 100, seed: int = 0
) -> Rehearsal:
    """Simulated participants through the application, on a database that is thrown away afterwards."""
    study, began = replace(study, participants=n, filters=()), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/rehearsal.db", study)
        try:
            systems: dict[str, PaintingSystem] = painting_systems(study)
            with served(study, store, systems) as url:
                told, ms, wrong = visit(url, study, n, worths, at_once, seed)
            answers, completed = answers_of(store), sum(store.places().completed)
        finally:
            store.engine.dispose()
    wrong += differences(answers, told)
    p50, p95 = (float(value) for value in np.percentile(ms, (50, 95))) if ms else (0.0, 0.0)
    shares = recovered(answers, study, worths)
    return Rehearsal(completed, wrong, len(ms), p50, p95, max(ms, default=0), time.perf_counter() - began, shares)
