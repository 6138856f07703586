"""What groups hold, and that automatic captions leave numbers out."""

import pytest

from experiments.train import captions_of
from fclip.captions import Captions
from fclip.catalogue.assemble import assemble
from fclip.catalogue.kinds import group_kinds, word_groups
from fclip.config import CaptionConfig
from fclip.errors import UserError

GROUPS = {
    "colour": ["red", "blue", None],
    "price": ["7.84", None, "12"],
    "size": ["38", "M", "40"],  # a word among them
    "tags": [["1"], ["2"], None],
    "unknown": [None, None, None],
}


def catalogue(*names):
    return assemble({"id": list("abc"), "image": [""] * 3}, {name: GROUPS[name] for name in names})


def test_a_group_is_of_numbers_when_every_known_value_is_one():
    kinds = {"colour": "text", "price": "number", "size": "text", "tags": "texts", "unknown": "text"}
    assert group_kinds(catalogue(*GROUPS)) == kinds
    assert word_groups(catalogue(*GROUPS)) == ["colour", "size", "tags", "unknown"]


def test_automatic_captions_say_no_price_and_a_template_does():
    garments = catalogue("colour", "price")
    row = garments[0]["attributes"]
    automatic = captions_of(CaptionConfig(), word_groups(garments))
    assert automatic.groups == ("colour",)
    assert automatic.render(row) == "red colour"
    named = captions_of(CaptionConfig(template="{colour} for {price} euros"), word_groups(garments))
    assert named.render(row) == Captions("{colour} for {price} euros").render(row) == "red for 7.84 euros"


def test_a_catalogue_of_numbers_alone_makes_no_captions():
    with pytest.raises(UserError, match="no attribute groups of words"):
        captions_of(CaptionConfig(), word_groups(catalogue("price")))
