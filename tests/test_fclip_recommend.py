"""Words and photographs become one question, and the model that built the index answers it."""

from __future__ import annotations

import numpy as np
import pytest
from exact_index import ExactIndex
from hypothesis import given, settings
from hypothesis import strategies as st

from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.embedding import embed_pictures, embed_texts
from fclip.errors import UserError
from fclip.images import UnreadableImageError
from fclip.index import build_index
from fclip.queries.fusion import FUSIONS
from fclip.recommend import EncodedQuery, ModelEncoder, Query, Recommender, query_vector


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.fixture
def photos(catalogue) -> list:
    return catalogue["image"][:4]


@pytest.fixture
def folders(tmp_path, model, catalogue):
    """An index, and the checkpoint that it was built with."""
    save_checkpoint(model, tmp_path / "model")
    build_index(tmp_path / "index", load_checkpoint(tmp_path / "model"), catalogue, str(tmp_path / "model"))
    return tmp_path / "index", tmp_path / "model"


def test_one_text_is_its_own_embedding(model) -> None:
    expected = embed_texts(model, ["red dress"])[0]
    np.testing.assert_allclose(query_vector(model, texts=["red dress"]), expected, atol=1e-6)
    np.testing.assert_allclose(query_vector(model, texts=["red dress"], text_weight=0.1), expected, atol=1e-6)


def test_one_picture_is_its_own_embedding(model, photos) -> None:
    expected = embed_pictures(model, photos[:1])[0]
    np.testing.assert_allclose(query_vector(model, images=photos[:1]), expected, atol=1e-6)


@pytest.mark.parametrize("weight", [0, 0.3, 0.5, 1])
def test_each_modality_is_averaged_before_the_two_are_mixed(model, photos, weight) -> None:
    texts = ["red dress", "with a belt"]
    words = unit(embed_texts(model, texts).mean(axis=0))
    pictures = unit(embed_pictures(model, photos).mean(axis=0))
    mixed = query_vector(model, texts, photos, weight)
    np.testing.assert_allclose(mixed, unit(weight * words + (1 - weight) * pictures), atol=1e-6)
    assert np.linalg.norm(mixed) == pytest.approx(1)


def test_more_photographs_do_not_outvote_a_sentence(model, photos) -> None:
    once = query_vector(model, ["red dress"], photos[:1])
    np.testing.assert_allclose(query_vector(model, ["red dress"], photos[:1] * 5), once, atol=1e-6)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({}, "a text or a picture to search with, got neither"),
        ({"texts": ["red", " "]}, "empty text"),
        ({"texts": ["red"], "text_weight": 1.1}, r"between 0 and 1, got 1\.1"),
    ],
)
def test_an_empty_question_is_refused(model, question, message) -> None:
    with pytest.raises(UserError, match=message):
        query_vector(model, **question)


def test_an_unreadable_photograph_is_refused(model, tmp_path) -> None:
    with pytest.raises(UnreadableImageError, match=r"nowhere\.jpg"):
        query_vector(model, images=[tmp_path / "nowhere.jpg"])


def test_a_recommender_finds_the_very_picture_that_is_asked_with(folders, catalogue) -> None:
    recommender = Recommender.open(folders[0])
    for row in (0, 7, 20):
        best = recommender.ask(images=[catalogue[row]["image"]], k=1)[0]
        assert (best.id, best.score) == (catalogue[row]["id"], pytest.approx(1, abs=1e-5))


def test_filters_reach_the_index(folders) -> None:
    answers = Recommender.open(folders[0]).ask(["dress"], where={"category": "dress"}, k=50)
    assert answers
    assert {answer.attributes["category"] for answer in answers} == {"dress"}


def test_a_checkpoint_that_has_moved_must_be_named(folders) -> None:
    index, model = folders
    moved = model.rename(model.with_name("moved"))
    with pytest.raises(UserError, match=r"which is no longer in .*model; name its folder with --checkpoint DIR"):
        Recommender.open(index)
    assert Recommender.open(index, moved).ask(["dress"])


