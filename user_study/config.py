"""STUDY.yaml: a study as it is planned. What is not said has the default below; an unknown key names the nearest.

    name: dress-up
    systems:
      - {name: baseline, kind: index, path: indexes/fashionclip}
      - {name: tuned, kind: index, path: indexes/tuned}
      - {name: diffusion, kind: diffusion, path: models/stable-diffusion-v1-5, generated: true}

    study = load_study("STUDY.yaml")

Paths are relative to the file. Source of the defaults: the paper's sections 5.3 and 6.3; `participants` from
`python -m user_study power`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fclip.errors import UserError, nearest

STRICT = ConfigDict(extra="forbid")
Words = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class System:
    """One of the systems that are compared."""

    name: Words  # in results and exports; participants see letters only
    # index: asked when a participant asks. folder: pictures made beforehand. diffusion: drawn by a worker.
    kind: Literal["index", "folder", "diffusion"]
    path: Words  # of the index, the folder, or the pipeline's folder; for diffusion a hub name too
    generated: bool = False  # its pictures show garments that do not exist
    # diffusion: draw on from the participant's photographs, so far from them (0.1 … 1); null: from words alone
    strength: Annotated[float, Field(ge=0.1, le=1)] | None = None

    def __post_init__(self) -> None:
        if self.strength is not None and self.kind != "diffusion":
            raise ValueError(f"strength is of systems of kind diffusion, {self.name!r} is of kind {self.kind}")


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """A query that every participant is asked to judge."""

    text: Words  # what is looked for; also how results name the query
    images: tuple[str, ...] = ()  # photographs that go with it: shown, and given to every system


@dataclass(frozen=True, config=STRICT)
class Study:
    """A study; the information that participants must get depends on the place and its law."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]  # of its files and addresses: letters, digits, . _ -
    systems: Annotated[tuple[System, ...], Field(min_length=2, max_length=26)]  # in the order of the result tables
    title: str = "Which recommendations would you wear?"  # above every page
    information: str = ""  # first page, Markdown: who asks, what for, what is kept and how long, whom to ask
    consent: tuple[str, ...] = ("I have read this and want to take part.",)  # each is a box that must be ticked
    seed: NonNegativeInt = 0  # of the orders in which systems are shown
    participants: PositiveInt = 40  # who complete it; nobody new is taken when these are reached or under way
    pictures: PositiveInt = 4  # that every system shows for a query
    own_queries: PositiveInt = 1  # that participants make of their own preferences
    least_images: NonNegativeInt = 2  # photographs with an own query, at least
    most_images: NonNegativeInt = 4  # at most
    filters: tuple[
        str, ...
    ] = ()  # attributes that participants may filter by, e.g. [gender, baseColour]; for all systems
    calibration: tuple[Calibration, ...] = ()  # queries shared by all: do people agree?
    repeat: bool = False  # ask the first own query again at the end: are answers steady?
    ask_generated: bool = False  # ask at last which pictures were generated
    stale_hours: PositiveFloat = 24.0  # after so long without a sign a place is given to somebody else
    link_days: PositiveFloat = 14.0  # how long a participant's link works
    completion_code: str = ""  # shown at the end, e.g. for Prolific
    completion_url: str = ""  # where the last page's link leads; empty: none

    def __post_init__(self) -> None:
        names = [system.name for system in self.systems]
        if len(set(names)) < len(names):
            raise ValueError(f"expected systems of different names, got {names}")
        texts = [query.text for query in self.calibration]
        if len(set(texts)) < len(texts):
            raise ValueError(f"expected calibration queries of different text, got {texts}")
        if self.least_images > self.most_images:
            raise ValueError(f"least_images {self.least_images} is more than most_images {self.most_images}")
        if self.ask_generated and not any(system.generated for system in self.systems):
            raise ValueError("ask_generated needs a system with generated: true")

    def beside(self, folder: Path) -> Self:
        """The study with its paths seen from a folder; an index's address and a diffusion model's hub name stay."""

        def place(path: str) -> str:
            return path if "://" in path else str(folder / Path(path).expanduser())

        systems = [
            system
            if system.kind == "diffusion" and not (folder / system.path).exists()
            else dataclasses.replace(system, path=place(system.path))
            for system in self.systems
        ]
        shared = [dataclasses.replace(query, images=tuple(map(place, query.images))) for query in self.calibration]
        return dataclasses.replace(self, systems=tuple(systems), calibration=tuple(shared))


def load_study(file: str | Path) -> Study:
    """Reads STUDY.yaml.

    Raises:
        UserError: no such file, no YAML, an unknown key, a value that does not fit.
    """
    file = Path(file)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"expected a study, cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} should hold keys and values, e.g. 'name: my-study', got a {type(values).__name__}")
    try:
        return TypeAdapter(Study).validate_python(values).beside(file.parent)
    except ValidationError as error:
        raise UserError(f"{file}: {_explain(error.errors()[0])}") from None


def _explain(problem: Any) -> str:
    """One of pydantic's errors as: where, expected, got; the nearest key for an unknown one."""
    place = [str(part) for part in problem["loc"]]
    key = ".".join(place) or "study"
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        group = {"systems": System, "calibration": Calibration}.get(place[0] if len(place) > 1 else "", Study)
        return f"unknown key {key!r}; {nearest(place[-1], [field.name for field in dataclasses.fields(group)])}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"{key}: {problem['msg'][:1].lower() + problem['msg'][1:]}, got {problem['input']!r}"
