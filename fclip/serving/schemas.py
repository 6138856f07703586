"""What goes in and out as JSON, with limits and examples; OpenAPI is made of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

MAX_TEXT = 1000  # characters; a model reads some 300 of them
MAX_K = 100
WHOLE = 2**53  # whole numbers below it are told apart as floats

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TEXT)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class _Strict(BaseModel):
    """An unknown key is a mistake, not a wish that is silently not granted."""

    model_config = ConfigDict(extra="forbid")


def _no_bool(number: Any) -> Any:
    if isinstance(number, bool):
        raise ValueError("expected a number")
    return number


def _as_written(number: float) -> float:
    """A whole number without its point, so that an error repeats what came."""
    return int(number) if number.is_integer() and abs(number) < WHOLE else number


def _type(value: Any) -> str | None:
    if isinstance(value, str):
        return "[words]"
    return "[number]" if isinstance(value, int | float) and not isinstance(value, bool) else None


Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_bool), AfterValidator(_as_written)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Value = Annotated[
    Annotated[Words, Tag("[words]")] | Annotated[Number, Tag("[number]")],
    Discriminator(_type, custom_error_type="value", custom_error_message="expected words or a number"),
]


class Range(_Strict):
    """Of a group of numbers; either end may be left out."""

    min: Number | None = None
    max: Number | None = None

    @model_validator(mode="after")
    def _has_an_end(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError('expected min, max or both, got neither; e.g. {"max": 50}')
        return self


class Not(_Strict):
    """Anything but these values."""

    none_of: list[Value] = Field(alias="not", min_length=1, max_length=100)


def _kind(wanted: Any) -> str | None:
    """Which of the forms is meant, so that an error speaks of that one alone."""
    if _type(wanted) is not None:
        return "[value]"
    if isinstance(wanted, (list, tuple)):
        return "[values]"
    if isinstance(wanted, (Not, dict)):
        return "[not]" if isinstance(wanted, Not) or "not" in wanted else "[range]"
    return "[range]" if isinstance(wanted, Range) else None


Filter = Annotated[
    Annotated[Value, Tag("[value]")]
    | Annotated[list[Value], Field(min_length=1, max_length=100), Tag("[values]")]
    | Annotated[Range, Tag("[range]")]
    | Annotated[Not, Tag("[not]")],
    Discriminator(
        _kind,
        custom_error_type="filter",
        custom_error_message='expected words, a number, a list of them, {"min": …, "max": …} or {"not": […]}',
    ),
]
Filters = Annotated[dict[Annotated[str, StringConstraints(max_length=200)], Filter], Field(max_length=50)]
FILTERS_EXAMPLE = {
    "gender": "Women",
    "colour": ["red", "pink"],
    "year": 2011,
    "price": {"max": 50},
    "usage": {"not": ["Sports"]},
}


class Choice(_Strict):
    """How many products, and how unlike each other."""

    k: int = Field(12, ge=1, le=MAX_K, description="Number of products.")
    diversity: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description="0: the best; 1: as unlike as possible.")


class Counted(_Strict):
    """What is counted."""

    where: str | None = Field(None, max_length=10_000, description="Filters as JSON: count what fits them.")


class Options(Choice):
    """How products are chosen and answered."""

    where: Filters | None = Field(
        None, description="Hard filters; numbers are for groups of numbers. See /facets.", examples=[FILTERS_EXAMPLE]
    )
    explain: bool = Field(False, description="Say which part of the question and which attributes made the match.")


class Question(Options):
    """Words, items of the index, and (multipart) photographs, in any mix."""

    texts: list[Text] = Field([], max_length=8, description="What is wanted.", examples=[["red summer dress"]])
    items: list[Id] = Field([], max_length=16, description="Ids of pictures to search like.", examples=[[]])
    avoid: list[Text] = Field([], max_length=8, description="Not wanted, said positively.", examples=[["stripes"]])
    liked: list[Id] = Field([], max_length=100, description="Ids that move the answers towards them.", examples=[[]])
    disliked: list[Id] = Field([], max_length=100, description="Ids that move the answers away.", examples=[[]])
    weights: dict[Literal["text", "image", "item"], Weight] | None = Field(
        None, description="Share of each kind against the others.", examples=[{"text": 1, "image": 1}]
    )
    fusion: Literal["mean", "slerp", "late", "rrf"] | None = Field(None, description="How parts become one score.")


class Feedback(Question):
    """A question again, with what was liked and disliked among its answers. Nothing is kept between requests."""

    @model_validator(mode="after")
    def _has_a_verdict(self) -> Feedback:
        if not self.liked and not self.disliked:
            raise ValueError("expected ids in liked or disliked, got none; without them ask /search")
        return self


class Found(BaseModel):
    """A product, with its picture that fits best."""

    id: str = Field(examples=["15970"])
    item: str = Field(description="The product; several pictures may be of one.")
    title: str | None
    score: float
    attributes: dict[str, Any] = Field(examples=[{"gender": "Women", "baseColour": "Red"}])
    thumbnail: str = Field(description="Address of a small JPEG.", examples=["/items/15970/thumbnail"])
    why: dict[str, Any] | None = Field(None, description="With explain: shares, reasons, and both in words.")


class Relaxation(BaseModel):
    """A filter that may be left out when no product fits."""

    group: str
    pictures: int = Field(description="So many fit without it.")


class Answers(BaseModel):
    """The best products, best first."""

    answers: list[Found]
    notes: list[str] = Field(description="What the asker should know, e.g. words that the model never saw.")
    relax: list[Relaxation] = Field(description="When no product fits: which filter to leave out.")


class Item(BaseModel):
    """A picture of the index."""

    id: str
    item: str
    title: str | None
    attributes: dict[str, Any]
    thumbnail: str


class Facet(BaseModel):
    """An attribute group that can be filtered on."""

    values: dict[str, int] = Field(description="Value → pictures that have it, the most frequent first.")
    number: bool = Field(description="Whether it can be asked by range.")


class Facets(BaseModel):
    """The groups that can be filtered on, counted."""

    pictures: int = Field(description="So many fit.")
    groups: dict[str, Facet]
    notes: list[str] = Field(description="What the asker should know: values of filters that no product has.")


class Problem(BaseModel):
    """Every error is this."""

    error: str = Field(examples=["no attribute group 'color'; did you mean 'colour'? known: colour, gender"])


class Health(BaseModel):
    status: str = Field(examples=["ok"])


class Ready(Health):
    refused: str | None = Field(
        None, description="Why a new index that lies there does not answer in the old one's place."
    )
