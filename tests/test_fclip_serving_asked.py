"""What is asked ↔ the page's address."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fclip.errors import UserError
from fclip.serving.asked import MOST_SHOWN, SHOWN, Asked
from fclip.serving.schemas import Question

BOXES = ["q", "avoid", "varied", "f.", "f.a.b", "f.é", "min.price", "max.price", "min.a b", "images", "junk", ""]
NAMES = st.sampled_from([*BOXES, "item", "liked", "disliked", "forget", "drop", "clear", "k"])
ODD = ["", " ", "x", "a b", "x/y?z=1&w#", "é", "12", "36", "-1", "9" * 20, "٣", "price", "a.b"]
VALUES = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def pairs_of(address: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(address).query, keep_blank_values=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_an_address_is_read_as_what_was_asked(pairs) -> None:
    asked = Asked.read(pairs)
    address = asked.address()
    assert Asked.read(pairs_of(address)) == asked
    assert pairs_of(address) == list(asked.pairs())
    assert address.startswith("/")
    assert not {"forget", "drop", "clear", "images", "junk"} & {name for name, _ in asked.pairs()}


def test_the_last_verdict_counts_and_may_be_taken_back() -> None:
    asked = Asked.read([("liked", "a"), ("disliked", "b"), ("item", "c"), ("disliked", "a")])
    assert (asked.liked, asked.disliked) == ([], ["b", "a"])
    asked = Asked.read([*asked.pairs(), ("liked", "b"), ("forget", "a"), ("forget", "c")])
    assert (asked.liked, asked.disliked, asked.items) == (["b"], [], ())


def test_a_filter_is_dropped_alone_or_with_all_others() -> None:
    pairs = [("f.colour", "red"), ("f.colour", "pink"), ("max.price", "50"), ("f.a.b", "x")]
    assert Asked.read(pairs).where() == {"colour": ["red", "pink"], "a.b": ["x"], "price": {"max": 50.0}}
    assert Asked.read([*pairs, ("drop", "colour")]).where() == {"a.b": ["x"], "price": {"max": 50.0}}
    assert Asked.read([*pairs, ("drop", "price")]).where() == {"colour": ["red", "pink"], "a.b": ["x"]}
    assert Asked.read([*pairs, ("clear", "filters")]).where() == {}


def test_a_question_is_one_that_the_interface_takes() -> None:
    pairs = [("q", " red dress "), ("avoid", "stripes, ,logos,"), ("item", "1"), ("liked", "2"), ("disliked", "3")]
    asked = Asked.read([*pairs, ("min.price", "9,90"), ("max.price", "20"), ("varied", "1"), ("k", "24")])
    question = Question(**asked.question())
    assert (question.texts, question.avoid, question.items) == (["red dress"], ["stripes", "logos"], ["1"])
    assert (question.liked, question.disliked, question.k) == (["2"], ["3"], 24)
    assert question.diversity > 0
    assert question.model_dump(by_alias=True)["where"] == {"price": {"min": 9.9, "max": 20.0}}
    assert Question(**Asked().question()) == Question(k=SHOWN)


def test_more_like_one_keeps_the_filters_and_lets_go_of_the_rest() -> None:
    pairs = [("q", "dress"), ("liked", "1"), ("f.gender", "Women"), ("avoid", "logos"), ("k", "24")]
    assert list(Asked.read(pairs).like("a&b").pairs()) == [("avoid", "logos"), ("item", "a&b"), ("f.gender", "Women")]


@pytest.mark.parametrize(("k", "shown"), [("0", SHOWN), ("24", 24), ("9999", MOST_SHOWN), ("x", SHOWN), ("-3", SHOWN)])
def test_the_number_of_products_stays_within_bounds(k, shown) -> None:
    assert Asked.read([("k", k)]).k == shown


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("min.price", "cheap")], "expected a number for price, got 'cheap'"),
        ([("min.price", "inf")], "expected a number for price, got 'inf'"),
        ([("min.price", "20"), ("max.price", "10")], "from a smaller to a larger number, got 20 to 10"),
        ([("q", "x" * 1001)], "at most 1,000 characters for what you look for, got 1,001"),
        ([("avoid", "x" * 1001)], "for what to avoid"),
        ([("avoid", "a,b,c,d,e,f,g,h,i")], "at most 8 things to avoid, got 9"),
    ],
)
def test_what_cannot_be_asked_is_said_in_words(pairs, words) -> None:
    with pytest.raises(UserError, match=words):
        Asked.read(pairs).question()
