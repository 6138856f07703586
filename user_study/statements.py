"""The statements of the pages that are asked for most, made once: making one takes longer than its answer.

    session.execute(BY_TOKEN, {"token": hashed(token)}).first()

Source: SQLAlchemy 2, "SQL compilation caching".
"""

from __future__ import annotations

from sqlalchemy import bindparam, exists, func, select, update
from sqlalchemy.orm import aliased, joinedload

from user_study.models import Base, Participant, Photograph, Picture, Query, SystemAnswer

BY_TOKEN = select(Participant.id, Participant.expires, Participant.state, Participant.seen).where(
    Participant.token_hash == bindparam("token")
)
OUTLINE = (
    select(Query.number, Query.submitted, Query.guess)
    .where(Query.participant_id == bindparam("participant"))
    .order_by(Query.number)
)
ONE_QUERY = (Query.participant_id == bindparam("participant"), Query.number == bindparam("number"))
OPEN_QUERY = select(Query.id).where(*ONE_QUERY, Query.submitted.is_(None))
WHOLE = select(Query).where(*ONE_QUERY).options(joinedload(Query.answers).joinedload(SystemAnswer.pictures))
PHOTOGRAPHS = select(Photograph).where(Photograph.query_id == bindparam("query")).order_by(Photograph.place)
NEXT_JOB = (
    select(
        SystemAnswer.id.label("answer"),
        *(Query.id.label("query"), Query.text, Query.filters, Query.number, Query.calibration),
        *(Participant.id.label("participant"), Participant.external),
    )
    .join(Query, Query.id == SystemAnswer.query_id)
    .join(Participant, Participant.id == Query.participant_id)
    .where(SystemAnswer.system == bindparam("system"), SystemAnswer.state == "waiting")
    .order_by(Query.asked, SystemAnswer.id)
    .limit(1)
)
PHOTOGRAPHS_DATA = select(Photograph.data).where(Photograph.query_id == bindparam("query")).order_by(Photograph.place)
UNANSWERED = SystemAnswer.state.in_(("new", "waiting"))
LATE = select(SystemAnswer.id).where(SystemAnswer.query_id == bindparam("query"), UNANSWERED).limit(1)
_other = aliased(SystemAnswer)
SHOWN = (
    select(
        Picture.data,
        exists().where(_other.query_id == Query.id, _other.state.in_(("new", "waiting"))).label("late"),
    )
    .join(SystemAnswer, SystemAnswer.id == Picture.answer_id)
    .join(Query, Query.id == SystemAnswer.query_id)
    .where(Picture.id == bindparam("identity"), Query.participant_id == bindparam("participant"))
)
OWN = (
    select(Photograph.data)
    .join(Query, Query.id == Photograph.query_id)
    .where(Photograph.id == bindparam("identity"), Query.participant_id == bindparam("participant"))
)
_answers, _pictures = Base.metadata.tables["answers"], Base.metadata.tables["pictures"]
_LETTER = (_answers.c.query_id == bindparam("query"), _answers.c.letter == bindparam("of"))
SET_NUMBERS = (
    update(_answers)
    .where(*_LETTER)
    .values(
        rank=func.coalesce(bindparam("new_rank"), _answers.c.rank),
        rating=func.coalesce(bindparam("new_rating"), _answers.c.rating),
    )
)
SET_WORDS = update(_answers).where(*_LETTER).values(comment=bindparam("words"))
SET_VERDICTS = (
    update(_pictures)
    .where(
        _pictures.c.id == bindparam("of"),
        _pictures.c.answer_id.in_(select(_answers.c.id).where(_answers.c.query_id == bindparam("query"))),
    )
    .values(relevant=bindparam("fits"))
)
