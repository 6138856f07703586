"""A question is what it says, or refused in one line of words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fclip.errors import UserError
from fclip.queries.question import Query, text_notes

IMAGES = "expected paths or catalogue cells for images, got "


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"images": None}, f"{IMAGES}None; name a file, or give "),
        ({"images": 3}, f"{IMAGES}3; "),
        ({"images": ["a.jpg", None]}, f"{IMAGES}None; "),
        ({"images": b"\xff\xd8\xff" * 10**6}, IMAGES + r"b'\xff\xd8\xff"),
        ({"images": [b"\xff\xd8"]}, IMAGES + r"b'\xff\xd8'; "),
        ({"images": np.zeros((640, 480, 3), np.uint8)}, f"{IMAGES}array([[0, 0, 0], "),
        ({"images": [np.zeros((640, 480, 3))]}, f"{IMAGES}array([[[0., 0., 0.], "),
        ({"images": {"image": "a.jpg"}}, f"{IMAGES}{{'image': 'a.jpg'}}; "),
        ({"texts": b"red"}, "expected strings for texts, got b'red'"),
        ({"texts": None}, "expected strings for texts, got None"),
        ({"texts": "a", "items": [np.arange(9999)]}, "expected strings for items, got array([ 0, 1, 2, "),
        ({"texts": "a", "avoid": [["x" * 99] * 99]}, "expected strings for avoid, got ['xxxxx"),
        ({"texts": "a", "k": "4"}, "expected a whole number for k, got '4'; e.g. k=4"),
        ({"texts": "a", "k": 2.5}, "expected a whole number for k, got 2.5; e.g. k=4"),
        ({"texts": "a", "k": True}, "expected a whole number for k, got True; e.g. k=4"),
        ({"texts": "a", "k": None}, "expected a whole number for k, got None; e.g. k=4"),
        ({"texts": "a", "diversity": "0.5"}, "expected a number for diversity, got '0.5'; from 0 to 1"),
        ({"texts": "a", "diversity": True}, "expected a number for diversity, got True; from 0 to 1"),
        ({"texts": "a", "fusion": 3}, "expected a name for fusion, got 3; known: late, mean, rrf, slerp"),
        ({"texts": "a", "fusion": ["late"]}, "expected a name for fusion, got ['late']; known: "),
        ({"texts": "a", "weights": 2}, "expected a mapping for weights, got 2; e.g. {"),
        ({"texts": "a", "weights": ["text"]}, "expected a mapping for weights, got ['text']; e.g. {"),
        ({"texts": "a", "weights": {"text": "2"}}, "expected a number as weight of text, got '2'; e.g. 2"),
        ({"texts": "a", "weights": {"text": None}}, "expected a number as weight of text, got None; e.g. 2"),
        ({"texts": "a", "weights": {3: 1}}, "no weight of 3; known: image, item, text"),
        ({"texts": "a", "where": "colour=red"}, "expected a mapping for where, got 'colour=red'; e.g. {"),
        ({"texts": "a", "where": ["colour"]}, "expected a mapping for where, got ['colour']; e.g. {"),
        ({"texts": "a", "where": {3: "red"}}, "expected strings as groups of where, got 3"),
    ],
)
def test_a_value_of_another_type_is_refused_in_a_short_line(question, message) -> None:
    with pytest.raises(UserError) as error:
        Query(**question)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 220


@pytest.mark.parametrize(
    "question",
    [
        {"images": "a.jpg"},
        {"images": [Path("a.jpg"), {"bytes": None, "path": None}, {"path": "a.jpg"}]},
        {"images": Image.new("RGB", (4, 4))},
        {"images": (Image.new("RGB", (4, 4)),)},
        {"texts": np.array(["red", "dress"]), "k": np.int64(4), "diversity": np.float32(0.5)},
        {"texts": "red", "weights": {"text": np.float32(2)}, "diversity": 1, "where": {}},
    ],
)
def test_what_is_as_good_as_the_type_is_taken(question) -> None:
    assert Query(**question).kinds()


def tokenizer_of(*known: str) -> SimpleNamespace:
    """Reads at most nine words; tells those that it does not know."""
    return SimpleNamespace(
        context_length=11,
        is_truncated=lambda text: len(text.split()) > 9,
        unknown_words=lambda text: [word for word in text.split() if word not in known],
    )


@pytest.mark.parametrize(
    ("texts", "notes"),
    [
        ([], []),
        (["red", "dress red"], []),
        (["zorp zorp", "red zarp zorp"], ["the model never saw zorp, zarp in training"]),
        (["red " * 9], []),
        (["red " * 10], ["only the first 9 tokens of “" + "red " * 10 + "” are read"]),
        (["red " * 99], ["only the first 9 tokens of “" + "red " * 10 + "…” are read"]),
        (["z" * 999], ["the model never saw " + "z" * 40 + "… in training"]),
        ([f"z{n}" for n in range(10)], ["the model never saw z0, z1, z2, z3, z4, z5, z6, z7, z8, z9 in training"]),
        (
            [f"z{n}" for n in range(2010)],
            ["the model never saw z0, z1, z2, z3, z4, z5, z6, z7, z8, z9 and 2,000 more words in training"],
        ),
    ],
)
def test_a_note_names_each_unknown_word_once_and_not_all_of_many(texts, notes) -> None:
    assert text_notes(tokenizer_of("red", "dress"), texts) == notes
