"""The filters of the page."""

from __future__ import annotations

import pytest

from fclip.serving.asked import Asked
from fclip.serving.panel import LISTED, facets_of, label, ordered, swatch

WHOLE = {"usage": {"Casual": 5, "Sports": 2}, "year": {"2012": 3, "2009": 3, "2011": 1}, "one": {"only": 7}}
COLOURS = {"baseColour": {"Red": 4, "Blue": 2, "Pink": 2}}


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("baseColour", "Base colour"),
        ("product_type", "Product type"),
        ("gender", "Gender"),
        ("colour (measured)", "Colour (measured)"),
        ("UPC", "UPC"),
        ("_", "_"),
    ],
)
def test_groups_have_names_for_people(group, words) -> None:
    assert label(group) == words


def test_what_people_miss_most_comes_first() -> None:
    assert ordered(["pattern", "year", "baseColour", "gender"]) == ["gender", "baseColour", "year", "pattern"]


def test_facets_count_what_fits_and_leave_out_what_tells_nothing_apart() -> None:
    asked = Asked.read([("f.baseColour", "Pink"), ("f.baseColour", "Odd"), ("min.year", "2010")])
    counts = {"usage": {"Sports": 2, "Casual": 1}, "baseColour": {"Blue": 1, "Red": 3, "Pink": 2}}
    colour, year, usage = facets_of(counts, WHOLE | COLOURS, {"year"}, asked)
    assert [(c.value, c.pictures, c.chosen) for c in colour.choices] == [
        *(("Pink", 2, True), ("Odd", 0, True)),
        *(("Red", 3, False), ("Blue", 1, False)),
    ]
    assert (colour.chosen, year.chosen, usage.chosen) == ("Pink, Odd", "from 2010", "")
    assert (year.bounds, year.choices) == (("2009", "2012"), ())
    assert [c.value for c in usage.choices] == ["Sports", "Casual"]


def test_a_group_of_one_value_is_shown_while_it_is_chosen() -> None:
    assert "one" in [facet.group for facet in facets_of(WHOLE, WHOLE, {"year"}, Asked.read([("f.one", "only")]))]
    assert "one" not in [facet.group for facet in facets_of(WHOLE, WHOLE, {"year"}, Asked())]


def test_of_many_values_the_frequent_are_listed_and_others_suggested() -> None:
    brands = {"brand": {f"b{i:03}": 1000 - i for i in range(500)}}
    (brand,) = facets_of(brands, brands, set(), Asked.read([("f.brand", "b400")]))
    assert [c.value for c in brand.choices] == ["b400", *(f"b{i:03}" for i in range(LISTED - 1))]
    assert brand.suggested[:2] == ("b039", "b040")
    assert "b400" not in brand.suggested


@pytest.mark.parametrize(
    ("group", "value", "colour"),
    [
        ("baseColour", "Red", "red"),
        ("color", "Navy Blue", "navy"),
        ("colour", "Sea Green", "seagreen"),
        ("colour", "Off White", "white"),
        ("colour", "Rust", "orange"),
        ("colour", "Multi", None),
        ("colour", "", None),
        ("season", "Red", None),
        ("colour", '"/><script>', None),
    ],
)
def test_colours_have_a_swatch(group, value, colour) -> None:
    assert swatch(group, value) == colour
