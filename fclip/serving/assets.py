"""The page's stylesheet, script and icon, and its templates, read once.

The address of a file holds a hash of it, so that browsers keep it for a year and never have an old one.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fclip.serving.panel import label, swatch

KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """A file, its compressed bytes and the hash in its address."""

    data: bytes
    compressed: bytes
    kind: str
    version: str


@cache
def assets() -> dict[str, Asset]:
    """Name → file."""
    found = {}
    for file in files("fclip.serving").joinpath("static").iterdir():
        if kind := KINDS.get(file.name.rpartition(".")[2]):
            data = file.read_bytes()
            found[file.name] = Asset(data, gzip.compress(data, mtime=0), kind, hashlib.sha256(data).hexdigest()[:12])
    return found


def asset_address(name: str) -> str:
    """Where a template finds a file."""
    return f"/static/{name}?v={assets()[name].version}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fclip.serving"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals |= {"asset": asset_address, "label": label, "swatch": swatch}
    return environment


def render(template: str, **values: Any) -> bytes:
    """A template as UTF-8."""
    return _environment().get_template(template).render(**values).encode()
