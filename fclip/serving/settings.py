"""What a server is told by its environment; several processes read the same.

FCLIP_INDEX=garments-index FCLIP_API_KEY=… uvicorn --factory fclip.serving.app:from_environment --workers 4
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fclip.errors import UserError, nearest
from fclip.serving.uploads import UploadLimits

PREFIX = "FCLIP_"
ELSEWHERE = {"FCLIP_CACHE", "FCLIP_DATA"}
"""Variables of that prefix that are not the server's."""
ENCODERS = ("auto", "torch", "onnx")


@dataclass(frozen=True)
class Settings:
    """Every key is the environment's FCLIP_ and its name in capitals."""

    index: str = ""  # folder or address of the index
    checkpoint: str = ""  # the model, when it has moved since indexing
    api_key: str = field(default="", repr=False)  # what clients must send; empty: nothing
    encoder: str = "auto"  # torch, onnx, or auto: onnx where it is installed, gives the same and there is no GPU
    int8: bool = False  # weights of 8 bits, where recall on the index's own products stays
    max_body_mb: float = 32.0  # of a whole request, 1e6 bytes
    max_images: int = 8  # in one question
    max_megapixels: float = 64.0  # of one picture; telephones send 12 to 50
    max_text: int = 1000  # characters of one text; a model reads some 300 of them
    rate_per_minute: float = 300.0  # questions of one client; 0: no limit
    rate_burst: int = 60  # questions that may come at once
    max_batch: int = 32  # texts or pictures that are encoded together
    batch_wait_ms: float = 2.0  # how long a batch waits for more when others are about to ask
    max_waiting: int = 512  # texts or pictures; beyond them 503
    upload_seconds: float = 60.0  # for a request's body to arrive
    follow_seconds: float = 1.0  # how often to look for an index that was switched or rebuilt; 0: never
    shutdown_seconds: int = 30  # for requests under way when the server is told to end

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise UserError(f"unknown FCLIP_ENCODER {self.encoder!r}; {nearest(self.encoder, ENCODERS)}")
        for key in fields(self):
            value = getattr(self, key.name)
            if isinstance(value, int | float) and value < 0:
                raise UserError(f"expected {PREFIX}{key.name.upper()} of at least 0, got {value}")

    @property
    def uploads(self) -> UploadLimits:
        return UploadLimits(max_bytes=int(self.max_body_mb * 1e6), max_pixels=int(self.max_megapixels * 1e6))

    def to_environment(self) -> dict[str, str]:
        """The variables that `from_environment` makes the same settings of, for further processes."""
        values = {key.name: getattr(self, key.name) for key in fields(self)}
        return {PREFIX + name.upper(): str(int(v) if isinstance(v, bool) else v) for name, v in values.items()}


def from_environment(environment: Mapping[str, str] | None = None, **over: Any) -> Settings:
    """The settings of this process.

    Args:
        environment: variables; the process's own when None.
        over: settings that go before them.

    Raises:
        UserError: a value of another kind, or an unknown variable.
    """
    environment = os.environ if environment is None else environment
    known = {PREFIX + key.name.upper(): key for key in fields(Settings)}
    values: dict[str, Any] = {}
    for name, text in environment.items():
        if name in known:
            values[known[name].name] = _parsed(name, text, type(known[name].default))
        elif name.startswith(PREFIX) and name not in ELSEWHERE and not name.startswith(PREFIX + "TEST_"):
            raise UserError(f"unknown variable {name}; {nearest(name, known)}")
    return Settings(**{**values, **{name: value for name, value in over.items() if value is not None}})


def _parsed(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("0", "1", "true", "false", ""):
            raise UserError(f"expected {name} of 0 or 1, got {text!r}")
        return text.lower() in ("1", "true")
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"expected a number for {name}, got {text!r}") from None