def test_an_index_that_does_not_know_its_checkpoint_asks_for_it(tmp_path, model, catalogue) -> None:
    build_index(tmp_path / "index", model, catalogue)
    with pytest.raises(UserError, match="does not know where that lies; name its folder with --checkpoint"):
        Recommender.open(tmp_path / "index")


def test_another_model_is_refused(folders, build, tmp_path) -> None:
    save_checkpoint(build(embed_dim=8), tmp_path / "other")
    with pytest.raises(UserError, match="was built with model"):
        Recommender.open(folders[0], tmp_path / "other")


# --- questions of several parts, on an index in memory ---

COLOURS, KINDS = ["red", "blue", "green"], ["dress", "shirt", "shoes"]
WORDS = {word: place for place, word in enumerate([*COLOURS, *KINDS])}


class Words:
    """An encoder whose every word is an axis; a picture is given by its words, as a name."""

    fingerprint = "f00"

    def embed_texts(self, texts):
        known = [[WORDS[word] for word in text.split() if word in WORDS] for text in texts]
        return np.stack([unit(np.eye(8, dtype=np.float32)[places].sum(0) + 1e-3) for places in known])

    def embed_pictures(self, sources):
        return self.embed_texts([str(source).removesuffix(".jpg") for source in sources])


def make_shop(views=2, seed=0):
    """Five products of each colour and kind, in `views` pictures that look a little different."""
    rng, rows = np.random.default_rng(seed), []
    for number, (colour, kind) in enumerate([(c, k) for c in COLOURS for k in KINDS] * 5):
        for view in range(views):
            vector = Words().embed_texts([f"{colour} {kind}"])[0] + rng.normal(size=8) * 0.15
            rows.append((f"{number}/{view}", f"p{number}", vector, {"colour": colour, "kind": kind}))
    return ExactIndex(rows)


@pytest.fixture(scope="module")
def shop():
    return Recommender(make_shop(), Words())


def same(some, others):
    assert [answer.id for answer in some] == [answer.id for answer in others]
    assert [answer.score for answer in some] == pytest.approx([answer.score for answer in others], abs=1e-5)


def kinds_of(answers):
    return {(answer.attributes["colour"], answer.attributes["kind"]) for answer in answers}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_photo_and_a_changed_word_find_the_changed_product(shop, fusion) -> None:
    answers = shop.ask(["blue"], ["red dress.jpg"], k=5, fusion=fusion)
    assert len({answer.item for answer in answers}) == 5
    assert ("blue", "dress") in kinds_of(answers)
    assert kinds_of(shop.ask(["blue"], ["dress.jpg"], k=5, fusion=fusion)) == {("blue", "dress")}


def test_one_part_is_a_plain_search_of_the_index(shop) -> None:
    (vector,) = Words().embed_texts(["red"])
    for question in ({"texts": ["red"]}, {"images": ["red.jpg"]}):
        same(shop.ask(**question, k=9), shop.index.search(vector, 9))


@given(
    fusion=st.sampled_from(list(FUSIONS)),
    texts=st.lists(st.sampled_from(list(WORDS)), min_size=1, max_size=2),
    image=st.sampled_from(list(WORDS)),
)
@settings(max_examples=30, deadline=None)
def test_a_weight_of_zero_leaves_a_kind_out(shop, fusion, texts, image) -> None:
    both = {"texts": texts, "images": [image], "k": 6, "fusion": fusion}
    only_words = shop.ask(texts, k=6, fusion=fusion)
    same(shop.ask(**both, weights={"image": 0}), only_words)
    same(shop.ask(**both, weights={"text": 0}), shop.ask(images=[image], k=6, fusion=fusion))


@given(
    fusion=st.sampled_from(list(FUSIONS)),
    images=st.lists(st.sampled_from([f"{c} {k}" for c in COLOURS for k in KINDS]), min_size=2, max_size=4).flatmap(
        lambda names: st.tuples(st.just(names), st.permutations(names))
    ),
)
@settings(max_examples=30, deadline=None)
def test_the_order_of_photographs_does_not_matter(shop, fusion, images) -> None:
    one, other = ({a.item: a.score for a in shop.ask(["red"], list(names), k=10, fusion=fusion)} for names in images)
    assert one == pytest.approx(other, abs=1e-5)


