"""A server's encoder gives the model's embeddings, whichever program runs it; what was chosen is said."""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest

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


@pytest.fixture
def drawn(named, cache, monkeypatch):
    """Graphs are files with nothing in them, run by the model as it is now, so that no test waits for real ones."""
    made = []

    def write_graphs(model, folder) -> None:
        made.append(folder)
        for kind in ("image", "text"):
            (folder / f"{kind}.onnx").touch()

    def load_graphs(folder, threads):
        before, sign = copy.deepcopy(named), drawn.sign
        return (
            lambda pixels: before.encode_image(before.preprocess.normalise(pixels)),
            lambda tokens: before.encode_text(tokens) * sign,
        )

    drawn = SimpleNamespace(made=made, sign=1)
    monkeypatch.setattr(fclip.export_onnx, "write_graphs", write_graphs)
    monkeypatch.setattr(fclip.export_onnx, "load_graphs", load_graphs)
    return drawn


def said(caplog) -> list[dict]:
    return [record.fields | {"event": record.message} for record in caplog.records if hasattr(record, "fields")]


def test_pytorch_gives_the_models_embeddings(model, catalogue) -> None:
    encoder = torch_encoder(model)
    assert encoder.fingerprint == model.fingerprint
    np.testing.assert_allclose(encoder.embed_texts(TEXTS), embed_texts(model, TEXTS), atol=1e-6)
    pictures = catalogue["image"][:3]
    np.testing.assert_allclose(encoder.embed_pictures(pictures), embed_pictures(model, pictures), atol=1e-6)


def test_graphs_are_made_once_and_compared_at_every_start(named, drawn, cache, caplog) -> None:
    caplog.set_level(logging.INFO, "fclip.serving")
    for _ in range(2):
        choose_encoder(named, Settings(encoder="onnx"))
        assert (said(caplog)[-1]["encoder"], said(caplog)[-1]["why"]) == ("onnx", "as asked")
    assert [path.name for path in cache.iterdir()] == ["abc-1"]
    assert len(drawn.made) == 1
    drawn.sign = -1
    encoder = choose_encoder(named, Settings())
    assert said(caplog)[-1]["encoder"] == "torch"
    assert "ONNX Runtime gives other embeddings" in said(caplog)[-1]["why"]
    np.testing.assert_allclose(encoder.embed_texts(TEXTS), embed_texts(named, TEXTS), atol=1e-6)
    with pytest.raises(UserError, match="ONNX Runtime gives other embeddings of"):
        choose_encoder(named, Settings(encoder="onnx"))


def test_a_model_without_a_fingerprint_is_not_kept(model, drawn, cache) -> None:
    model.fingerprint = "unsaved"
    choose_encoder(model, Settings(encoder="onnx"))
    assert not cache.exists()
    assert not drawn.made[0].exists()


@pytest.mark.slow
def test_real_graphs_give_the_same_and_those_of_8_bits_nearly(
    named, catalogue, cache, index, caplog, monkeypatch
) -> None:
    caplog.set_level(logging.INFO, "fclip.serving")
    pictures = catalogue["image"][:3]
    encoder = choose_encoder(named, Settings(encoder="onnx"))
    np.testing.assert_allclose(encoder.embed_texts(TEXTS), embed_texts(named, TEXTS), atol=1e-4)
    np.testing.assert_allclose(encoder.embed_pictures(pictures), embed_pictures(named, pictures), atol=1e-4)
    for least, event in ((0.0, "int8 used"), (1.01, "int8 not used")):
        monkeypatch.setattr(encoders, "LEAST_RECALL", least)
        encoder = choose_encoder(named, Settings(encoder="onnx", int8=True), index)
        line = next(line for line in reversed(said(caplog)) if line["event"].startswith("int8"))
        assert (line["event"], line["recall"] > 0.5) == (event, True)
        cosine = least_cosine(encoder, torch_encoder(named))
        assert cosine > 0.95
        assert (cosine > 0.99999) == (event == "int8 not used")


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


def test_the_faster_one_serves_when_nothing_was_asked(named, drawn, caplog, monkeypatch) -> None:
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


@pytest.mark.parametrize(("sign", "used"), [(1, True), (-1, False)])
def test_weights_of_8_bits_serve_only_where_recall_stays(named, index, drawn, caplog, monkeypatch, sign, used) -> None:
    def quantise(folder, out) -> None:
        (out / "text.onnx").touch()
        drawn.sign = sign  # what is loaded from now on is far off, or is not

    caplog.set_level(logging.INFO, "fclip.serving")
    monkeypatch.setattr(encoders, "quantise", quantise)
    encoder = choose_encoder(named, Settings(encoder="onnx", int8=True), index)
    line = next(line for line in said(caplog) if line["event"].startswith("int8"))
    assert line["event"] == ("int8 used" if used else "int8 not used")
    assert (line["recall"] == 1) == used
    assert {"int8_ms", "float_ms"} <= set(line)
    drawn.sign = 1
    np.testing.assert_allclose(
        encoder.embed_pictures(index.images[:3]), embed_pictures(named, index.images[:3]), atol=1e-6
    )
