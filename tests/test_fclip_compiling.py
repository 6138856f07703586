"""Compiled towers: the same losses, the same names in checkpoints, and a resumed run."""

from __future__ import annotations

import pytest
import torch

import fclip.compiling
from fclip.batches import TrainingPictures
from fclip.checkpoint import load_checkpoint
from fclip.compiling import compile_towers, has_compiler
from fclip.errors import UserError
from fclip.training import read_history, train
from fclip.weights import read_weights


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """One entry for each graph that was compiled; a backend without a compiler in place of inductor."""
    from torch._dynamo.backends.debugging import aot_eager

    graphs: list[str] = []

    def counting(graph, inputs, **options):
        graphs.append(graph.__class__.__name__)
        return aot_eager(graph, inputs, **options)

    torch._dynamo.reset()
    monkeypatch.setattr(fclip.compiling, "BACKEND", counting)
    return graphs


@pytest.fixture
def fit(build, catalogue, captions):
    def go(preset, model=None, resume=None):
        model = model or build()
        pictures = TrainingPictures(catalogue, captions, model.preprocess, preset.data, preset.seed, preset.epochs)
        return train(preset, model, pictures, lambda model: {"score": 0.5}, resume)

    return go


def losses(preset) -> list[float]:
    return [entry["loss"] for entry in read_history(preset.out) if "loss" in entry]


def test_a_compiled_run_killed_and_resumed_learns_the_same_and_leaves_the_same_files(fit, preset, calls, monkeypatch):
    plain, compiled = (preset(out=f"{preset().out}-{on}", epochs=2, save_every=2, compile=on) for on in (False, True))
    expected = fit(plain)
    assert calls == []
    with monkeypatch.context() as patch:
        patch.setattr("fclip.training.Run.measure", _dies)
        with pytest.raises(KeyboardInterrupt):
            fit(compiled)
    assert len(calls) >= 2  # each of the two towers
    run = fit(compiled, resume=f"{compiled.out}/last")
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-4)
    for folder in ("best", "last"):
        files = [read_weights(of.out / folder / "model.safetensors") for of in (expected, run)]
        assert files[0].keys() == files[1].keys()
    pixels, again = torch.rand(2, 3, 32, 32), load_checkpoint(run.out / "last")
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(pixels), run.model.eval().encode_image(pixels))


def _dies(run):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_published_towers_compile_too(vit, calls):
    """open_clip's CLIP has no module for its text tower."""
    tokens, pixels = vit.tokenizer(["a", "red dress"]), torch.rand(2, 3, 32, 32)
    plain = vit.encode_text(tokens), vit.encode_image(pixels)
    compile_towers(vit.clip)
    torch.testing.assert_close(vit.encode_text(tokens), plain[0])
    of_text = len(calls)
    torch.testing.assert_close(vit.encode_image(pixels), plain[1])
    assert 0 < of_text < len(calls)


def test_without_a_compiler_it_says_so(model, monkeypatch):
    monkeypatch.setattr(fclip.compiling, "COMPILERS", ("no-such-compiler",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="install one, or set compile=false"):
        compile_towers(model.clip)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_inductor_gives_the_same_losses(fit, preset):
    torch._dynamo.reset()
    plain, compiled = (preset(out=f"{preset().out}-{on}", epochs=1, compile=on) for on in (False, True))
    fit(plain), fit(compiled)
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-3)
