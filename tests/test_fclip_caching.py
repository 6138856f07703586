"""Gradient caching, against one graph over the whole batch: in float64, so that nothing can hide in rounding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from fclip.batches import TrainingPictures, training_batches
from fclip.caching import backward, number_of_parts, split
from fclip.captions import Captions
from fclip.config import DataConfig, LossConfig, StnConfig
from fclip.model import Model
from fclip.objective import Contrastive
from fclip.optimisation import freeze
from fclip.order import BatchOrder
from fclip.variants import with_stn

BATCH = 10
BANK = {"positives": "equal", "surfacing": 0.7, "negatives": 99}


@pytest.fixture
def exact(monkeypatch):
    """Everything in float64, also where float32 is asked for."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.fixture
def batch(catalogue, captions, model):
    return batch_for(catalogue, captions, model)


def batch_for(catalogue, captions, model) -> dict:
    captions = Captions(captions.template)  # without paraphrases, so that some are equal
    pictures = TrainingPictures(catalogue, captions, model.preprocess, DataConfig(), seed=3)
    batch = next(iter(training_batches(pictures, model.tokenizer, BatchOrder(len(pictures), BATCH, 1, seed=0), 0)))
    return {k: v for k, v in batch.items() if k != "skipped"}


@pytest.fixture
def contrastive(catalogue, captions) -> Callable[..., Contrastive]:
    """contrastive(model, **loss) → the module that a step runs, in training mode."""

    def make(model: Model, **loss) -> Contrastive:
        pictures = TrainingPictures(catalogue, captions, model.preprocess, DataConfig(), seed=3)
        return Contrastive(model, LossConfig(**loss), pictures.bank, pictures.frequency).train()

    return make


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: b.clone() for name, b in module.named_buffers()}