def test_an_item_is_its_picture_but_its_product_does_not_answer(shop) -> None:
    vector = shop.index.vectors(["7/1"])[0]
    expected = [answer for answer in shop.index.search(vector, 9) if answer.item != "p7"]
    same(shop.ask(items=["7/1"], k=8), expected[:8])


def test_an_unknown_item_names_the_nearest(shop) -> None:
    for kind in ("items", "liked", "disliked"):
        with pytest.raises(UserError, match=r"no picture '7/l'.* did you mean '7/1'"):
            shop.ask(["red"], **{kind: ["7/l"]})


@given(
    liked=st.sets(st.sampled_from([f"{n}/0" for n in range(45)]), max_size=3),
    disliked=st.sets(st.sampled_from([f"{n}/1" for n in range(45)]), max_size=3),
)
@settings(max_examples=20, deadline=None)
def test_taking_verdicts_back_gives_the_old_answer(shop, liked, disliked) -> None:
    before = shop.ask(["red"], k=8)
    shop.ask(["red"], liked=list(liked), disliked=list(disliked), k=8)
    assert shop.ask(["red"], liked=[], disliked=[], k=8) == before


def test_likes_move_the_answers_and_dislikes_hide_theirs(shop) -> None:
    dress = next(a.id for a in shop.ask(["dress"], k=50) if a.attributes["colour"] == "green")
    answers = shop.ask(["dress"], liked=[dress], k=4)
    assert kinds_of(answers) == {("green", "dress")}
    assert dress.split("/")[0] in {answer.id.split("/")[0] for answer in answers}
    disliked = shop.ask(["dress"], disliked=[answers[0].id], k=50)
    assert answers[0].item not in {answer.item for answer in disliked}
    assert len(disliked) == 44


def test_likes_alone_are_a_question(shop) -> None:
    liked = [a.id for a in shop.ask(["red shoes"], k=2)]
    answers = shop.ask(liked=liked, k=3)
    assert kinds_of(answers) == {("red", "shoes")}
    assert not {f"p{name.split('/')[0]}" for name in liked} & {answer.item for answer in answers}


def test_what_is_avoided_goes_down_and_nothing_else_changes(shop) -> None:
    plain = {a.item: a.score for a in shop.ask(["dress"], k=50)}
    without = shop.ask(["dress"], avoid=["red"], k=50)
    assert kinds_of(without[:10]) == {("blue", "dress"), ("green", "dress")}
    for answer in without:
        assert answer.score <= plain[answer.item] + 1e-6
    assert {a.item for a in without if a.score < plain[a.item] - 1e-4} >= {
        a.item for a in without if a.attributes["colour"] == "red"
    }


def test_candidates_away_from_a_phrase_are_fetched_too(monkeypatch) -> None:
    """In a large catalogue the nearest to the question may all be what is to be avoided."""
    rows = [(f"r{n}", f"r{n}", [1, 1, 0.001 * n], {}) for n in range(400)]
    rows += [(f"b{n}", f"b{n}", [1, 0, 0.4], {}) for n in range(5)] + [
        (f"o{n}", f"o{n}", [0, 0.2, 1], {}) for n in range(300)
    ]
    shop = Recommender(ExactIndex(rows), type("Axes", (), {"fingerprint": "f00", "embed_texts": axes})())
    found = shop.index.candidates(np.array([1, 0.6, 0]), 300)
    assert not any(name.startswith("b") for name in found.ids)
    assert {answer.id[0] for answer in shop.ask(["question"], avoid=["phrase"], k=5)} == {"b"}


def axes(self, texts):
    known = {"question": [1, 0.6, 0], "phrase": [0, 1, 0]}
    return np.stack([unit(np.array(known[text], np.float32)) for text in texts])


