"""Words and photographs become one question, and the model that built the index answers it."""

from __future__ import annotations

import numpy as np
import pytest

from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.embedding import embed_pictures, embed_texts
from fclip.errors import UserError
from fclip.images import UnreadableImageError
from fclip.index import build_index
from fclip.recommend import Recommender, query_vector


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
