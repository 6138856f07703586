"""A study rehearsed: simulated participants with known preferences, through the real pages, all at once.

    python -m user_study rehearse STUDY.yaml -n 20

The study's systems are replaced by ones that paint a colour each, so that neither index nor model is needed; the
participants know them by what they see, as people do, and by nothing else. They rank by Plackett and Luce with known
worths. Then every answer that a participant sent is looked for in the export, and the worths are estimated from it.

It is also the load test. Without a pause every participant asks again as soon as they are answered: that finds how much
the server can do, and the times are those of a queue. With `--think` they pause before every click, as people do. The
server is a process of its own; how much of the processors each took is told.
"""

from __future__ import annotations

import io
import re
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, NamedTuple

import httpx
import numpy as np

from fclip.serving.uploads import as_jpeg
from user_study.answers import UNSURE, Answers
from user_study.config import Study
from user_study.jobs import Recommendation, Wish
from user_study.ranking import choices, plackett_luce
from user_study.systems import Progress, as_shown

BEST = 2.75  # worth of the first system when none are given, as in `power`
PATIENCE_S = 300.0  # for the systems to answer
COLOUR_STEP = 40  # of the red channel, between two systems
ARRIVALS = 10  # pauses within which all have come; four systems with four pictures each need 28 clicks
LOOK_AGAIN_S = 3.0  # a page that waits reloads itself so often; without a pause oftener


class PaintingSystem:
    """Pictures of one colour: red tells the system, blue the picture."""

    def __init__(self, number: int) -> None:
        self.number = number

    def recommend(self, wish: Wish, n: int, progress: Progress) -> list[Recommendation]:
        """At once."""
        from PIL import Image

        colours = [(_red(self.number), 60, 30 * (i % 8)) for i in range(n)]
        pictures = [Image.new("RGB", (192, 256), colour) for colour in colours]
        return [Recommendation(f"painted-{self.number}-{i}", as_shown(one)) for i, one in enumerate(pictures)]


def painting_systems(study: Study) -> dict[str, PaintingSystem]:
    """One for each of the study's."""
    return {system.name: PaintingSystem(number) for number, system in enumerate(study.systems)}


@dataclass
class Told:
    """What a simulated participant sent, by system: to be found again in the export."""

    ranks: dict[tuple[int, str], int] = field(default_factory=dict)  # query, system
    ratings: dict[tuple[int, str], int] = field(default_factory=dict)
    verdicts: dict[tuple[int, str, int], bool] = field(default_factory=dict)  # query, system, place
    text: str = ""


class Times(NamedTuple):
    """How long one kind of page took, in milliseconds."""

    pages: int
    p50: float
    p95: float
    p99: float
    slowest: float


@dataclass(frozen=True)
class Rehearsal:
    """How it went."""

    completed: int
    wrong: list[str]  # answers lost, doubled or changed, and errors of pages
    ms: dict[str, list[float]]  # page → milliseconds of each that was asked for
    seconds: float
    server_s: float  # of a processor's time
    visitors_s: float  # the same of the simulated participants
    worths: dict[str, tuple[float, float]]  # system → known, recovered; both sum to 1

    def times(self) -> dict[str, Times]:
        """Page → how long it took; "all" last."""
        pages = {name: self.ms[name] for name in sorted(self.ms)}
        pages["all"] = [one for ms in self.ms.values() for one in ms]
        return {name: times_of(ms) for name, ms in pages.items() if ms}


def times_of(ms: Sequence[float]) -> Times:
    """Quantiles of at least one page."""
    return Times(len(ms), *(float(value) for value in np.percentile(ms, (50, 95, 99, 100))))


