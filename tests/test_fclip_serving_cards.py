"""Products as the page shows them."""

from __future__ import annotations

import pytest
from serving import jpeg

from fclip.index import Answer
from fclip.queries.colours import GROUP as MEASURED
from fclip.serving.asked import Asked
from fclip.serving.cards import are_square, card_of, facts_of


def answer(size: tuple[int, int] = (40, 50), **attributes) -> Answer:
    return Answer("1", "1", None, 0.0, attributes, jpeg(size=size))


@pytest.mark.parametrize(
    ("attributes", "facts"),
    [
        ({"baseColour": "Rose", MEASURED: "pink", "type": "dress"}, "Rose · dress"),
        ({"type": "dress", MEASURED: "pink"}, "pink · dress"),
        ({"type": "dress", "year": "2012", "gender": "Women"}, "Women · dress · Year 2012"),
    ],
)
def test_a_few_facts_name_a_product_and_a_measured_colour_only_where_none_is_stated(attributes, facts) -> None:
    assert facts_of(answer(**attributes)) == facts
    details = card_of(answer(**attributes), Asked(), {}).details
    assert len(details) == len(attributes)


@pytest.mark.parametrize(
    ("sizes", "square"),
    [([(64, 64)] * 2 + [(60, 80)], True), ([(64, 64)] + [(60, 80)] * 2, False), ([(80, 60)], True), ([], False)],
)
def test_frames_are_square_where_most_pictures_are(sizes, square) -> None:
    assert are_square([card_of(answer(size), Asked(), {}) for size in sizes]) is square
