"""Captions: what the template language means, and what a sampled caption may say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fclip.captions import STYLES, Captions, captions_for, parse
from fclip.errors import UserError

FINE = ["pattern", "sleeve", "length", "neckline", "fabric", "fit"]
DRAWN = ["category", "colour", "pattern", "sleeve", "neckline", "length", "fabric", "fit"]
PRODUCTS = ["gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "usage"]
VALUES = st.from_regex(r"[a-z]{2,8}(-[a-z]{2,5}|\.)?", fullmatch=True)
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)


def some(groups):
    """Attributes of these groups: each known, None, missing, or (of several values) a list."""
    return st.dictionaries(st.sampled_from(groups), st.none() | VALUES | st.lists(VALUES, max_size=3))


def marked(groups):
    """Each group's value is a word that stands nowhere else, so that a caption shows which groups it states."""
    return st.sets(st.sampled_from(groups)).map(lambda known: {g: f"value{groups.index(g)}" for g in known})


def test_the_papers_sentence():
    """Dress-UP, section 4."""
    attributes = {
        "pattern": "solid",
        "sleeve": "long sleeve",
        "length": None,
        "neckline": "v-shaped",
        "fabric": "chiffon",
        "fit": "conventional",
    }
    assert captions_for(FINE).render(attributes) == (
        "garment with solid pattern, long sleeve, v-shaped neckline, chiffon fabric, conventional fit"
    )


def test_a_product_tables_sentence():
    shoes = {
        "gender": "Women",
        "masterCategory": "Footwear",
        "articleType": "Casual Shoes",
        "baseColour": "Black",
        "season": "Summer",
        "usage": None,
    }
    assert captions_for(PRODUCTS).render(shoes) == "women's black casual shoes, summer"


@given(some(FINE))
@few
def test_the_fine_sentence_lists_what_is_known(attributes):
    def said(group, noun):
        value = attributes.get(group) or ""
        words = value if isinstance(value, str) else " and ".join(value)
        return words and f"{words} {noun}".strip()

    nouns = {"pattern": "pattern", "sleeve": "", "length": "length", "neckline": "neckline", "fabric": "fabric"}
    parts = [said(group, noun) for group, noun in (nouns | {"fit": "fit"}).items()]
    known = ", ".join(part for part in parts if part)
    assert captions_for(FINE).render(attributes) == (f"garment with {known}" if known else "")


@pytest.mark.parametrize(
    ("template", "attributes", "caption"),
    [
        ("{a} dress", {"a": "Red"}, "red dress"),
        ("{a} dress", {}, ""),  # states nothing
        ("dress[ in {a}]", {"a": "red"}, "dress in red"),
        ("dress[ in {a}][, {b}]", {"b": "long"}, "dress, long"),
        ("dress[ {a} and {b}][ {c}]", {"a": "x", "c": "z"}, "dress z"),  # one unknown takes its whole part along
        ("dress[ with [{a}, ][{b}]][ {c}]", {"c": "z"}, "dress z"),  # "with" goes with the last of its parts
        ("dress[ with [{a}, ][{b}]]", {"a": "x"}, "dress with x"),
        ("[{a} dress[ in {b}]]", {"a": "x"}, "x dress"),  # it names one itself, so it stays without its parts
        ("[{a}[ of {b}][ with {c}]]", {"a": ["red", "blue"], "c": "x"}, "red and blue with x"),
        ("{a}", {"a": [" ", "red", ""]}, "red"),
        ("[{size [cm]} cm]", {"size [cm]": "40"}, "40 cm"),
        ("{a|possessive} shoes", {"a": "Women"}, "women's shoes"),
        ("{a|possessive} shoes", {"a": "BOYS"}, "boys' shoes"),
        ("{a|possessive} shoes", {"a": "Unisex"}, "unisex shoes"),
        ("{a} , {b} ,{c},", {"a": "x", "c": "z"}, "x, z"),
    ],
)
def test_the_template_language(template, attributes, caption):
    assert Captions(template).render(attributes) == caption


@pytest.mark.parametrize("groups", [FINE, DRAWN, PRODUCTS, ["colour", "size"]])
@given(st.data())
@few
def test_no_caption_has_loose_ends(groups, data):
    captions = captions_for(groups, drop=0.5)
    attributes = data.draw(some(groups))
    written = [captions.sample(attributes, np.random.default_rng(seed))[0] for seed in range(5)]
    for caption in [captions.render(attributes), *written]:
        assert not re.search(r"\s\s|\s,|,,|,\S|^[\s,]|[\s,]$|[A-Z\[\]{}]", caption)
        assert not re.search(r"\b(with|in|for|and)$", caption)
        assert bool(caption) == any(attributes.get(group) for group in captions.groups)