class Page(HTMLParser):
    """The forms' fields and the pictures of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action, self.fields, self.images, self.hidden = "", [], {}, {}  # type: ignore[var-annotated]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = values["action"]
        elif tag in ("input", "textarea") and values.get("type") == "hidden":
            self.hidden[values["name"]] = values["value"]
        elif tag in ("input", "textarea", "select"):
            self.fields.append((values.get("name", ""), values.get("value", "")))
        elif tag == "img":
            self.images[values["src"]] = values["alt"]


class Visitor:
    """One simulated participant.

    Args:
        think_s: mean pause before a click, exponentially distributed; 0: none.
    """

    def __init__(
        self, url: str, name: str, study: Study, worths: Sequence[float], seed: int, think_s: float, tls: ssl.SSLContext
    ) -> None:
        self.client = httpx.Client(base_url=url, timeout=60, follow_redirects=True, verify=tls)
        self.name, self.study, self.told, self.think_s = name, study, Told(text=f"wish of {name}"), think_s
        self.rng, self.pauses = (np.random.default_rng([seed, hash_of(name), use]) for use in range(2))
        self.systems, self.worths = [system.name for system in study.systems], np.asarray(worths, float)
        self.ms: list[tuple[str, float]] = []  # which page, how long

    def take_part(self) -> Told:
        """From the first page to the last."""
        with self.client:
            page = self._get("/", params={"participant": self.name})
            ticks = {f"consent-{i}": "1" for i in range(len(self.study.consent))}
            page = self._post(page, ticks)
            end = time.monotonic() + PATIENCE_S
            while "/preferences/" in page.action or "/answers/" in page.action or page.action in ("/guess", ""):
                page = self._go_on(page)
                if page is None:
                    return self.told
                if time.monotonic() > end:
                    raise TimeoutError(f"{self.name} waited too long")
        raise RuntimeError(f"{self.name} came to an unknown page {page.action}")

    def _go_on(self, page: Page) -> Any:
        if page.action.startswith("/preferences/"):
            photograph = as_jpeg(_noise(self.rng))
            files = [("photographs", (f"{i}.jpg", photograph)) for i in range(max(1, self.study.least_images))]
            return self._post(page, {"text": self.told.text}, files if self.study.most_images else None)
        if page.action.startswith("/answers/"):
            return self._judge(page)
        if page.action == "/guess":
            return self._post(page, {"guess": UNSURE})
        page = self._get("/study")
        if page.action or "Thank you" not in self._text:
            if not page.action:
                time.sleep(LOOK_AGAIN_S if self.think_s else 0.5)  # the systems are still at it
            return page
        return None

    def _judge(self, page: Page) -> Page:
        """Looks at the pictures, ranks by Gumbel noise, sends each answer as the page's script does, then all."""
        query, shown = int(page.action.rpartition("/")[2]), {}
        for address, says in page.images.items():
            if found := re.fullmatch(r"([A-Z]), picture (\d+)", says):
                shown[found[1], int(found[2])] = address
        seen = {key: self._look(address) for key, address in shown.items()}
        systems = {letter: self.systems[_number(pixel[0])] for (letter, _), pixel in seen.items()}
        utility = {
            letter: np.log(self.worths[self.systems.index(name)]) + self.rng.gumbel()
            for letter, name in systems.items()
        }
        ranks = {letter: i for i, letter in enumerate(sorted(utility, key=lambda one: -utility[one]), 1)}
        given = {}
        for (letter, place), address in shown.items():
            liked = bool(self.rng.random() < 1 / (1 + np.exp(ranks[letter] - 2.5)))
            given[f"relevant-{address.rpartition('/')[2]}"] = str(int(liked))
            self.told.verdicts[query, systems[letter], place] = liked
        for letter, name in systems.items():
            rating = int(np.clip(11 - 2 * ranks[letter] + self.rng.integers(-1, 2), 1, 10))
            self.told.ranks[query, name], self.told.ratings[query, name] = ranks[letter], rating
            given |= {f"rank-{letter}": str(ranks[letter]), f"rating-{letter}": str(rating)}
        for name, value in given.items():
            self.pause()
            self._send("POST", page.action.replace("/answers/", "/save/"), data=page.hidden | {name: value})
        return self._post(page, given | {"action": "send"})

    def _look(self, address: str) -> tuple[int, ...]:
        from PIL import Image

        picture = Image.open(io.BytesIO(self._send("GET", address).content), formats=("JPEG",))
        return tuple(picture.getpixel((picture.width // 2, picture.height // 2)))  # type: ignore[arg-type]

    def _get(self, path: str, **options: Any) -> Page:
        self._text = self._send("GET", path, **options).text
        return Page(self._text)

    def _post(self, page: Page, data: dict[str, str], files: Any = None) -> Page:
        self.pause()
        self._text = self._send("POST", page.action, data=page.hidden | data, files=files).text
        return Page(self._text)

    def come(self) -> None:
        """Not all in the same moment, yet all long before the first has finished."""
        if self.think_s:
            time.sleep(self.pauses.uniform(0, ARRIVALS * self.think_s))

    def pause(self) -> None:
        """As long as a person needs until the next click."""
        if self.think_s:
            time.sleep(self.pauses.exponential(self.think_s))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        began = time.perf_counter()
        answer = self.client.request(method, path, **options)
        self.ms.append((f"{method} /{path.split('/')[1]}", 1000 * (time.perf_counter() - began)))
        answer.raise_for_status()
        return answer


def visit(
    url: str,
    study: Study,
    n: int,
    worths: Sequence[float] | None = None,
    at_once: int = 100,
    seed: int = 0,
    think_s: float = 0.0,
) -> tuple[dict[str, Told], dict[str, list[float]], list[str]]:
    """Simulated participants at a server.

    Returns: what each sent, by their text; page → milliseconds of each that was asked for; errors.
    """
    worths, tls = worths or [BEST, *[1.0] * (len(study.systems) - 1)], ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    people = [Visitor(url, f"visitor-{i:04d}", study, worths, seed, think_s, tls) for i in range(n)]
    wrong, lock, told = [], threading.Lock(), {}

    def go(one: Visitor) -> None:
        try:
            one.come()
            sent = one.take_part()
            with lock:
                told[sent.text] = sent
        except Exception as error:
            with lock:
                wrong.append(f"{one.name}: {type(error).__name__}: {error}")

    with ThreadPoolExecutor(min(at_once, n)) as pool:
        list(pool.map(go, people))
    ms: dict[str, list[float]] = {}
    for one in people:
        for page, took in one.ms:
            ms.setdefault(page, []).append(took)
    return told, ms, wrong


def differences(answers: Answers, told: dict[str, Told]) -> list[str]:
    """Answers that were sent and are not there, are there twice, or otherwise than they were sent."""
    names = {row.participant: row.text or "" for row in answers.queries if row.kind == "own"}
    wrong = []
    systems = [((names[row.participant], row.query, row.system), (row.rank, row.rating)) for row in answers.systems]
    pictures = [((names[r.participant], r.query, r.system, r.place), r.relevant) for r in answers.pictures]
    sent = {(who, *key): (t.ranks[key], t.ratings[key]) for who, t in told.items() for key in t.ranks}
    seen = {(who, *key): liked for who, t in told.items() for key, liked in t.verdicts.items()}
    for what, kept, expected in (("answer", systems, sent), ("verdict", pictures, seen)):
        if len(dict(kept)) < len(kept):  # type: ignore[arg-type]
            wrong.append(f"{len(kept) - len(dict(kept))} {what}s are doubled")  # type: ignore[arg-type]
        found: dict[Any, Any] = dict(kept)  # type: ignore[arg-type]
        wrong += [f"{what} lost: {key}" for key in expected if key not in found]
        wrong += [f"{what} changed: {key}" for key, value in expected.items() if found.get(key, value) != value]
    return wrong


def recovered(answers: Answers, study: Study, worths: Sequence[float] | None = None) -> dict[str, tuple[float, float]]:
    """System → known and estimated worth, both as shares of 1."""
    names = [system.name for system in study.systems]
    known = np.asarray(worths or [BEST, *[1.0] * (len(names) - 1)], float)
    estimated = plackett_luce(choices(answers.submitted().systems, names).values(), len(names))
    shares = zip((known / known.sum()).tolist(), estimated.tolist(), strict=True)
    return dict(zip(names, shares, strict=True))


def hash_of(name: str) -> int:
    """A number of a name, the same in every process."""
    return int.from_bytes(name.encode()[-4:], "big")


def _red(number: int) -> int:
    return 10 + COLOUR_STEP // 4 * number


def _number(red: int) -> int:
    return round((red - 10) / (COLOUR_STEP // 4))


def _noise(rng: np.random.Generator) -> Any:
    from PIL import Image

    return Image.fromarray(rng.integers(0, 255, (48, 40, 3), np.uint8))
