"""A server's surroundings: an index by brute force in memory, a model whose embeddings are known, a running server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import uvicorn
from PIL import Image

from fclip.errors import UserError, nearest
from fclip.images import decode
from fclip.index import Answer
from fclip.recommend import Recommender
from fclip.serving.app import create_app
from fclip.serving.settings import Settings
from fclip.store.filters import Group, parse_where

WIDTH = 16
NASTY = ["plain", "a/b/c", "it's", 'a "b"', "100 %", "?q=1#x", "été", "a b", "x/thumbnail", "<script>", "\\n"]
COLOURS = ["red", "green", "blue"]
CALM = Settings(rate_per_minute=0)


def jpeg(colour: object = "red", size: tuple[int, int] = (40, 50), form: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, form)
    return stream.getvalue()


class Encoder:
    """A vector by the words, or by the picture's mean colour; a closed `gate` holds it once it has `begun`."""

    fingerprint = "f00"

    def __init__(self) -> None:
        self.gate, self.batches, self.begun = threading.Event(), [], 0
        self.gate.set()

    def embed_texts(self, texts):
        return self._made(texts, [crc32(text.encode()) for text in texts])

    def embed_pictures(self, sources):
        pictures = [np.asarray(decode(source)) for source in sources]
        return self._made(sources, [int(np.rint(p.mean((0, 1)) / 32) @ [1, 9, 81]) for p in pictures])

    def _made(self, items, seeds):
        self.begun += 1
        self.gate.wait(60)
        self.batches.append(len(items))
        return unit([np.random.default_rng(seed).normal(size=WIDTH) for seed in seeds])


def unit(rows) -> np.ndarray:
    rows = np.array(rows, np.float32).reshape(-1, WIDTH)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class MemoryIndex:
    """What a recommender asks of an index, over a dozen pictures; `broken` is raised instead when it is set."""

    def __init__(self, ids=NASTY) -> None:
        self.folder = Path("/somewhere/private/shop")
        self.about = {"dimension": WIDTH, "fingerprint": "f00"}
        self.groups, self.numbers, self.broken = ["colour", "price"], ["price"], None
        self.schema = {"colour": Group("group_0", "text"), "price": Group("group_1", "number")}
        self._vectors = unit([np.random.default_rng(i).normal(size=WIDTH) for i in range(len(ids))])
        self._rows = [
            Answer(
                name,
                f"product {i}",
                f"title {i}",
                0.0,
                {"colour": COLOURS[i % 3], "price": 10.0 * i},
                jpeg(COLOURS[i % 3]),
            )
            for i, name in enumerate(ids)
        ]

    def check_model(self, encoder) -> None:
        assert encoder.fingerprint == self.about["fingerprint"]

    def __len__(self) -> int:
        return len(self._rows)

    sample = property(lambda self: self._vectors)
    mean = property(lambda self: self._vectors.mean(0))

    def _fitting(self, where) -> list[int]:
        if self.broken is not None:
            raise self.broken
        for group in where or {}:
            if group not in self.groups:
                raise UserError(
                    f"no attribute group {group!r} in the index {self.folder}; {nearest(group, self.groups)}"
                )
        parse_where(where, self.schema)
        return [
            i for i, row in enumerate(self._rows) if all(fits(row.attributes[g], w) for g, w in (where or {}).items())
        ]

    def candidates(self, vector, limit, where=None):
        rows = self._fitting(where)
        rows = sorted(rows, key=lambda i: -float(self._vectors[i] @ vector))[:limit]
        ids, items = [self._rows[i].id for i in rows], [self._rows[i].item for i in rows]
        return SimpleNamespace(ids=ids, items=items, scores=self._vectors[rows] @ vector, vectors=self._vectors[rows])

    def search(self, vector, k, where=None):
        found = self.candidates(vector, k, where)
        return [replace(answer, score=float(s)) for answer, s in zip(self.read(found.ids), found.scores, strict=True)]

    def read(self, ids):
        self._fitting(None)
        rows = {row.id: row for row in self._rows}
        return [rows[name] for name in ids if name in rows]

    def vectors(self, ids):
        places = {row.id: i for i, row in enumerate(self._rows)}
        for name in ids:
            if name not in places:
                raise UserError(f"no picture {name!r} in the index {self.folder}")
        return self._vectors[[places[name] for name in ids]]

    def values(self, group, where=None):
        found = [self._rows[i].attributes[group] for i in self._fitting(where)]
        return {value: found.count(value) for value in dict.fromkeys(found)}

    def count(self, where=None) -> int:
        return len(self._fitting(where))


def fits(value, wanted) -> bool:
    if isinstance(wanted, dict):
        if "not" in wanted:
            return value not in wanted["not"]
        return wanted.get("min", -np.inf) <= value <= wanted.get("max", np.inf)
    return value in ([wanted] if isinstance(wanted, str | int | float) else wanted)


def make_recommender(encoder: Encoder | None = None) -> Recommender:
    return Recommender(MemoryIndex(), encoder or Encoder())


class Server:
    """uvicorn in a thread, on a port of its own."""

    def __init__(self, app) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=10)
        )
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([self._socket])))

    def start(self) -> None:
        self._thread.start()
        end = time.monotonic() + 60
        while not self._server.started and time.monotonic() < end:
            time.sleep(0.01)
        assert self._server.started

    def stop(self) -> None:
        """As a signal does: the requests under way are answered."""
        self._server.should_exit = True

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def serving(app) -> Iterator[Server]:
    server = Server(app)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.join()


def app_of(recommender: Recommender | None = None, **settings: object):
    return create_app(recommender or make_recommender(), replace(CALM, **settings))


def form(question: object = None, images=()) -> dict:
    """Arguments of httpx's post for a form."""
    files = [("images", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(images)]
    data = {} if question is None else {"question": json.dumps(question)}
    return {"data": data, "files": files} if files else {"data": data, "files": {"images": ("", b"")}}
