"""ONNX Runtime gives the same embeddings, from nothing but what is in the folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import HARD_TEXTS as TEXTS
from conftest import shake
from test_fclip_export import RESNET, SWIN, VIT, noise, ours
from tokenizers import Tokenizer as Encoder

import fclip.export_onnx
from fclip.config import StnConfig
from fclip.errors import UserError
from fclip.export import ABOUT_FILE
from fclip.model import Model, Preprocess
from fclip.variants import with_stn


def look(model: Model, **options) -> Model:
    """The model behind a spatial transformer that does look elsewhere."""
    model = with_stn(model, StnConfig(look_at=32, look_size=(96, 96), **options))
    shake(model.clip.visual.stn)
    return model.eval()


GRAPHS = {
    "vit": lambda made: made(kind="clip", architecture={"quick_gelu": True}),
    "resnet": lambda made: made(RESNET),
    "swin": lambda made: made(SWIN, resize_mode="squash"),
    "stn, affine": lambda made: look(made(), transform="affine", localisation="residual"),
    "stn, spline": lambda made: look(made(), transform="tps"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "stn, spline" else ()) for name in GRAPHS]
)
def test_onnx_gives_the_same_embeddings(made, exported, picture, name):
    """As a user without torch runs it: from fclip.json, tokenizer.json, uint8 pixels and the two graphs."""
    import onnxruntime

    model = GRAPHS[name](made)
    folder = exported(model, "onnx")
    about = json.loads((folder / ABOUT_FILE).read_text())
    assert about["logit_scale"] == model.clip.logit_scale.exp().item()
    assert Preprocess(**{k: tuple(v) if isinstance(v, list) else v for k, v in about["preprocess"].items()}) == (
        model.preprocess
    )

    def run(kind: str, values: np.ndarray) -> torch.Tensor:
        session = onnxruntime.InferenceSession(folder / about[kind]["file"], providers=["CPUExecutionProvider"])
        assert about[kind]["input"]["shape"] == session.get_inputs()[0].shape
        assert about[kind]["output"]["shape"] == session.get_outputs()[0].shape
        names = [about[kind]["output"]["name"]], about[kind]["input"]["name"]
        return torch.from_numpy(session.run(names[0], {names[1]: values})[0])

    for number in (1, 3, 5):
        pixels = torch.cat([noise(model, number)[1:], model.preprocess(picture)[None]])
        expected = ours(model, pixels)[0]
        torch.testing.assert_close(run("image", pixels.numpy()), expected, rtol=0, atol=1e-4)
    encoder = Encoder.from_file(str(folder / "tokenizer.json"))
    for texts in (TEXTS[:1], TEXTS, TEXTS + TEXTS[:2]):
        ids = np.array([encoded.ids for encoded in encoder.encode_batch(texts)])
        with torch.no_grad():
            torch.testing.assert_close(run("text", ids), model.encode_text(model.tokenizer(texts)), rtol=0, atol=1e-4)


def test_large_graphs_have_their_weights_beside_them_and_no_graph_tells_where_it_was_made(made, exported, monkeypatch):
    monkeypatch.setattr(fclip.export_onnx, "LARGE_BYTES", 60_000)
    model = made(VIT | {"layers": 1, "width": 16, "head_width": 8}, text={"width": 48})
    folder = exported(model, "onnx")  # which runs them
    assert sorted(path.name for path in folder.glob("*.onnx*")) == ["image.onnx", "text.onnx", "text.onnx.data"]
    assert all(b".py" not in path.read_bytes() for path in folder.glob("*.onnx"))


def test_a_tower_that_is_bound_to_a_number_of_pictures_is_refused(made, tmp_path):
    model = made()
    whole = model.clip.visual.forward
    model.clip.visual.forward = lambda pixels: whole(pixels) * len(pixels)
    with pytest.raises(UserError, match=r"image tower of small does not become .*: its number of pictures or texts b"):
        fclip.export_onnx.write_graphs(model, tmp_path)


def test_what_onnx_needs_is_named_when_it_is_missing(made, exported, monkeypatch):
    monkeypatch.setattr(fclip.export_onnx, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UserError, match=r"^--to onnx needs onnxscript; pip install 'fclip\[onnx\]'$"):
        exported(made(), "onnx")
