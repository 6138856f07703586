"""What is said when filters leave nothing: each against a shop of a few pictures."""

from __future__ import annotations

import pytest
from exact_index import ExactIndex

from fclip.queries.relaxing import advice, relaxations, unknown_values

SHOP = ExactIndex(
    [
        (str(n), str(n), [1, n], {"colour": colour, "kind": kind})
        for n, (colour, kind) in enumerate([("red", "dress"), ("red", "shoes"), ("blue", "shirt")])
    ]
)
KNOWN = {"colour": ["red", "blue"], "kind": ["dress", "shoes", "shirt"]}


@pytest.mark.parametrize(
    ("where", "helpful", "said"),
    [
        ({"colour": "blue", "kind": "dress"}, {"colour": 1, "kind": 1}, "without the filter on "),
        ({"colour": "red", "kind": "hat"}, {"kind": 2}, "without the filter on kind 2 pictures fit"),
        ({"colour": "mauve"}, {"colour": 3}, "leave out the filter on colour"),
        ({"colour": "mauve", "kind": "hat"}, {}, "leaving out one filter is not enough; leave out several"),
    ],
)
def test_the_filter_to_leave_out_is_that_which_leaves_most(where, helpful, said) -> None:
    assert relaxations(SHOP, where) == helpful
    assert advice(SHOP, where).startswith(said)


@pytest.mark.parametrize(
    ("where", "strange"),
    [
        ({}, []),
        ({"colour": "red", "kind": ["dress", "shirt"]}, []),
        ({"colour": "rde"}, ["colour=rde"]),
        ({"colour": ["red", "rde", "blau"]}, ["colour=rde", "colour=blau"]),
        ({"colour": {"not": ["rde"]}, "kind": ("hat",)}, ["colour=rde", "kind=hat"]),
        ({"colour": {"not": "rde"}}, ["colour=rde"]),
        ({"price": {"min": 5}, "year": 2011}, []),
    ],
)
def test_every_value_that_no_product_has_is_a_sentence(where, strange) -> None:
    notes = unknown_values(where, KNOWN)
    assert [note.partition(";")[0] for note in notes] == [f"no product has {value}" for value in strange]


def test_of_many_values_the_first_are_told_and_the_others_counted() -> None:
    notes = unknown_values({"colour": [f"x{n}" for n in range(5000)], "kind": "hat"}, KNOWN)
    assert len(notes) == 11
    assert notes[9] == "no product has colour=x9; known: blue, red"
    assert notes[10] == "no product has 4,991 more of the values either"
    assert len(unknown_values({"colour": [f"x{n}" for n in range(10)]}, KNOWN)) == 10
