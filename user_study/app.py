"""The study as participants see it: pages rendered here, forms that work without JavaScript.

    app = create_app(study, store, systems)              # for any ASGI server
    python -m user_study serve STUDY.yaml

/ (information, consent) → /study (whatever comes next for this browser: preferences, waiting, answers, guess, thanks).
Every form says which query it is of: one that comes a second time, from another tab or after the back button, changes
nothing that was submitted, and leads to where the participant stands.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path as File
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from fclip.serving.limits import BodyLimit, RateLimit, SecurityHeaders
from fclip.serving.logs import RequestLog
from fclip.serving.metrics import Metrics
from fclip.serving.uploads import RefusedUploadError, as_jpeg, heic_is_read, open_upload
from user_study.answers import LARGEST_RATING, UNSURE
from user_study.config import Study
from user_study.monitor import add_monitor
from user_study.refusals import ENDED, EXPIRED, NO_PAGE, OUT_OF_DATE, RefusalPages, Words
from user_study.sessions import ForgedError, check_form, form_word, remember, token_of
from user_study.store import PHOTOGRAPH_PX, AlreadyBeganError, ClosedError, Given, Step, Store, new_token
from user_study.systems import Answering, filter_values
from user_study.worker import Worker

HERE = File(__file__).parent
MAX_BODY = 100_000_000  # four photographs of a telephone
THREADS = 12  # that make pages; more take turns at the same work and the database's connections
MAX_TEXT, MAX_COMMENT = 1000, 2000  # characters
EXTERNAL = ("PROLIFIC_PID", "participant")  # of the invitation's address
NO_STORE = {"Cache-Control": "no-store"}
ADDRESS = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of a picture; a letter too
BEGAN = Words(
    "You have begun already",
    ("Somebody with your invitation has begun in another browser.",
     "If that was you, open the study in the browser you began with, or by your link."),
    "",
)  # fmt: skip
FULL = Words("Thank you", ("Everybody we need is taking part already; nothing was kept.",), "")
NOTES = {
    "sent": "That page was sent before; you are where you left off.",
    "saved": "Saved. You can close this page and come back by your link.",
}


async def _form(request: Request) -> AsyncIterator[FormData]:
    async with request.form(max_files=20, max_fields=500, max_part_size=64 * 1024) as form:
        yield form


Form = Annotated[FormData, Depends(_form)]
Number = Annotated[int, Path(ge=0, lt=1000)]


def create_app(
    study: Study,
    store: Store,
    systems: Mapping[str, Answering],
    *,
    monitor_token: str = "",
    rate_per_minute: float = 3000,
) -> FastAPI:
    """The program.

    Args:
        monitor_token: what the researcher's page asks for; empty: there is none.
        rate_per_minute: requests of one address, behind which may be a whole class room; 0: no limit.

    Raises:
        UserError: filters that the systems do not know.
    """
    worker = Worker(store, systems)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        worker.start()
        yield
        worker.stop()

    app = FastAPI(title=study.title, openapi_url=None, lifespan=lifespan)
    pages = Pages(study, store, worker, filter_values(study, systems))
    pages.add_to(app)
    add_monitor(app, store, worker, pages.render, monitor_token)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY)
    if rate_per_minute:
        app.add_middleware(RateLimit, per_minute=rate_per_minute, burst=int(rate_per_minute / 4))
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestLog, metrics=Metrics())
    app.add_middleware(RefusalPages, page=pages.refusal, drain_bytes=2 * MAX_BODY)
    return app


class Pages:
    """The participants' routes."""

    def __init__(self, study: Study, store: Store, worker: Worker, values: Mapping[str, list[str]]) -> None:
        self.study, self.store, self.worker, self.values = study, store, worker, values
        loader = FileSystemLoader(HERE / "pages")
        self._environment = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
            auto_reload=False,
        )  # fmt: skip
        self._information = _markdown(study.information)

    def add_to(self, app: FastAPI) -> None:
        """Registers routes and error pages."""
        get, post = {"methods": ["GET"]}, {"methods": ["POST"]}
        app.add_api_route("/", self.information, **get)  # type: ignore[arg-type]
        app.add_api_route("/begin", self.begin, **post)  # type: ignore[arg-type]
        app.add_api_route("/link/{token}", self.resume, **get)  # type: ignore[arg-type]
        app.add_api_route("/study", self.current, **get)  # type: ignore[arg-type]
        app.add_api_route("/preferences/{number}", self.preferences, **post)  # type: ignore[arg-type]
        app.add_api_route("/answers/{number}", self.answers, **post)  # type: ignore[arg-type]
        app.add_api_route("/save/{number}", self.save, **post)  # type: ignore[arg-type]
        app.add_api_route("/guess", self.guess, **post)  # type: ignore[arg-type]
        app.add_api_route("/items/{identity}", self.picture, **get)  # type: ignore[arg-type]
        for error, words, status in (
            (RequestValidationError, NO_PAGE, 404),  # of an address: forms are read by hand
            (ForgedError, OUT_OF_DATE, 403),
            (ClosedError, ENDED, 410),
        ):
            app.add_exception_handler(error, self._telling(words, status))

    def render(self, template: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> Any:
        """A page that no cache keeps: after the back button the browser asks again."""
        shown = {"study": self.study, "link": None, **values}
        text = self._environment.get_template(template).render(shown)
        return HTMLResponse(text, status, {**NO_STORE, **(headers or {})})

    def information(self, request: Request) -> Response:
        """Who asks, what for, and the consent."""
        token = token_of(request)
        if token and self.store.participant(token):
            return _to("/study")
        token = token or new_token()
        external = next((request.query_params[name] for name in EXTERNAL if request.query_params.get(name)), "")
        response: Response = self._ask_consent(token, clean(external)[:100])
        remember(response, request, token, self.study.link_days)
        return response

    def begin(self, request: Request, form: Form) -> Response:
        """Consent: from now on the browser's secret is a participant's."""
        token = check_form(token_of(request), form.get("form"))
        external = clean(form.get("external"))[:100]
        if not all(form.get(f"consent-{number}") for number in range(len(self.study.consent))):
            return self._ask_consent(token, external, "Please tick every box, or close this page.", 422)
        try:
            who = self.store.claim(token, external)
        except AlreadyBeganError:
            return self._message(BEGAN, 409)
        if who is None:
            return self._message(FULL, 200)
        self.worker.wake()
        return _to("/study")

    def resume(self, request: Request, token: str) -> Response:
        """A participant's link, on this or another device."""
        if self.store.participant(token) is None:
            return self._expired()
        response = _to("/study")
        remember(response, request, token, self.study.link_days)
        return response

    def current(self, request: Request, note: str = "") -> Response:
        """Where the participant stands."""
        return self._show(request, note=NOTES.get(note, ""))

    def preferences(self, request: Request, number: Number, form: Form) -> Response:
        """An own query, for the systems to answer."""
        who = self._who(request, form)
        problems: list[str] = []
        text = clean(form.get("text"))
        if not text:
            problems.append("Please say in words what you are looking for.")
        if len(text) > MAX_TEXT:
            problems.append(f"Please use at most {MAX_TEXT} characters; there are {len(text)}.")
        photographs = self._photographs(form, problems)
        filters = {group: str(form.get(f"filter-{group}", "")) for group in self.values}
        filters = {group: value for group, value in filters.items() if value in self.values[group]}
        if problems:
            return self._show(request, problems, {"text": text, "filters": filters}, number=number)
        asked = self.store.ask(who, number, text, filters or None, photographs)
        self.worker.wake()
        return _to("/study" if asked else "/study?note=sent")

    def answers(self, request: Request, number: Number, form: Form) -> Response:
        """What was told of the systems' answers, and perhaps the end of the query."""
        who = self._who(request, form)
        if not self.store.save(who, number, given(form)):
            return _to("/study?note=sent")
        if form.get("action") != "send":
            return _to("/study?note=saved")
        lacking = self.store.submit(who, number)
        return self._show(request, lacking, number=number) if lacking else _to("/study")

    def save(self, request: Request, number: Number, form: Form) -> Response:
        """The same for a part, from the page's script."""
        kept = self.store.save(self._who(request, form), number, given(form))
        return Response(status_code=204 if kept else 409, headers=NO_STORE)

    def guess(self, request: Request, form: Form) -> Response:
        """Which pictures were generated?"""
        who, letter = self._who(request, form), form.get("guess")
        if letter is None:
            return self._show(request, ["Please choose one, or that you cannot tell."])
        return _to("/study" if self.store.guess(who, str(letter)) else "/study?note=sent")

    def picture(self, request: Request, identity: str) -> Response:
        """A picture, for the participant who is shown it; nothing but its pixels differs from any other."""
        token = token_of(request)
        who = self.store.participant(token) if token and ADDRESS.fullmatch(identity) else None
        data = self.store.picture(who, identity) if who else None
        if data is None:
            raise HTTPException(404)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def _who(self, request: Request, form: FormData) -> str:
        token = check_form(token_of(request), form.get("form"))
        who = self.store.participant(token)
        if who is None:
            raise ForgedError
        return who

    def _photographs(self, form: FormData, problems: list[str]) -> list[bytes]:
        """The photographs, re-encoded; what is wrong with them goes to the problems."""
        files = [file for file in form.getlist("photographs") if isinstance(file, UploadFile) and file.size]
        least, most = self.study.least_images, self.study.most_images
        if not least <= len(files) <= most:
            problems.append(f"Please choose {least} to {most} photographs; there are {len(files)}.")
            return []
        kept = []
        for number, file in enumerate(files, 1):
            try:
                picture = open_upload(file.file.read(), size_px=PHOTOGRAPH_PX)
            except RefusedUploadError as error:
                problems.append(f"Photograph {number}, {clean(file.filename)[:60] or 'without a name'}: {error}.")
            else:
                picture.thumbnail((PHOTOGRAPH_PX, PHOTOGRAPH_PX))
                kept.append(as_jpeg(picture))
        return kept

    def _show(
        self,
        request: Request,
        problems: list[str] | None = None,
        typed: Mapping[str, Any] | None = None,
        note: str = "",
        number: int | None = None,
    ) -> Response:
        token = token_of(request)
        who = self.store.participant(token) if token else None
        if token is None or who is None:
            return self._expired()
        step = self.store.step(who)
        if number is not None and (step.query is None or step.query.number != number):
            return _to("/study?note=sent")
        values = {"step": step, "form": form_word(token), "note": note, "problems": problems or []}
        values |= {"typed": typed or {"text": "", "filters": {}}, "values": self.values, "max_text": MAX_TEXT}
        link = None if step.kind == "thanks" else str(request.url_for("resume", token=token))
        values |= {"heic": heic_is_read(), "link": link, "max_comment": MAX_COMMENT}
        values |= {"ratings": range(1, LARGEST_RATING + 1), "unsure": UNSURE, "progress": self._progress(step)}
        # Not in the page: who needs longer to read would be interrupted by a page that reloads itself.
        headers = {"Refresh": "3"} if step.kind == "waiting" else {}
        return self.render(f"{step.kind}.html.j2", 422 if problems else 200, headers, **values)

    def _progress(self, step: Step) -> int:
        """Percent of the waiting; of all systems together, which tells nothing of any one."""
        if step.query is None:
            return 100
        at = [
            self.worker.progress.get(answer.system, 0.0) if answer.state == "waiting" else 1.0
            for answer in step.query.answers
        ]
        return int(100 * sum(at) / len(at))

    def _ask_consent(self, token: str, external: str, problem: str = "", status: int = 200) -> Any:
        values: dict[str, Any] = {
            "form": form_word(token),
            "external": external,
            "problems": [problem] if problem else [],
        }
        return self.render("information.html.j2", status, information=self._information, **values)

    def refusal(self, words: Words) -> str:
        """A page for somebody who came to a dead end."""
        return self._environment.get_template("message.html.j2").render(study=self.study, link=None, words=words)

    def _message(self, words: Words, status: int) -> Response:
        return HTMLResponse(self.refusal(words), status, NO_STORE)

    def _expired(self) -> Response:
        return self._message(EXPIRED, 410)

    def _telling(self, words: Words, status: int) -> Any:
        return lambda request, error: self._message(words, status)


def given(form: FormData) -> Given:
    """What a form tells; what is no answer is left out."""
    verdicts: dict[str, bool] = {}
    numbers: dict[str, dict[str, int]] = {"rank": {}, "rating": {}}
    comments: dict[str, str] = {}
    most = {"rank": 26, "rating": LARGEST_RATING}
    for key, value in form.multi_items():
        kind, _, name = key.partition("-")
        if not isinstance(value, str) or not ADDRESS.fullmatch(name):
            continue
        if kind == "relevant" and value in ("0", "1"):
            verdicts[name] = value == "1"
        elif kind in numbers and value.isascii() and value.isdigit() and 1 <= int(value[:3]) <= most[kind]:
            numbers[kind][name] = int(value[:3])
        elif kind == "comment":
            comments[name] = clean(value)[:MAX_COMMENT]
    return Given(verdicts, numbers["rank"], numbers["rating"], comments)


def clean(value: object) -> str:
    """Words of a form, without the characters that databases refuse; empty for a file."""
    text = value if isinstance(value, str) else ""
    return text.replace("\r\n", "\n").replace("\0", "").encode("utf-8", "replace").decode().strip()


def _markdown(text: str) -> str:
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark", {"html": False}).render(text))


def _to(path: str) -> Response:
    return RedirectResponse(path, 303, NO_STORE)
