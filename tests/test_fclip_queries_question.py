"""A question is what it says, or refused in one line of words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fclip.queries.question import text_notes


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
