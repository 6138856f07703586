"""From a question to answers, between the event loop and two kinds of threads: one encodes, some search.

    answering = Answering(recommender, settings, Metrics())
    answers = await answering.ask(texts=("red dress",), images=(picture,), where={"gender": "Women"}, k=12)

The recommender's own `ask` would encode each question alone; here `Batcher`s encode those of all clients together and
the recommender answers with the vectors.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fclip.serving.batching import Batcher
from fclip.serving.metrics import Metrics
from fclip.serving.settings import Settings
from fclip.serving.uploads import open_upload

if TYPE_CHECKING:
    from PIL.Image import Image

    from fclip.index import Answer, Index
    from fclip.recommend import Recommender

R = TypeVar("R")
SEARCHERS = 4  # threads; LanceDB and Qdrant do their work outside of Python
DECODERS = 2  # pictures of 64 megapixels that are in memory at once
COUNTS_KEPT_S, COUNTS_KEPT = 30.0, 64
NAMELESS: dict[str, Any] = {"bytes": None, "path": None}
"""Stands in a `Query` for a photograph that is encoded elsewhere."""


class Answering:
    """A recommender that many ask at once; made and closed in one event loop.

    Attributes:
        recommender: index and encoder.
    """

    def __init__(self, recommender: Recommender, settings: Settings, metrics: Metrics) -> None:
        self.recommender, self._settings, self._metrics = recommender, settings, metrics
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._searching = ThreadPoolExecutor(SEARCHERS, "search")
        self._decoding = ThreadPoolExecutor(DECODERS, "decode")
        encoder = recommender.encoder
        self._texts: Batcher[str] = self._batcher("texts", encoder.embed_texts)
        self._pictures: Batcher[Any] = self._batcher("pictures", encoder.embed_pictures)
        self._counts: OrderedDict[str, tuple[float, Any]] = OrderedDict()  # of what → when, counts

    def asking(self, index: Index) -> Answering:
        """The same threads and batches with another index of the same model; questions under way stay with this one."""
        from fclip.recommend import Recommender

        other = copy(self)
        other.recommender, other._counts = Recommender(index, self.recommender.encoder), OrderedDict()
        return other

    def _batcher(self, kind: str, encode: Callable[[list[Any]], np.ndarray]) -> Batcher[Any]:
        chosen = self._settings
        return Batcher(
            encode,
            self._encoding,
            chosen.max_batch,
            chosen.batch_wait_ms,
            chosen.max_waiting,
            partial(self._metrics.observe_batch, kind),
        )

    async def ask(self, pictures: Sequence[Image] = (), **question: Any) -> list[Answer]:
        """Answers, as `Recommender.ask` with the same arguments.

        Args:
            pictures: photographs, decoded.
            question: what else `Query` has.

        Raises:
            UserError: a question that makes no sense.
            BusyError: too many are waiting.
            StoreUnavailableError: the index cannot be reached.
        """
        from fclip.recommend import EncodedQuery, Query

        query = Query(images=[NAMELESS] * len(pictures), **question)
        words, photos = await asyncio.gather(
            self._encoded(self._texts, [*query.texts, *query.avoid]), self._encoded(self._pictures, pictures)
        )
        encoded = EncodedQuery(query, words[: len(query.texts)], photos, words[len(query.texts) :])
        return await self.search(self.recommender.answer, encoded)

    async def _encoded(self, batcher: Batcher[Any], items: Sequence[Any]) -> np.ndarray:
        if not items:
            return np.zeros((0, self.recommender.index.about["dimension"]), np.float32)
        return await batcher.submit(items)

    async def search(self, do: Callable[..., R], *arguments: Any) -> R:
        """Asks the index in a thread, timed."""
        began = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._searching, partial(do, *arguments))
        finally:
            self._metrics.search_seconds.observe(time.perf_counter() - began)

    async def decode(self, uploads: Sequence[bytes]) -> list[Image]:
        """Photographs as pictures.

        Raises:
            RefusedUploadError: the first that is none.
        """
        loop, limits = asyncio.get_running_loop(), self._settings.uploads
        size_px = getattr(self.recommender.encoder, "size_px", None)
        jobs = [loop.run_in_executor(self._decoding, open_upload, data, limits, size_px) for data in uploads]
        return list(await asyncio.gather(*jobs))

    async def facets(self, where: Mapping[str, Any] | None) -> dict[str, Any]:
        """Counts of every group's values among what fits."""
        return await self._counted(json.dumps(where or {}, sort_keys=True), partial(self._count, where or None))

    async def _counted(self, key: str, count: Callable[[], Any]) -> Any:
        """What was counted; kept for some seconds, as everybody asks for the same few."""
        when, known = self._counts.pop(key, (0.0, None))
        if known is None or time.monotonic() - when > COUNTS_KEPT_S:
            when, known = time.monotonic(), await self.search(count)
        self._counts[key] = when, known
        if len(self._counts) > COUNTS_KEPT:
            self._counts.popitem(last=False)
        return known

    def _count(self, where: Mapping[str, Any] | None) -> dict[str, Any]:
        index = self.recommender.index
        groups = {}
        for group in index.groups:
            values = {str(value): count for value, count in index.values(group, where).items()}
            groups[group] = {"values": values, "number": group in index.numbers}
        return {"pictures": index.count(where), "groups": groups}

    async def relaxations(self, where: Mapping[str, Any]) -> dict[str, int]:
        """Which filter to leave out where they leave nothing → how many pictures then fit."""
        from fclip.queries.relaxing import relaxations

        return await self.search(relaxations, self.recommender.index, where)

    async def unknown_values(self, where: Mapping[str, Any]) -> list[str]:
        """A sentence for every value of the filters that no product has."""
        from fclip.queries.relaxing import strange_values, unknown_values

        index = self.recommender.index
        words = [group for group in where if group in index.groups and group not in index.numbers]
        known = {group: await self._counted(f"={group}", partial(index.values, group)) for group in words}
        if not strange_values(where, known):
            return []
        return await asyncio.to_thread(unknown_values, where, known)  # the closest of thousands are slow to find

    def notes(self, texts: Sequence[str]) -> list[str]:
        """What the asker should know about the words."""
        from fclip.queries.question import text_notes

        tokenizer = getattr(self.recommender.encoder, "tokenizer", None)
        return [] if tokenizer is None else text_notes(tokenizer, texts)

    async def close(self) -> None:
        """Ends when what was begun is answered."""
        await asyncio.gather(self._texts.close(), self._pictures.close())
        for threads in (self._encoding, self._searching, self._decoding):
            await asyncio.to_thread(threads.shutdown)
