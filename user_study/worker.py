"""Asks the systems in the background: a thread for each, so that a slow one delays no other.

    worker = Worker(store, systems)
    worker.start(); worker.wake(); worker.stop()

What there is to do is in the database (`user_study.jobs`). A system that raises has failed for that query: it is noted
with its reason, and the participant goes on with the others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from user_study.jobs import Job, copy_shared, fail, finish, give_up, next_job
from user_study.store import Store
from user_study.systems import Answering

logger = logging.getLogger("fclip.serving")
LOOK_AGAIN_S = 2.0  # for what another process put there
GIVE_UP_MINUTES = 15.0


class Worker:
    """The threads."""

    def __init__(self, store: Store, systems: Mapping[str, Answering]) -> None:
        self.store, self.systems = store, systems
        self.progress: dict[str, float] = {}  # system → share of what it is doing now
        self._stopping, self._awake = False, {name: threading.Event() for name in systems}
        self._threads = [threading.Thread(target=self._run, args=(name,), daemon=True) for name in systems]

    def start(self) -> None:
        """Begins with what waits."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Something waits."""
        for event in self._awake.values():
            event.set()

    def stop(self, wait_s: float = 5.0) -> None:
        """Ends after what is being done, or leaves it for the next start."""
        self._stopping = True
        self.wake()
        for thread in self._threads:
            thread.join(wait_s)

    def _run(self, system: str) -> None:
        while not self._stopping:
            self._awake[system].clear()
            try:
                give_up(self.store, GIVE_UP_MINUTES)
                while not self._stopping and (job := next_job(self.store, system)):
                    self._answer(job)
            except SQLAlchemyError:
                logger.exception("the worker cannot reach the database", extra={"fields": {"system": system}})
            self._awake[system].wait(LOOK_AGAIN_S)

    def _answer(self, job: Job) -> None:
        if copy_shared(self.store, job):
            return
        self.progress[job.system] = 0.0
        note: Callable[[float], None] = lambda share: self.progress.__setitem__(job.system, share)  # noqa: E731
        try:
            found = self.systems[job.system].recommend(job.wish, self.store.study.pictures, note)
            if not found:
                raise LookupError("nothing fits the wish and its filters")
        except Exception as error:  # whatever it is, the others go on
            logger.exception("a system failed", extra={"fields": {"system": job.system}})
            fail(self.store, job, f"{type(error).__name__}: {error}")
        else:
            finish(self.store, job, found)
        finally:
            with suppress(KeyError):
                del self.progress[job.system]
