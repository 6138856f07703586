"""The server's process, or processes, from the settings to the end."""

from __future__ import annotations

import logging.config
import os
import socket
import sys
import tempfile
from typing import Any

import uvicorn

from fclip.errors import UserError
from fclip.serving.logs import LOG_CONFIG
from fclip.serving.metrics import SHARED
from fclip.serving.settings import Settings

FACTORY = "fclip.serving.app:from_environment"
WORKER_STARTS_S = 120  # a large model is read in


def run(chosen: Settings, host: str, port: int, workers: int = 1) -> None:
    """Serves until SIGTERM or SIGINT, then answers the requests under way.

    Args:
        chosen: of all processes.
        host, port: where.
        workers: processes. Each opens index and model by itself, a copy on its own.

    Raises:
        UserError: no index or model, a model that is not the index's, or a port that is taken.
    """
    from fclip.serving.app import create_app, open_recommender

    _check_free(host, port)
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "log_config": LOG_CONFIG,
        "access_log": False,  # it would hold addresses
        "server_header": False,
        "timeout_graceful_shutdown": chosen.shutdown_seconds,
        "timeout_worker_healthcheck": WORKER_STARTS_S,
    }
    if workers > 1:
        os.environ["LOCAL_WORLD_SIZE"] = str(workers)  # they share the cores, see `tune_cpu`
    logging.config.dictConfig(LOG_CONFIG)  # uvicorn does so too late for what is said of the encoder
    recommender = open_recommender(chosen)  # one line and exit code 2 now, rather than a traceback in every process
    print(f"serving {chosen.index} at http://{host}:{port}; SIGTERM or Ctrl-C ends it", file=sys.stderr)
    if workers == 1:
        uvicorn.run(create_app(recommender, chosen), **options)
        return
    del recommender
    os.environ.update(chosen.to_environment())
    with tempfile.TemporaryDirectory() as shared:
        os.environ.setdefault(SHARED, shared)
        uvicorn.run(FACTORY, factory=True, workers=workers, **options)


def _check_free(host: str, port: int) -> None:
    """Raises UserError when nothing can listen there: uvicorn would load the model first."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"cannot listen at {host}:{port}: {reason}; choose another --host or --port") from None