@pytest.mark.parametrize("groups", [FINE, DRAWN, PRODUCTS, ["colour", "size"]])
@given(data=st.data(), seed=SEEDS, drop=st.floats(0, 0.9), whole=st.floats(0, 1))
@few
def test_a_sampled_caption_states_the_groups_that_it_reports_and_nothing_else(groups, data, seed, drop, whole):
    captions = captions_for(groups, drop=drop, whole=whole)
    attributes = data.draw(marked(groups))
    caption, stated = captions.sample(attributes, np.random.default_rng(seed))
    said = {group for group, value in attributes.items() if re.search(rf"\b{value}\b", caption)}
    assert said == stated <= set(captions.groups)
    assert len(re.findall(r"value\d", caption)) == len(stated)
    assert bool(stated) == bool(set(attributes) & set(captions.groups))
    assert (caption, stated) == captions.sample(attributes, np.random.default_rng(seed))


@given(attributes=marked(DRAWN), seed=SEEDS)
@few
def test_without_dropping_and_paraphrases_training_reads_the_canonical_caption(attributes, seed):
    plain = captions_for(DRAWN, paraphrases=())
    assert plain.sample(attributes, np.random.default_rng(seed)) == (plain.render(attributes), set(attributes))
    whole = captions_for(DRAWN, paraphrases=(), drop=0.9, whole=1.0)
    assert whole.sample(attributes, np.random.default_rng(seed))[0] == plain.render(attributes)


def test_attributes_are_dropped_as_often_as_asked():
    """Of n attributes, a share drop stays out in a share 1 - whole of the captions, except for the one that is kept."""
    n, drop, whole = 5, 0.4, 0.25
    captions = captions_for(groups := list("abcde"), drop=drop, whole=whole)
    rng = np.random.default_rng(0)
    attributes = dict.fromkeys(groups, "x")
    stated = [len(captions.sample(attributes, rng)[1]) for _ in range(4000)]
    assert np.mean(stated) == pytest.approx(n - (1 - whole) * drop * (n - 1), abs=0.06)
    assert min(stated) >= 1


def test_every_sentence_of_a_style_is_used_equally():
    captions = captions_for(PRODUCTS, drop=0.0)
    shoes = {"gender": "men", "articleType": "shoes", "baseColour": "red", "season": "winter", "usage": "sports"}
    rng = np.random.default_rng(0)
    drawn = [captions.sample(shoes, rng)[0] for _ in range(900)]
    assert {caption: drawn.count(caption) // 100 for caption in set(drawn)} == {
        "men's red shoes, winter, sports": pytest.approx(3, abs=1),
        "red shoes for men, winter, sports wear": pytest.approx(3, abs=1),
        "winter sports men's shoes in red": pytest.approx(3, abs=1),
    }


@pytest.mark.parametrize(("style", "groups"), [("deepfashion", FINE), ("drawn", DRAWN), ("products", PRODUCTS)])
def test_a_catalogues_groups_choose_its_style(style, groups):
    assert captions_for(groups).template == captions_for(groups, style).template == STYLES[style][0]


def test_a_catalogue_of_its_own_kind_gets_a_list():
    captions = captions_for(["shade", "heel"])
    assert captions.groups == ("shade", "heel")
    assert captions.render({"shade": "red", "heel": "high"}) == "red shade, high heel"


@given(st.text(alphabet="ab,{}[]| ", max_size=12))
@few
def test_any_template_is_read_or_refused_in_one_line(template):
    try:
        nodes = parse(template)
    except UserError as error:
        told = str(error)
        assert "\n" not in told
        return
    outside, fields = re.subn(r"\{[^{}]+\}", "", template)  # a group may be called "size [cm]"
    assert outside.count("[") == outside.count("]")
    assert template.count("{") == template.count("}") == fields
    assert (nodes == []) == (template == "")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Captions("dress[ in {a}"), r"'\[' without '\]'"),
        (lambda: Captions("dress in {a}]"), r"']' without '\['"),
        (lambda: Captions("dress in {a"), "lone '{'"),
        (lambda: Captions("{}"), "expected {group}"),
        (lambda: Captions("{a|plural}"), r"got \{a\|plural\}"),
        (lambda: Captions("a dress"), "names no attribute"),
        (lambda: Captions("{a}", ("{b}",)), "a paraphrase names b, which the template does not; it names a"),
        (lambda: Captions("{a}", drop=1.0), "shares"),
        (lambda: captions_for(["a"], "draw"), "did you mean 'drawn'"),
        (lambda: captions_for([]), "no attribute groups"),
    ],
)
def test_a_bad_template_is_one_clear_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
