"""A server that follows its index: one that is switched, rebuilt or updated answers a second later, without a restart.

    follower = Follower(place, settings, metrics)
    async with follower.following(app):      # app.state.answering is replaced when there is a new index
        …

Only the mark of index.json is looked at (its inode and time, in an object store its time), so it costs nothing. A new
index is opened and asked once before it takes over; questions under way stay with the old one. An index that cannot be
used, or that another model has made, leaves the old one in place: the log, /readyz and /metrics say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fclip.errors import StoreUnavailableError, UserError
from fclip.serving.metrics import Metrics
from fclip.serving.problems import without_places

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fclip.index import Index
    from fclip.recommend import Recommender

logger = logging.getLogger("fclip.serving")
AGAIN_AFTER = 10  # looks, until an index that was refused is tried again: it may have been copied while it was opened


class Follower:
    """Watches one address for another index.

    Attributes:
        refused: why the index that lies there now is not the one that answers; None when it is.
    """

    def __init__(self, place: str, seconds: float, recommender: Recommender, metrics: Metrics) -> None:
        self.refused: str | None = None
        self._place, self._seconds, self._metrics = place, seconds, metrics
        self._serves = recommender.index
        self._mark: Any = None  # of what was looked at last
        self._looks = 0  # since it was refused

    @contextlib.asynccontextmanager
    async def following(self, app: FastAPI) -> AsyncIterator[None]:
        """Replaces `app.state.answering` for as long as this lasts."""
        watching = asyncio.create_task(self._watch(app)) if self._place and self._seconds else None
        yield
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _watch(self, app: FastAPI) -> None:
        while True:
            try:
                found = await asyncio.to_thread(self._look)
            except Exception:  # a fault of ours must not end the watch
                logger.exception("following failed")
                found = None
            if found is not None:
                answering = app.state.answering
                app.state.answering = answering.asking(found)
                self._serves = found
                self._metrics.index_switches.inc()
                told = {"number": found.about.get("number"), "pictures": found.about.get("pictures")}
                logger.info("index switched", extra={"fields": told})
            await asyncio.sleep(self._seconds)

    def _look(self) -> Index | None:
        """A new index, tried out; None where there is none, or none that can be used."""
        from fclip.index import ABOUT
        from fclip.places import Place

        place = Place(located(self._place))
        try:
            mark = (str(place), place.mark(ABOUT))
        except (UserError, StoreUnavailableError):  # which is said where questions are answered
            return None
        first, self._looks = self._mark is None, self._looks + 1
        if mark == self._mark and (self.refused is None or self._looks % AGAIN_AFTER):
            return None
        self._mark = mark
        try:
            index = self._tried(str(place))
        except (UserError, StoreUnavailableError) as error:
            self._refuse(without_places({str(place), self._place}, str(error)))
            return None
        self._accept()
        same = str(index.folder) == str(self._serves.folder) and index.about == self._serves.about
        return None if first and same else index

    def _tried(self, place: str) -> Index:
        """Opened, and asked once."""
        from fclip.index import open_index

        index = open_index(place)
        known, found = self._serves.about["fingerprint"], index.about["fingerprint"]
        if known != found:
            raise UserError(
                f"it was built with model {found}, and this server has {known}; start again with the checkpoint that "
                "its index.json names"
            )
        if not (len(index.sample) and index.search(index.sample[0], 1)):
            raise UserError("it holds no picture")
        return index

    def _refuse(self, why: str) -> None:
        self._looks = 0
        if why != self.refused:
            logger.error("new index refused", extra={"fields": {"why": why[:300]}})
        self.refused = why
        self._metrics.index_refused.set(1)

    def _accept(self) -> None:
        self.refused = None
        self._metrics.index_refused.set(0)


def located(index: str) -> str:
    """Where an index lies behind links, which may be switched while what they led to is still read."""
    from pathlib import Path

    from fclip.files import expand

    path = Path(expand(index))
    return str(path.resolve()) if "://" not in index and path.exists() else index
