"""`fclip serve`: an index over HTTP."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Annotated

import typer

from fclip.errors import UserError

LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="Its folder, or the address of a store.")],
    host: Annotated[str, typer.Option(help="0.0.0.0: reachable from other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each holds the model.")] = 1,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The model, when it has moved since indexing.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Weights of 8 bits, where recall on the index's own products stays.")
    ] = False,
) -> None:
    """Answer questions over HTTP: /search, /similar, /feedback, /items, /facets; OpenAPI at /openapi.json.

    \b
    fclip serve garments-index
    FCLIP_API_KEY=… fclip serve garments-index --host 0.0.0.0 --workers 4

    Limits are variables of the environment (FCLIP_MAX_IMAGES, FCLIP_RATE_PER_MINUTE …); fclip/serving/README.md lists
    them. One line of JSON for each request goes to stdout. SIGTERM ends it when the requests under way are answered.
    """
    require_serving()
    from fclip.serving.running import run
    from fclip.serving.settings import from_environment

    place = os.path.abspath(index) if os.path.exists(index) else index
    asked = {"index": place, "checkpoint": checkpoint, "int8": int8 or None}
    run(from_environment(os.environ, **asked), host, port, workers)


def require_serving() -> None:
    """Fails in words where the libraries of a server are not installed.

    Raises:
        UserError: one is missing.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise UserError(f"fclip serve needs {', '.join(missing)}; pip install 'fclip[serve]'")