def still(model: Model) -> None:
    """Batch norms keep their statistics, as with freeze_batch_norm."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def step(module: Contrastive, batch: dict, chunk: int) -> tuple[dict, dict]:
    torch.manual_seed(0)
    outputs = backward(module, Accelerator(cpu=True), batch, chunk)
    return {k: v.detach() for k, v in outputs.items()}, gradients(module)


def one_graph(module: Contrastive, batch: dict, chunk: int, bf16: bool = False) -> tuple[dict, dict]:
    """The parts encoded one after the other, as caching does, but all in one graph with one backward pass."""
    torch.manual_seed(0)
    batch = module.with_texts(batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        parts = [module.embed(part) for part in split(batch, number_of_parts(batch, chunk))]
    whole = {name: torch.cat([part[name] for part in parts if name in part]) for name in ("image", "text")}
    outputs = module.loss(whole | {"scale": module.model.clip.logit_scale}, batch)
    outputs["loss"].backward()
    return {k: v.detach() for k, v in outputs.items()}, gradients(module)


@pytest.mark.parametrize("chunk", [1, 3, 4, BATCH, 99])
@pytest.mark.parametrize(
    "loss",
    [{"positives": "clip"}, {"positives": "compatible"}, {"positives": "overlap"}, BANK, BANK | {"negatives": 2}],
    ids=lambda loss: " ".join(map(str, loss.values())),
)
def test_a_cached_step_has_the_loss_and_gradients_of_the_whole_batch(exact, contrastive, model, batch, loss, chunk):
    module = contrastive(model.double(), **loss)
    still(model)
    whole, cached = (step(module, batch, c) for c in (0, chunk))
    torch.testing.assert_close(cached, whole, rtol=1e-9, atol=1e-11)
    assert cached[1]["model.clip.logit_scale"].abs() > 1e-4  # the one that would be counted once for each part


def test_a_spatial_transformer_is_cached_too(exact, contrastive, build, catalogue, captions):
    model = with_stn(build(), StnConfig("similarity", look_size=(48, 48), look_at=32)).double()
    with torch.no_grad():  # at its start it is the identity
        for parameter in model.clip.visual.stn.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    module, batch = contrastive(model), batch_for(catalogue, captions, model)
    still(model)
    whole, cached = (step(module, batch, c) for c in (0, 3))
    torch.testing.assert_close(cached, whole, rtol=1e-9, atol=1e-11)
    assert any(".stn." in name and g.abs().max() > 0 for name, g in cached[1].items())


@pytest.mark.parametrize("frozen", ["visual.*", "text.*", "logit_scale"])
def test_what_is_frozen_stays_so(exact, contrastive, model, batch, frozen):
    freeze(model.double(), (frozen,))
    module = contrastive(model, **BANK)
    still(model)
    whole, cached = (step(module, batch, c) for c in (0, 1))
    torch.testing.assert_close(cached, whole, rtol=1e-9, atol=1e-11)
    assert not any(name.startswith(f"model.clip.{frozen.rstrip('*')}") for name in cached[1])


# What is random, and what is counted


@pytest.fixture
def dropping(build) -> Model:
    """A model with stochastic depth in the image tower, and dropout in both."""
    model = build(drop_path=0.5)
    model.clip.visual.head.append(nn.Dropout(0.3))
    model.clip.text.ln_final = nn.Sequential(model.clip.text.ln_final, nn.Dropout(0.3))
    return model.double()


@pytest.mark.parametrize("chunk", [3, 4])
def test_both_passes_drop_the_same(exact, contrastive, dropping, batch, chunk):
    module = contrastive(dropping, **BANK | {"negatives": 2})
    still(dropping)
    expected, cached = one_graph(module, batch, chunk), step(module, batch, chunk)
    torch.testing.assert_close(cached, expected, rtol=1e-9, atol=1e-11)
    dropping.eval()
    assert not torch.allclose(step(module, batch, chunk)[0]["loss"], cached[0]["loss"])


def test_the_random_numbers_go_on_as_if_there_had_been_one_pass(exact, contrastive, dropping, batch):
    module = contrastive(dropping)
    after = []
    for way in (one_graph, step):
        way(module, batch, 4)
        after.append(torch.get_rng_state())
    assert torch.equal(*after)


def test_batch_statistics_are_of_each_part_and_count_once(exact, contrastive, build, batch):
    expected, cached = (contrastive(build().double()) for _ in range(2))
    before = buffers(cached)
    torch.testing.assert_close(step(cached, batch, 5), one_graph(expected, batch, 5), rtol=1e-9, atol=1e-11)
    assert any(not torch.equal(b, before[name]) for name, b in cached.named_buffers())
    torch.testing.assert_close(buffers(cached), buffers(expected), rtol=1e-12, atol=1e-12)
    assert all(m.track_running_stats for m in cached.modules() if isinstance(m, nn.BatchNorm2d))


def test_frozen_batch_statistics_stay(contrastive, model, batch):
    module = contrastive(model)
    still(model)
    before = buffers(module)
    step(module, batch, 4)
    torch.testing.assert_close(buffers(module), before, rtol=0, atol=0)


def test_under_autocast_both_passes_agree(contrastive, vit, catalogue, captions):
    batch, chunk = batch_for(catalogue, captions, vit), 4
    module = Accelerator(mixed_precision="bf16", cpu=True).prepare(contrastive(vit))
    expected, wanted = one_graph(module, batch, chunk, bf16=True)
    outputs, found = step(module, batch, chunk)
    assert torch.equal(outputs["loss"], expected["loss"])
    assert not torch.equal(outputs["loss"], step(contrastive(vit), batch, chunk)[0]["loss"])
    scale = "model.clip.logit_scale"
    torch.testing.assert_close(found.pop(scale), wanted.pop(scale))
    wrong = [((found[name] - g).norm() / g.norm()).item() for name, g in wanted.items()]
    assert max(wrong) < 0.02  # within a part a weight's gradient adds up in bfloat16


# Memory


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_no_pass_sees_more_than_a_part(contrastive, model, batch, chunk, monkeypatch):
    seen = []
    for name in ("encode_image", "encode_text"):
        encode = getattr(model, name)
        monkeypatch.setattr(model, name, lambda rows, encode=encode: seen.append(len(rows)) or encode(rows))
    module = contrastive(model, **BANK)
    still(model)
    step(module, batch, chunk)
    texts = len(module.with_texts(batch)["texts"])
    assert sum(seen) == 2 * (BATCH + texts)
    assert max(seen) <= chunk


@pytest.mark.parametrize(("pictures", "texts"), [(7, 2), (2, 9), (5, 5), (1, 1), (8, 3)])
def test_parts_are_in_order_and_the_last_has_pictures_and_texts(pictures, texts):
    batch = {"pixels": torch.arange(pictures), "texts": torch.arange(texts), "caption_ids": torch.arange(pictures)}
    parts = split(batch, number_of_parts(batch, 3))
    for name in ("pixels", "texts"):
        assert torch.equal(torch.cat([part[name] for part in parts]), batch[name])
        assert max(len(part[name]) for part in parts) <= 3
        assert len(parts[-1][name]) > 0
    assert len(parts) == -(-max(pictures, texts) // 3)
