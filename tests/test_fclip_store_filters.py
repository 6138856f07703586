"""Filters are understood as they are written, and what makes no sense is refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fclip.errors import UserError
from fclip.store.filters import Between, Group, NoneOf, OneOf, parse_where, where_from_text, where_in_words

SCHEMA = {
    "colour": Group("group_0", "text"),
    "trim": Group("group_1", "texts"),
    "price": Group("group_2", "number"),
}


@pytest.mark.parametrize(
    ("where", "conditions"),
    [
        (None, ()),
        ({}, ()),
        ({"colour": "red"}, (OneOf("group_0", ("red",)),)),
        (
            {"colour": ["red", "pink"], "trim": ("belt",)},
            (OneOf("group_0", ("red", "pink")), OneOf("group_1", ("belt",))),
        ),
        ({"colour": {"not": "red"}}, (NoneOf("group_0", ("red",)),)),
        ({"price": {"min": 10}}, (Between("group_2", 10, None),)),
        ({"price": {"max": "2.5", "min": None}}, (Between("group_2", None, 2.5),)),
        ({"price": {"min": -1, "max": 1, "not": [0]}}, (NoneOf("group_2", (0.0,)), Between("group_2", -1, 1))),
        ({"price": [1, "2"]}, (OneOf("group_2", (1.0, 2.0)),)),
    ],
)
def test_a_filter_becomes_conditions_on_columns(where, conditions) -> None:
    assert parse_where(where, SCHEMA) == conditions


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"color": "red"}, "no attribute group 'color' in the index; did you mean 'colour'"),
        ({"colour": []}, "expected at least one value of colour"),
        ({"colour": {}}, "expected min, max or not to filter colour by, got nothing"),
        ({"colour": {"like": "red"}}, "expected min, max or not to filter colour by, got like"),
        ({"colour": {"min": 1}}, "colour has no numbers, so it has no range; .* index it with --map numbers=colour$"),
        ({"colour": 3}, "expected words to filter colour by, got 3"),
        ({"colour": None}, "expected words to filter colour by, got None"),
        ({"colour": ["red", ["pink"]]}, r"expected words to filter colour by, got \['pink'\]"),
        ({"colour": np.arange(9999)}, "expected words to filter colour by, got array"),
        ({"price": "cheap"}, "expected a number to filter price by, got 'cheap'"),
        ({"price": True}, "expected a number to filter price by, got True"),
        ({"price": 10**400}, "expected a number to filter price by, got 10000"),
        ({"price": {"min": float("nan")}}, "expected a number to filter price by, got nan"),
        ({"price": {"min": 5, "max": 1}}, "expected price from a smaller to a larger number, got 5 to 1"),
        ({"price": {"min": None}}, "expected a number for min or max of price, got neither"),
    ],
)
def test_what_makes_no_sense_is_refused(where, message) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse_where(where, SCHEMA)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("colour=red", {"colour": ["red"]}),
        (" colour = red | pink ", {"colour": ["red", "pink"]}),
        ("colour!=red|pink", {"colour": {"not": ["red", "pink"]}}),
        ("price=10..50", {"price": {"min": 10, "max": 50}}),
        ("price=-2.5..", {"price": {"min": -2.5}}),
        ("price=..50", {"price": {"max": 50}}),
        ("style=a..b", {"style": ["a..b"]}),
        ("style=..", {"style": [".."]}),
        ("size=a=b", {"size": ["a=b"]}),
        ("age=<3", {"age": ["<3"]}),
        ("age=>= 3", {"age": [">= 3"]}),
        ("age!=<3", {"age": {"not": ["<3"]}}),
        ("width<3=yes", {"width<3": ["yes"]}),
    ],
)
def test_the_command_line_says_the_same(text, where) -> None:
    assert where_from_text([text]) == where


@pytest.mark.parametrize("text", ["colour", "=red", "colour=", "colour=red|", "!=red", ""])
def test_other_forms_are_refused(text) -> None:
    with pytest.raises(
        UserError, match=r"expected --where GROUP=VALUE, .*, GROUP=10\.\.50, GROUP=10\.\. or GROUP=\.\.50, got"
    ):
        where_from_text([text])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("price<=50", "price=..50"),
        ("price<50", "price=..50"),
        (" price >= 10 ", "price=10.."),
        ("price>9.90", "price=9.90.."),
        ("sleeve length<=50", "sleeve length=..50"),
        ("price<=50 EUR", "price=..50"),
        ("price>", "price=10.."),
        ("10<=price<=50", "GROUP=..50"),
    ],
)
def test_a_comparison_is_told_how_ranges_are_written(text, meant) -> None:
    with pytest.raises(UserError) as error:
        where_from_text([text])
    assert str(error.value).startswith(f"expected --where {meant}, got {text!r}; ranges are ")
    assert str(error.value).endswith("=10..50, ends included")


def test_a_group_is_named_once() -> None:
    with pytest.raises(UserError, match="--where names colour twice"):
        where_from_text(["colour=red", "colour!=pink"])


WORDS = ["red", "off white", "women's", "a.b", "1", "x!"]
VALUES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True)
ENDS = st.floats(-1e4, 1e4).map(lambda number: round(number, 2) + 0.0)
WANTED = st.one_of(
    VALUES,
    VALUES.map(lambda values: {"not": values}),
    ENDS.map(lambda end: {"min": end}),
    ENDS.map(lambda end: {"max": end}),
    st.tuples(ENDS, ENDS).map(lambda ends: {"min": min(ends), "max": max(ends)}),
)


@given(where=st.dictionaries(st.sampled_from(["colour", "sleeve length", "price"]), WANTED, max_size=3))
def test_a_filter_in_words_is_read_as_the_same_filter(where) -> None:
    words = where_in_words(where)
    assert where_from_text(words.split(", ") if words else []) == where
    assert json.loads(json.dumps(where)) == where
