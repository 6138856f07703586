"""How good generated pictures are: on drawn garments, some of them copies, with features that are known."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from eval.__main__ import main
from eval.feature_networks import open_network
from eval.generation import as_pictures, run_generation
from eval.metrics.distribution import frechet_distance, kernel_samples
from fclip.catalogue.schema import select_split
from fclip.catalogue.storage import save_catalogue
from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.embedding import embed_catalogue, embed_texts
from fclip.errors import UserError
from fclip.files import read_json
from fclip.generations import Generation, keep, picture_name, read_generations


@pytest.fixture(scope="module")
def place(catalogue, build, tmp_path_factory):
    """A checkpoint, a catalogue, and eight generations for four participants: of the first, both are copies."""
    folder = tmp_path_factory.mktemp("generation")
    save_checkpoint(build(), folder / "model")
    save_catalogue(catalogue, folder / "garments")
    train, rng = select_split(catalogue, "train"), np.random.default_rng(0)
    for person in range(4):
        for index in range(2):
            picture = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
            if person == 0:
                picture = Image.open(BytesIO(train[index]["image"]["bytes"]))
            name = picture_name(str(person), index)
            text = ["red dress", "blue shirt", "green hat", "a coat"][person]
            about = Generation(
                name, str(person), index, f"{text}, photo", "", 1, "sd", 1.0 + person, {"text": text}, 900
            )
            (folder / "made").mkdir(exist_ok=True)
            keep(folder / "made", about, picture)
    return folder


def measure(place, **options):
    options = {"progress": False, "bootstrap": 50, "subsets": 5} | options
    return run_generation(place / "made", place / "garments", place / "model", "train", **options)


def test_every_score_is_what_the_embeddings_say(place, catalogue):
    result = measure(place)
    model, made = load_checkpoint(place / "model"), read_generations(place / "made")
    train = select_split(catalogue, "train")
    ours = embed_catalogue(model, as_pictures(place / "made", made)).vectors
    real = embed_catalogue(model, train).vectors
    side, found = np.sqrt(real.shape[1]), result["metrics"]
    assert found["fid"]["value"] == pytest.approx(frechet_distance(ours * side, real * side), rel=1e-4)
    assert found["kid"]["value"] == pytest.approx(
        kernel_samples(ours * side, real * side, 5, 1000, 0)[0].mean(), abs=1e-5
    )
    words = embed_texts(model, ["red dress", "blue shirt", "green hat", "a coat"])
    cosines = np.maximum(100 * ours @ words.T, 0)
    right = cosines[np.arange(8), np.repeat(np.arange(4), 2)]
    assert found["clip_score"]["value"] == pytest.approx(right.mean(), abs=1e-3)
    others = (cosines.sum(1) - right) / 3
    assert result["baselines"]["other_words"]["clip_score"]["value"] == pytest.approx(others.mean(), abs=1e-3)
    assert found["similarity"]["value"] == pytest.approx(
        np.mean([ours[2 * i] @ ours[2 * i + 1] for i in range(4)]), abs=1e-5
    )
    assert found["nearest"]["value"] == pytest.approx((ours @ real.T).max(1).mean(), abs=1e-5)
    assert found["seconds"]["value"] == 2.5
    assert found["memory_mb"] == {"value": 900, "low": 900, "high": 900}
    assert result["counts"] == {
        "pictures": 8, "participants": 4, "catalogue": len(train), "real": 8, "kid_subsets": 5, "kid_subset_size": 8,
        "blackened": 0, "unreadable": 0, "without_words": 0,
    }  # fmt: skip
    assert all(
        found[name]["low"] <= found[name]["value"] <= found[name]["high"] for name in ("fid", "nearest", "seconds")
    )


def test_copies_are_found_and_shown(place, catalogue, tmp_path):
    result = measure(place, pairs=tmp_path / "pairs.png", copy=0.9999)
    train = select_split(catalogue, "train")
    assert {pair["file"] for pair in result["nearest"][:2]} == {"0-0.png", "0-1.png"}
    assert {pair["id"] for pair in result["nearest"][:2]} == set(train["id"][:2])
    assert result["metrics"]["copies"]["value"] == 0.25
    with Image.open(tmp_path / "pairs.png") as sheet:
        assert min(sheet.size) > 300


def test_few_pictures_are_said_to_be_few_and_black_ones_left_out(place, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    for one in read_generations(place / "made"):
        keep(folder, replace(one, flagged=one.file == "3-1.png"), Image.open(place / "made" / one.file))
    result = run_generation(folder, place / "garments", place / "model", bootstrap=0, subsets=2, progress=False)
    assert result["counts"]["pictures"] == 7
    assert (
        "FID of 7 pictures in 16 dimensions is mostly its bias (it wants 2048 and more): 7 real" in result["notes"][0]
    )
    assert result["notes"][1] == "1 pictures that a safety checker blackened were left out"
    assert result["metrics"]["nearest"]["low"] is None


def test_pictures_made_without_words_have_no_clip_score(place, tmp_path):
    def measured(silent):
        folder = tmp_path / f"{len(silent)} silent"
        folder.mkdir()
        for one in read_generations(place / "made"):
            said = {"prompt": " ", "settings": {}} if one.participant in silent else {}
            keep(folder, replace(one, **said), Image.open(place / "made" / one.file))
        options = {"bootstrap": 50, "subsets": 2, "progress": False}
        return run_generation(folder, place / "garments", place / "model", **options)

    some, none = measured("3"), measured("0123")
    assert some["notes"][-1] == "2 pictures were made without words and have no CLIP score"
    model = load_checkpoint(place / "model")
    ours = embed_catalogue(model, as_pictures(place / "made", read_generations(place / "made"))).vectors[:6]
    cosines = np.maximum(100 * ours @ embed_texts(model, ["red dress", "blue shirt", "green hat"]).T, 0)
    expected = cosines[np.arange(6), np.repeat(np.arange(3), 2)].mean()
    assert some["metrics"]["clip_score"]["value"] == pytest.approx(expected, abs=1e-3)
    assert none["metrics"]["clip_score"]["value"] is None
    assert none["metrics"]["kid"]["value"] is not None


def test_the_command_prints_writes_and_tells_how_to_get_the_same(place, tmp_path, capsys):
    arguments = ["generation", str(place / "made"), "--catalogue", str(place / "garments"), "--checkpoint"]
    out = tmp_path / "out.json"
    with pytest.raises(SystemExit) as end:
        main([*arguments, str(place / "model"), "--json", str(out), "--bootstrap", "20"])
    assert not end.value.code
    told = capsys.readouterr().out
    assert "8 pictures for 4 participants" in told
    assert all(name in told for name in ("FID", "KID", "CLIP score", "copies", "memory, MB"))
    result = read_json(out, "")
    assert result["protocol"] == "generation"
    assert result["command"].startswith("python -m eval generation --checkpoint ")
    assert result["command"].endswith(str(place / "made"))


def test_a_network_of_its_own_gives_the_features(place, catalogue, tmp_path):
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=10)
    save_file(theirs.state_dict(), tmp_path / "network.safetensors")
    network = open_network("timm:test_resnet", tmp_path / "network.safetensors")
    embedded = network.embed(catalogue.select(range(5)), batch_size=2)
    picture = network.preprocess(Image.open(BytesIO(catalogue[3]["image"]["bytes"])).convert("RGB"))
    with torch.inference_mode():
        pixels = network.preprocess.normalise(picture[None])
        expected = theirs.eval().forward_head(theirs.forward_features(pixels), pre_logits=True)[0]
    np.testing.assert_allclose(embedded.vectors[3], expected, rtol=1e-4, atol=1e-5)
    result = measure(place, network="timm:test_resnet", weights=tmp_path / "network.safetensors")
    assert result["features"] == f"timm:test_resnet {network.fingerprint}"
    plain = measure(place)
    assert result["metrics"]["fid"] != plain["metrics"]["fid"]
    assert result["metrics"]["nearest"] == plain["metrics"]["nearest"]


def test_torchvisions_classifier_gives_way_to_its_features(tmp_path):
    from torchvision.models import get_model

    torch.manual_seed(0)
    theirs = get_model("mobilenet_v3_small", weights=None).eval()
    save_file(theirs.state_dict(), tmp_path / "network.safetensors")
    network = open_network("torchvision:mobilenet_v3_small", tmp_path / "network.safetensors")
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = theirs.avgpool(theirs.features(pixels)).flatten(1)
        torch.testing.assert_close(network.module(pixels), expected)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"network": "timm:test_resnet"}, "expected --network and --network-weights together"),
        ({"network": "resnet", "weights": "x"}, "expected a network timm:NAME or torchvision:NAME, got 'resnet'"),
        ({"network": "timm:test_resnetx", "weights": "x"}, "timm has no model 'test_resnetx'; did you mean"),
        ({"network": "torchvision:resnet0", "weights": "x"}, "torchvision has no model 'resnet0'; did you mean"),
        ({"network": "timm:test_resnet", "weights": "none.safetensors"}, "none.safetensors"),
    ],
)
def test_a_network_that_is_none_is_refused(place, options, told):
    with pytest.raises(UserError, match=told.replace(".", r"\.")):
        measure(place, **options)