def test_diversity_shows_more_kinds(shop) -> None:
    assert len(kinds_of(shop.ask(["red"], k=4, diversity=0.7))) > len(kinds_of(shop.ask(["red dress"], k=4)))
    same(shop.ask(["red"], ["dress.jpg"], k=8, diversity=0.0), shop.ask(["red"], ["dress.jpg"], k=8))


def test_filters_hold_in_every_question(shop) -> None:
    for extra in ({"images": ["red shirt"]}, {"avoid": ["blue"]}, {"diversity": 0.5}, {"liked": ["3/0"]}):
        answers = shop.ask(["dress"], where={"colour": "blue"}, k=20, **extra)
        assert {answer.attributes["colour"] for answer in answers} == {"blue"}
        assert len(answers) == 15
    assert shop.ask(["dress"], ["red shirt"], where={"colour": "mauve"}) == []


def test_a_product_of_many_pictures_does_not_crowd_out_the_others() -> None:
    rng = np.random.default_rng(0)
    many = [(f"many{n}", "many", [1, 0.001 * n, 0], {}) for n in range(1500)]
    few = [(f"few{n}", f"few{n}", rng.normal(size=3), {}) for n in range(40)]
    shop = Recommender(ExactIndex(many + few), type("Axes", (), {"fingerprint": "f00", "embed_texts": axes})())
    answers = shop.ask(["question"], avoid=["phrase"], k=30)
    assert len({answer.item for answer in answers}) == 30


def test_answers_tell_why(shop) -> None:
    answers = shop.ask(["blue shirts"], ["photos/dress.jpg"], items=["0/0"], liked=["8/0"], k=3, explain=True)
    for answer in answers:
        assert [(share.kind, share.name) for share in answer.why.shares] == [
            ("text", "“blue shirts”"),
            ("image", "dress.jpg"),
            ("item", "0/0"),
        ]
        assert sum(share.share for share in answer.why.shares) == pytest.approx(1)
    [best] = shop.ask(
        ["blue dress"], avoid=["dress"], items=["0/0"], k=1, explain=True, where={"colour": "blue", "kind": "dress"}
    )
    assert [(r.group, r.value, r.asked_by) for r in best.why.reasons] == [
        ("colour", "blue", ("“blue dress”",)),
        ("kind", "dress", ("“blue dress”", "0/0")),
    ]
    assert best.why.penalty > 0
    assert [answer.why for answer in shop.ask(["red"], ["dress"])] == [None] * 4


def test_what_is_deleted_while_it_is_asked_for_is_left_out() -> None:
    index = make_shop()
    before = Recommender(index, Words()).ask(["red"], ["dress"], k=4, explain=True)
    read = index.read
    index.read = lambda ids: [answer for answer in read(ids) if answer.id != before[1].id]
    after = Recommender(index, Words()).ask(["red"], ["dress"], k=4, explain=True)
    assert after == [before[0], *before[2:]]


def test_a_photograph_asks_for_what_the_products_nearest_to_it_are(shop) -> None:
    [answer] = shop.ask(["red"], ["shoes"], k=1, explain=True)
    assert ("kind", "shoes", ("shoes",)) in [(r.group, r.value, r.asked_by) for r in answer.why.reasons]


def test_a_question_is_answered_without_a_model(shop) -> None:
    encoded = shop.encode(Query(["red"], ["dress"], avoid=["blue"], k=7))
    assert [len(v) for v in (encoded.texts, encoded.images, encoded.avoid)] == [1, 1, 1]
    copied = EncodedQuery(encoded.query, encoded.texts, encoded.images, encoded.avoid)
    without = Recommender(shop.index, type("No", (), {"fingerprint": "f00"})())
    same(without.answer(copied), shop.ask(["red"], ["dress"], avoid=["blue"], k=7))


def test_a_simple_question_searches_once_and_reads_no_sample(shop, monkeypatch) -> None:
    index = make_shop()
    del index.sample, index.mean
    Recommender(index, Words()).ask(["red"])
    assert len(index.searches) == 1


