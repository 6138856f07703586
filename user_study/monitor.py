"""The researcher's page: how the study goes, and nothing of what is answered before it is locked.

http://localhost:8080/monitor, any name, password $STUDY_MONITOR_TOKEN

After `python -m user_study lock STUDY.yaml` it also shows mean ranks and ratings; `score` computes the results.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import FastAPI, Request
from sqlalchemy import func, select
from starlette.responses import PlainTextResponse, Response

from user_study.design import imbalance
from user_study.models import Participant, Query, StudyRow, SystemAnswer
from user_study.store import Store
from user_study.worker import Worker


@dataclass(frozen=True)
class State:
    """A study at one moment."""

    visits: int  # who consented or tried to
    began: int
    active: int
    released: int
    completed: int
    orders: list[tuple[str, int, int]]  # systems by position, completed, active
    imbalance: int
    systems: list[tuple[str, int, int, int]]  # name, answered, waiting, failed
    failures: list[tuple[str, str, int]]  # system, why, how often
    minutes: float | None  # median from consent to the end
    locked: datetime | None
    results: list[tuple[str, float | None, float | None]]  # system, mean rank, mean rating; empty before the lock


def state_of(store: Store) -> State:
    """Reads it."""
    places, systems = store.places(), store.design.systems
    with store.reading() as session:
        study = session.scalars(select(StudyRow)).one()
        people = session.scalars(select(Participant)).all()
        counts = {
            (system, state): number
            for system, state, number in session.execute(
                select(SystemAnswer.system, SystemAnswer.state, func.count()).group_by(
                    SystemAnswer.system, SystemAnswer.state
                )
            )
        }
        why = select(SystemAnswer.system, SystemAnswer.why, func.count()).where(SystemAnswer.state == "failed")
        failures = [
            (name, reason or "", n)
            for name, reason, n in session.execute(why.group_by(SystemAnswer.system, SystemAnswer.why))
        ]
        results = _results(session, systems) if study.locked else []
    took = sorted((one.completed - one.began).total_seconds() / 60 for one in people if one.completed)
    kinds = [one.state for one in people]
    orders = zip(store.design.orders, places.completed, places.active, strict=True)

    def count(name: str, state: str) -> int:
        return counts.get((name, state), 0)

    told = [(name, count(name, "ready"), count(name, "waiting"), count(name, "failed")) for name in systems]
    return State(
        study.claims, len(people), kinds.count("active"), kinds.count("released"), kinds.count("completed"),
        [(" ".join(order), done, busy) for order, done, busy in orders], imbalance(store.design, places.completed),
        told, failures, took[len(took) // 2] if took else None, study.locked, results,
    )  # fmt: skip


def add_monitor(app: FastAPI, store: Store, worker: Worker, render: Callable[..., Any], token: str) -> None:
    """Registers the page; without a token there is none."""

    def monitor(request: Request) -> Response:
        if not _knows(request, token):
            asked = {"WWW-Authenticate": 'Basic realm="study", charset="UTF-8"'}
            return PlainTextResponse("The token is needed, as the password.", 401, asked)
        page: Response = render("monitor.html.j2", state=state_of(store), busy=dict(worker.progress))
        return page

    if token:
        app.add_api_route("/monitor", monitor, methods=["GET"])


def _knows(request: Request, token: str) -> bool:
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        password = base64.b64decode(sent, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(password, token.encode())


def _results(session: Any, systems: tuple[str, ...]) -> list[tuple[str, float | None, float | None]]:
    means = select(SystemAnswer.system, func.avg(SystemAnswer.rank), func.avg(SystemAnswer.rating)).join(Query)
    counted = means.where(Query.submitted.is_not(None), Query.kind == "own").group_by(SystemAnswer.system)
    found = {
        name: tuple(None if mean is None else float(mean) for mean in (rank, rating))
        for name, rank, rating in session.execute(counted)
    }
    return [(name, *found.get(name, (None, None))) for name in systems]  # type: ignore[misc]
