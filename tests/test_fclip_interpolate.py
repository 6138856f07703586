"""Between two models: against a loop, and refused where weights do not mean the same."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.config import ModelConfig
from fclip.errors import UserError
from fclip.export import export
from fclip.interpolate import interpolate, interpolate_checkpoints
from fclip.pretrained import build_model
from fclip.tokenizer import TrainedTokenizer


@pytest.fixture
def two(build, tmp_path):
    """Folders of a model and of one that differs in every weight and buffer."""
    first, second = build(), build()
    torch.manual_seed(1)
    for value in second.clip.state_dict().values():
        value += torch.randn(value.shape).mul(3).to(value.dtype)
    folders = tmp_path / "start", tmp_path / "trained"
    for model, folder in zip((first, second), folders, strict=True):
        save_checkpoint(model, folder)
    return folders


def states(*folders) -> list[dict[str, torch.Tensor]]:
    return [load_checkpoint(folder).clip.state_dict() for folder in folders]


def test_every_weight_and_buffer_against_a_loop(two):
    start, trained = states(*two)
    mixed = interpolate_checkpoints(*two, alpha=0.3).clip.state_dict()
    floating = {n for n, value in mixed.items() if value.is_floating_point()}
    assert {"logit_scale", "visual.trunk.bn1.running_var"} <= floating < mixed.keys()
    for name, value in mixed.items():
        if name in floating:
            pairs = zip(start[name].flatten().tolist(), trained[name].flatten().tolist(), strict=True)
            by_hand = torch.tensor([0.7 * a + 0.3 * b for a, b in pairs]).view(value.shape)
            torch.testing.assert_close(value, by_hand, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(value, trained[name])


def test_both_ends_are_exact(two):
    start, trained = states(*two)
    for alpha, end in ((0.0, start), (1.0, trained)):
        mixed = interpolate(start, trained, alpha)
        assert all(torch.equal(mixed[n], end[n]) for n in end if end[n].is_floating_point())


def test_the_mixture_is_a_checkpoint_of_its_own(two, tmp_path):
    save_checkpoint(interpolate_checkpoints(*two, alpha=0.5), tmp_path / "between")
    fingerprints = {load_checkpoint(folder).fingerprint for folder in (*two, tmp_path / "between")}
    assert len(fingerprints) == 3


def test_another_architecture_is_refused_and_the_key_named(two, build, tmp_path):
    save_checkpoint(build(embed_dim=8), tmp_path / "other")
    with pytest.raises(UserError, match=r"start and .*other differ in architecture \(embed_dim\); only a model and"):
        interpolate_checkpoints(two[0], tmp_path / "other", 0.5)


def test_another_tokenizer_of_the_same_size_is_refused(two, build, tmp_path, texts):
    model = build()
    own = model.tokenizer
    words = [text[::-1] for text in texts]
    model.tokenizer = TrainedTokenizer.train(words, own.vocab_size, own.context_length)
    save_checkpoint(model, tmp_path / "other")
    with pytest.raises(UserError, match=r"differ in tokenizer \(tokenizer.json\)"):
        interpolate_checkpoints(two[0], tmp_path / "other", 0.5)


def test_another_preprocessing_is_refused(two, tmp_path):
    other = shutil.copytree(two[1], tmp_path / "other")
    card = json.loads((other / "model.json").read_text())
    card["preprocess"]["resize_mode"] = "longest"
    (other / "model.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"differ in preprocessing \(resize_mode\)"):
        interpolate_checkpoints(two[0], other, 0.5)


def test_the_start_may_be_a_model_as_it_was_published(vit, tmp_path):
    save_checkpoint(vit, tmp_path / "ours")
    export(tmp_path / "ours", "open_clip", tmp_path / "published")
    trained = build_model(ModelConfig(name=str(tmp_path / "published")), vit.captions)
    with torch.no_grad():
        trained.clip.visual.proj += 1
    save_checkpoint(trained, tmp_path / "trained")
    mixed = interpolate_checkpoints(tmp_path / "published", tmp_path / "trained", 0.25)
    torch.testing.assert_close(mixed.clip.visual.proj, vit.clip.visual.proj + 0.25)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(two, alpha):
    with pytest.raises(UserError, match=r"expected an alpha between 0 \(.*start\) and 1 \(.*trained\), got"):
        interpolate_checkpoints(*two, alpha)
