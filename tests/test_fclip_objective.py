"""What a step computes: each distinct caption encoded once, a locked one once in a run, and the loss as if not."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fclip.batches import TrainingPictures, caption_id, training_batches
from fclip.captions import Captions
from fclip.config import DataConfig, LoraConfig, LossConfig
from fclip.locked import LockedTexts, text_is_locked
from fclip.lora import add_adapters
from fclip.losses import contrastive_loss, equal_captions, surfacing_loss
from fclip.objective import Contrastive
from fclip.optimisation import freeze
from fclip.order import BatchOrder

BATCH = 12
TEXT = ("text.*",)


@pytest.fixture
def pictures(catalogue, captions, model):
    """With one sentence for each product: a batch has some twice."""
    captions = Captions(captions.template)
    return TrainingPictures(catalogue, captions, model.preprocess, DataConfig(), seed=3, epochs=2)


@pytest.fixture
def batches(pictures, model):
    return list(training_batches(pictures, model.tokenizer, BatchOrder(len(pictures), BATCH, 2, seed=0), 0))


@pytest.fixture
def double(monkeypatch, model):
    """The model in float64, also where it asks for float32."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    return model.double()


class Spy:
    """Wraps `encode_text` and keeps the tokens it was asked for."""

    def __init__(self, encode) -> None:
        self.encode, self.asked = encode, []

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self.asked += map(tuple, tokens.tolist())
        return self.encode(tokens)


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def loss_of(module, batch) -> torch.Tensor:
    return module(module.with_texts(batch))["loss"]


def every_row(model, batch, bank=None) -> torch.Tensor:
    """The loss with a row of the text tower for every sample, as published trainers compute it."""
    image = model.encode_image(model.preprocess.normalise(batch["pixels"]))
    text = model.encode_text(batch["tokens"][batch["caption_index"]])
    scale = model.clip.logit_scale
    loss = contrastive_loss(image, text, scale, equal_captions(batch["caption_ids"]))
    if bank is not None:
        loss = loss + 0.5 * surfacing_loss(image, model.encode_text(bank), scale, batch["bank_index"])
    return loss


@pytest.mark.parametrize("surfacing", [0.0, 0.5])
def test_each_distinct_caption_is_encoded_once_and_the_loss_and_its_gradients_stay(
    double, pictures, batches, monkeypatch, surfacing
):
    bank = double.tokenizer(pictures.bank) if surfacing else None
    batch = batches[0]
    expected = every_row(double, batch, bank)
    expected.backward()
    wanted = gradients(double)
    spy = Spy(double.encode_text)
    monkeypatch.setattr(double, "encode_text", spy)
    loss = LossConfig(positives="equal", surfacing=surfacing, negatives=99)
    found = loss_of(Contrastive(double, loss, pictures.bank, pictures.frequency), batch)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(double), wanted, rtol=1e-9, atol=1e-12)
    met = {caption_id(text) for text in pictures.bank} if surfacing else set()
    assert len(spy.asked) == len(set(batch["caption_ids"].tolist()) | met)
    assert len(batch["tokens"]) < BATCH


# A locked text tower


@pytest.mark.parametrize("negatives", [2, 99], ids=["a drawn bank", "the whole bank"])
def test_a_locked_caption_is_encoded_once_in_a_run_and_the_loss_and_gradients_stay(
    double, pictures, batches, monkeypatch, negatives
):
    loss = LossConfig(surfacing=0.5, negatives=negatives)
    learning = copy.deepcopy(double)
    freeze(double, TEXT)
    spy = Spy(double.encode_text)
    monkeypatch.setattr(double, "encode_text", spy)
    locked, free = (Contrastive(m, loss, pictures.bank, pictures.frequency) for m in (double, learning))
    for batch in batches:
        found = []
        for module in (locked, free):
            output = loss_of(module, batch)
            output.backward()
            learned = {n: g for n, g in gradients(module.model.clip).items() if not n.startswith("text.")}
            found.append((output.detach(), learned))
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
    assert len(spy.asked) == len(set(spy.asked)) > len(batches[0]["tokens"])


def test_a_captions_embedding_has_the_same_bits_whenever_it_is_met(model, texts):
    """Else a resumed run, which has to encode them again in other batches, would differ from an uninterrupted one."""
    tokens = model.tokenizer(sorted(set(texts)))
    first = LockedTexts(model)(tokens)
    assert torch.equal(LockedTexts(model)(tokens[3:5]), first[3:5])
    assert torch.equal(LockedTexts(model)(tokens.flip(0)).flip(0), first)
    torch.testing.assert_close(first, model.encode_text(tokens))
    assert not first.requires_grad


def test_the_oldest_embeddings_are_forgotten_beyond_the_bound(model):
    spy = Spy(lambda tokens: tokens.double())
    locked = LockedTexts(SimpleNamespace(encode_text=spy, cut=lambda tokens: tokens), most=3)
    for rows in ([0, 1], [1, 2], [2, 3], [1, 3], [0]):  # 3 pushes 0 out
        tokens = torch.tensor(rows)[:, None]
        assert torch.equal(locked(tokens), tokens.double())
    assert spy.asked == [(0,), (1,), (2,), (3,), (0,)]
    many = torch.arange(9)[:, None]  # more than the bound at once
    assert torch.equal(locked(many), many.double())


def test_a_text_tower_is_locked_only_when_all_of_it_is_frozen(model, vit):
    assert not text_is_locked(model.clip)
    freeze(model, ("text.transformer.*",))
    assert not text_is_locked(model.clip)
    freeze(model, TEXT)
    assert text_is_locked(model.clip)
    freeze(vit, ("visual.*", "transformer.*", "ln_final.*", "text_projection", "positional_embedding"))
    assert not text_is_locked(vit.clip)
    freeze(vit, ("token_embedding.*",))  # the towers' parameters lie side by side
    assert text_is_locked(vit.clip)


def test_a_tower_that_drops_at_random_or_has_adapters_is_not_locked(build, vit):
    dropping, attending, adapted = build(), build(), vit
    for model in (dropping, attending):
        freeze(model, TEXT)
    dropping.clip.text.ln_final = nn.Sequential(dropping.clip.text.ln_final, nn.Dropout(0.1))
    assert not text_is_locked(dropping.clip)
    attending.clip.text.transformer.resblocks[0].attn.dropout = 0.1
    assert not text_is_locked(attending.clip)
    add_adapters(adapted.clip, LoraConfig(rank=1))
    assert not text_is_locked(adapted.clip)


def test_dropping_in_the_image_tower_leaves_the_texts_locked(build):
    model = build(drop_path=0.5)
    freeze(model, TEXT)
    assert text_is_locked(model.clip)
