"""A server's encoder gives the model's embeddings, whichever program runs it; what was chosen is said."""

from __future__ import annotations

import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fclip.export_onnx
from fclip.embedding import embed_pictures, embed_texts
from fclip.errors import UserError
from fclip.serving import encoders
from fclip.serving.encoders import choose_encoder, least_cosine, recall, torch_encoder
from fclip.serving.settings import Settings

TEXTS = ["red dress", "a shirt", "skirt"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onnx"


@pytest.fixture
def named(model):
    model.fingerprint = "abc"
    return model


@pytest.fixture(scope="module")
def graphs(build, tmp_path_factory):
    """The graphs of the small model, as `choose_encoder` makes them: seconds, so only once."""
    model, folder = build(), tmp_path_factory.mktemp("graphs")
    model.fingerprint = "abc"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCLIP_CACHE", str(folder))
        choose_encoder(model, Settings(encoder="onnx"))
    return folder


@pytest.fixture
def kept(cache, graphs):
    """A cache that has them."""
    shutil.copytree(graphs, cache.parent)
    return cache


def said(caplog) -> list[dict]:
    return [record.fields | {"event": record.message} for record in caplog.records if hasattr(record, "fields")]


def test_pytorch_gives_the_models_embeddings(model, catalogue) -> None:
    encoder = torch_encoder(model)
    assert encoder.fingerprint == model.fingerprint
    np.testing.assert_allclose(encoder.embed_texts(TEXTS), embed_texts(model, TEXTS), atol=1e-6)
    pictures = catalogue["image"][:3]
    np.testing.assert_allclose(encoder.embed_pictures(pictures), embed_pictures(model, pictures), atol=1e-6)


def test_onnx_gives_the_same_and_is_made_once(named, catalogue, kept, caplog, monkeypatch) -> None:
    caplog.set_level(logging.INFO, "fclip.serving")
    monkeypatch.setattr(fclip.export_onnx, "write_graphs", lambda *args: pytest.fail("made again"))
    pictures = catalogue["image"][:3]
    encoder = choose_encoder(named, Settings(encoder="onnx"))
    np.testing.assert_allclose(encoder.embed_texts(TEXTS), embed_texts(named, TEXTS), atol=1e-4)
    np.testing.assert_allclose(encoder.embed_pictures(pictures), embed_pictures(named, pictures), atol=1e-4)
    assert [path.name for path in kept.iterdir()] == ["abc-1"]
    assert (said(caplog)[-1]["encoder"], said(caplog)[-1]["why"]) == ("onnx", "as asked")


def test_the_graph_of_another_model_is_noticed_and_pytorch_serves(named, kept, caplog) -> None:
    caplog.set_level(logging.INFO, "fclip.serving")
    with torch.no_grad():
        named.clip.text.token_embedding.weight.mul_(torch.linspace(-1, 1, 16))
    encoder = choose_encoder(named, Settings())
    assert said(caplog)[-1]["encoder"] == "torch"
    assert "other embeddings" in said(caplog)[-1]["why"]
    np.testing.assert_allclose(encoder.embed_texts(TEXTS), embed_texts(named, TEXTS), atol=1e-6)
    with pytest.raises(UserError, match="ONNX Runtime gives other embeddings of"):
        choose_encoder(named, Settings(encoder="onnx"))


@pytest.mark.parametrize(
    ("missing", "settings", "why"),
    [
        ("onnxruntime", Settings(), "onnxruntime not installed"),
        (None, Settings(encoder="torch"), "as asked"),
    ],
)
def test_pytorch_serves_where_onnx_does_not(model, cache, caplog, monkeypatch, missing, settings, why) -> None:
    caplog.set_level(logging.INFO, "fclip.serving")
    monkeypatch.setattr(encoders, "find_spec", lambda name: None if name == missing else name)
    choose_encoder(model, settings)
    assert said(caplog) == [{"event": "encoder", "encoder": "torch", "why": why}]
    assert not cache.exists()


def test_the_faster_one_serves_when_nothing_was_asked(named, kept, caplog, monkeypatch) -> None:
    caplog.set_level(logging.INFO, "fclip.serving")
    seconds = iter([0.1, 0.2, 0.2, 0.1])
    monkeypatch.setattr(encoders, "_seconds", lambda encoder: next(seconds))
    choose_encoder(named, Settings())
    choose_encoder(named, Settings())
    assert [line["encoder"] for line in said(caplog)] == ["onnx", "torch"]
    assert said(caplog)[0]["onnx_ms"] == 100.0


def test_recall_is_the_share_of_neighbours_that_are_found_again() -> None:
    sample = np.eye(8, dtype=np.float32)
    query = np.array([[8, 7, 6, 5, 4, 3, 2, 1]], np.float32)
    assert recall(query, query, sample, k=4) == 1.0
    other = np.array([[8, 7, 0, 0, 4, 3, 0, 0]], np.float32)
    assert recall(other, query, sample, k=4) == 0.5


class _Index(SimpleNamespace):
    """Pictures of the catalogue with their vectors."""

    def candidates(self, vector, limit):
        return SimpleNamespace(ids=[self.ids[int(np.argmax(self.sample @ vector))]])

    def read(self, ids):
        rows = [self.ids.index(name) for name in ids]
        return [SimpleNamespace(thumbnail=self.images[i]["bytes"], attributes=self.attributes[i]) for i in rows]


@pytest.fixture
def index(named, catalogue):
    images = catalogue["image"][:]
    return _Index(
        ids=catalogue["id"][:],
        images=images,
        attributes=catalogue["attributes"][:],
        sample=embed_pictures(named, images),
    )


@pytest.mark.parametrize("least", [0.0, 1.01])
def test_weights_of_8_bits_serve_only_where_recall_stays(named, index, kept, caplog, monkeypatch, least) -> None:
    caplog.set_level(logging.INFO, "fclip.serving")
    monkeypatch.setattr(encoders, "LEAST_RECALL", least)
    encoder = choose_encoder(named, Settings(encoder="onnx", int8=True), index)
    line = next(line for line in said(caplog) if line["event"].startswith("int8"))
    assert line["event"] == ("int8 used" if least == 0 else "int8 not used")
    assert 0.5 < line["recall"] <= 1
    cosine = least_cosine(encoder, torch_encoder(named))
    assert (cosine > 0.99999) == (least > 1)
    assert cosine > 0.95
