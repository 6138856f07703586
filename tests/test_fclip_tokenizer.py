"""Tokenizers: three kinds behind one face, none of which loses a text's end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fclip.captions import captions_for
from fclip.catalogue.drawn import GROUPS, sample_attributes
from fclip.errors import UserError
from fclip.tokenizer import (
    END,
    PAD,
    START,
    ClipTokenizer,
    HuggingFaceTokenizer,
    TrainedTokenizer,
    load_tokenizer,
    truncated_share,
)

WORDS = [
    "red",
    "dress",
    "shirt",
    "long",
    "sleeve",
    "v-shaped",
    "women's",
    "midi",
    "Trousers",
    "é",
    "blau",
    "日本",
    "a,",
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
few = settings(max_examples=40, deadline=None)


def garments(number: int) -> list[str]:
    rng = np.random.default_rng(0)
    captions = captions_for(list(GROUPS), drop=0.3)
    return [captions.sample(sample_attributes(rng), rng)[0] for _ in range(number)]


@pytest.fixture(scope="module")
def clip() -> ClipTokenizer:
    return ClipTokenizer(16)


@pytest.fixture(scope="module")
def trained() -> TrainedTokenizer:
    return TrainedTokenizer.train(garments(400), vocab_size=300, context_length=16)


@pytest.fixture(scope="module")
def hugging(trained, tmp_path_factory) -> HuggingFaceTokenizer:
    """A transformers tokenizer as the hub has them, of SigLIP's cleaning: no capitals, no punctuation."""
    folder = tmp_path_factory.mktemp("hub")
    trained.save(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "bos_token": START, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return HuggingFaceTokenizer(folder, 16, clean="canonicalize")


@pytest.fixture(scope="module")
def open_clips():
    import open_clip

    return open_clip.get_tokenizer("ViT-B-32")


@given(texts=st.lists(TEXTS, max_size=4))
@few
def test_clip_is_open_clips(clip, open_clips, texts):
    assert torch.equal(clip(texts), open_clips(texts, context_length=16))
    assert clip.vocab_size == open_clips.vocab_size == 49_408
    whole = open_clips(texts, context_length=100)
    assert [clip.is_truncated(text) for text in texts] == [int((row != 0).sum()) > 16 for row in whole]


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@few
def test_every_kind_gives_rows_of_one_length(clip, trained, hugging, texts):
    for tokenizer in (clip, trained, hugging):
        ids = tokenizer(texts)
        assert ids.shape == (len(texts), tokenizer.context_length)
        assert ids.dtype == torch.int64
        assert ((ids >= 0) & (ids < tokenizer.vocab_size)).all()
    assert trained([]).shape == clip([]).shape == (0, 16)


@given(text=TEXTS | st.text(max_size=60))
@few
def test_the_end_of_a_trained_tokenizer_is_where_open_clip_pools(trained, text):
    """`argmax` finds it: the highest id, once, also when the text is cut or spells it."""
    [ids] = trained([f"{text} {END} {START}"])
    assert ids.max() == trained.vocab_size - 1
    assert (ids == ids.max()).sum() == 1
    assert set(ids[ids.argmax() + 1 :].tolist()) <= {0}
    assert (ids == trained.vocab_size - 2).nonzero().tolist() == [[0]]  # the start


@given(text=TEXTS)
@few
def test_cutting_keeps_the_beginning(trained, text):
    long = TrainedTokenizer(type(trained._encoder).from_str(trained._encoder.to_str()), 64)
    [short], [whole] = trained([text]), long([text])
    tokens = int((whole != 0).sum())
    assert trained.is_truncated(text) == (tokens > 16)
    kept = min(tokens, 16) - 1
    assert torch.equal(short[:kept], whole[:kept])


def test_training_is_a_function_of_the_texts():
    """Two processes of one run must speak one language: equal merges, equal ids."""
    texts = [f"shade{i} heel{i % 7} size {i % 13}" for i in range(300)]
    one, two, three = (TrainedTokenizer.train(texts, 200)._encoder.to_str() for _ in range(3))
    assert one == two == three


def test_a_catalogues_own_words_become_single_tokens(trained):
    for word in ("dress", "sleeve", "pattern", "chiffon"):
        assert (trained([word]) != 0).sum() == 3, word
    assert 200 < trained.vocab_size <= 300
    assert torch.equal(trained(["RED  dress"]), trained(["red dress"]))
    text = "red dress with striped pattern"
    assert trained._encoder.decode(trained([text])[0].tolist()) == text


def test_unknown_words_are_named(trained):
    assert trained.unknown_words("Red v-shaped dress, short sleeve!") == []
    assert trained.unknown_words("") == []
    assert trained.unknown_words("Quux dress in 日本, with zips") == ["quux", "日本", "zips"]


@given(st.data())
@few
def test_words_of_the_training_texts_are_never_unknown(data):
    texts = data.draw(st.lists(st.sampled_from(garments(40)), min_size=1, max_size=5))
    tokenizer = TrainedTokenizer.train(texts, vocab_size=2000)
    assert [word for text in texts for word in tokenizer.unknown_words(text)] == []


def test_large_vocabularies_know_every_word(clip, hugging):
    assert clip.unknown_words("quux") == hugging.unknown_words("quux") == []


@given(texts=st.lists(TEXTS, max_size=5).map(lambda texts: texts + texts[:2]))
@few
def test_truncated_share_against_a_naive_count(clip, open_clips, texts):
    cut = 0
    for text in texts:
        if (open_clips([text], context_length=100) != 0).sum() > 16:
            cut += 1
    assert truncated_share(clip, texts) == (cut / len(texts) if texts else 0)


@pytest.mark.parametrize("kind", ["clip", "trained", "hugging"])
def test_saved_and_loaded_it_is_equal(kind, request, tmp_path):
    tokenizer = request.getfixturevalue(kind)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tokenizer.kind, tokenizer.context_length, tmp_path)
    texts = ["Red dress, long sleeve", "women's v-shaped shirt (blue) " * 9, ""]
    assert torch.equal(loaded(texts), tokenizer(texts))
    assert loaded.vocab_size == tokenizer.vocab_size
    assert [loaded.is_truncated(text) for text in texts] == [tokenizer.is_truncated(text) for text in texts]
    assert loaded.unknown_words("quux dress") == tokenizer.unknown_words("quux dress")


def test_texts_are_cleaned_before_they_are_counted(hugging):
    assert torch.equal(hugging(["Red, dress!"]), hugging(["red dress"]))
    assert not hugging.is_truncated("dress " + "! " * 30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: load_tokenizer("trained", 16, folder), "no tokenizer.json"),
        (lambda folder: HuggingFaceTokenizer(folder / "none", 16), r"cannot load tokenizer .*give a local folder"),
        (lambda folder: TrainedTokenizer.train(["red"], context_length=2), "at least 3 tokens, got 2"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(make, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)