@pytest.mark.parametrize(
    ("question", "notes"),
    [
        ({"texts": ["red"]}, []),
        ({"texts": ["red"], "where": {"colour": "red", "kind": ["dress", "shoes"]}}, []),
        (
            {"items": ["0/0"], "where": {"colour": ["red", "rde"]}},
            ["no product has colour=rde; did you mean 'red'? known: blue, green, red"],
        ),
        (
            {"images": ["red.jpg"], "where": {"colour": "mauve", "kind": "dress"}},
            [
                "no product has colour=mauve; known: blue, green, red",
                "without the filter on colour 30 pictures fit",
            ],
        ),
    ],
)
def test_notes_tell_what_the_asker_should_know(shop, question, notes) -> None:
    assert shop.notes(**question) == notes
    assert shop.notes(Query(**question)) == notes


def test_notes_tell_which_words_are_not_read(folders) -> None:
    recommender = Recommender.open(folders[0])
    unseen, cut = recommender.notes(["zorp zorp", "red dress " * 1000], avoid=["a zarp"])
    assert unseen.startswith("the model never saw zorp, ")
    assert unseen.count("zorp") == unseen.count("zarp") == 1
    assert cut.startswith("only the first ")
    with pytest.raises(UserError, match="did you mean 'category'"):
        recommender.notes(["dress"], where={"categoyr": "dress"})
    with pytest.raises(UserError, match="expected words to filter category by, got 3"):
        recommender.notes(["dress"], where={"category": 3})


def test_one_word_or_picture_need_not_be_a_list() -> None:
    assert Query("red dress", {"path": "a.jpg", "bytes": None}).texts == ("red dress",)
    assert Query(texts=["a"], items="7").items == ("7",)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({}, "a text, a picture, an item or a like to search with, got nothing"),
        ({"avoid": ["red"]}, "got only what to avoid"),
        ({"disliked": ["1"]}, "got only what to avoid"),
        ({"texts": [""]}, "empty text"),
        ({"texts": 3}, "expected strings for texts, got 3"),
        ({"texts": ["a", None]}, "expected strings for texts, got None"),
        ({"items": [7]}, "expected strings for items, got 7"),
        ({"texts": ["a"], "avoid": [" "]}, "empty text"),
        ({"texts": ["a"], "k": 0}, "at least 1 answer"),
        ({"texts": ["a"], "diversity": 1.5}, "between 0 and 1, got 1.5"),
        ({"texts": ["a"], "fusion": "lat"}, "did you mean 'late'"),
        ({"texts": ["a"], "weights": {"txt": 1}}, "did you mean 'text'"),
        ({"texts": ["a"], "weights": {"text": -1}}, "weight of 0 or more for text, .*got -1"),
        ({"texts": ["a"], "weights": {"text": float("nan")}}, "weight of 0 or more"),
        ({"texts": ["a"], "weights": {"text": 0}}, "has weight 0"),
        ({"texts": ["a"], "weights": {"text": 10**400}}, r"weight of 0 or more for text, up to 1e\+06, got 1000"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(question, message) -> None:
    with pytest.raises(UserError, match=message):
        Query(**question)


def test_more_photographs_leave_the_words_their_weight() -> None:
    both = Query(["a"], ["b"], fusion="late")
    three = Query(["a"], ["b"], items=["c"], fusion="late")
    assert three.weight("text") == both.weight("text")
    assert three.weight("image") + three.weight("item") == pytest.approx(both.weight("image"))
    assert Query(["a"], ["b"], weights={"text": 2}).weight("text") == 2 * both.weight("text")


def test_the_models_encoder_is_its_two_functions(model, photos) -> None:
    encoder = ModelEncoder(model)
    np.testing.assert_array_equal(encoder.embed_texts(["red"]), embed_texts(model, ["red"]))
    np.testing.assert_array_equal(encoder.embed_pictures(photos), embed_pictures(model, photos))
    assert encoder.fingerprint == model.fingerprint
