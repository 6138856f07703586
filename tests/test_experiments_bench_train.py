"""The benchmarks: the peer is open_clip's own trainer, ratios and curves are read right, each command runs."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from experiments.bench_data import large_catalogue
from experiments.bench_peer import Peer, PeerRecipe, peer_batch
from experiments.bench_profile import utilisation
from experiments.bench_quality import Clock, compare_curves, peer_epochs
from experiments.bench_steps import by_turns, is_convolutional, make_batch, make_model, make_run, median_ratio
from experiments.bench_train import main, size_of, table
from fclip.errors import UserError
from fclip.files import read_json

TINY = ["--model", "timm:test_resnet", "--size", "32x32", "--batch", "4", "--repeats", "1"]


@pytest.fixture(autouse=True)
def as_it_is(monkeypatch):
    """The allocator and the threads stay as the other tests need them."""
    monkeypatch.setattr("fclip.machine.tune_cpu", lambda: None)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return make_model("timm:test_resnet", (32, 32))


def test_the_peer_takes_the_step_that_its_recipe_says(tiny):
    """Against CLIP's loss and AdamW written out."""
    model, mine = copy.deepcopy(tiny), copy.deepcopy(tiny).train()
    batch = make_batch(model, (32, 32), 4, per_caption=1)
    images, texts = peer_batch(model, batch)
    recipe = PeerRecipe(lr=0.1, weight_decay=0.0, eps=1.0, warmup=0.0)  # so large an eps keeps the gradient's size
    Peer(model.clip, recipe, steps=10, device=torch.device("cpu"), batch_size=4).train_epoch([(images, texts)])
    logits = mine.clip.logit_scale.exp() * mine.encode_image(images) @ mine.encode_text(texts).T
    own = torch.arange(4)
    ((F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2).backward()
    torch.optim.AdamW(mine.clip.parameters(), lr=0.1, betas=recipe.betas, eps=recipe.eps, weight_decay=0).step()
    with torch.no_grad():
        mine.clamp_logit_scale()
    for (name, ours), theirs in zip(mine.clip.named_parameters(), model.clip.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4, msg=name)


def test_both_sides_train_on_the_same_pictures_and_captions(tiny):
    batch = make_batch(tiny, (32, 32), 8, per_caption=4)
    images, texts = peer_batch(tiny, batch)
    assert len(batch["tokens"]) == 2
    assert torch.equal(texts, tiny.tokenizer([tiny_caption for _ in range(4) for tiny_caption in two_captions()]))
    assert torch.equal(images, tiny.preprocess.normalise(batch["pixels"]))


def two_captions() -> list[str]:
    from experiments.bench_steps import captions

    return captions(2)


def test_turns_alternate_and_their_ratios_are_taken_turn_by_turn():
    order: list[str] = []
    seconds = by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert "".join(order) == "abbaab"
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert median_ratio([2, 30, 4], [1, 10, 1]) == 3  # of 2, 3, 4; a ratio of medians would be 4


def test_only_convolutional_towers_are_channels_last(tiny):
    assert is_convolutional(tiny)
    weights = [p for p in make_run(copy.deepcopy(tiny), 4, bf16=False).model.clip.visual.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def curve(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"seconds": seconds, "text_sfa": value} for seconds, value in points]


def test_time_to_quality_is_that_of_the_first_entry_as_good_as_the_peers_best():
    theirs = curve((10, 0.2), (20, 0.5), (30, 0.4))
    found = compare_curves(curve((4, 0.3), (8, 0.5), (12, 0.6)), theirs)
    assert found == {
        "open_clip_best": 0.5,
        "ours_best": 0.6,
        "open_clip_seconds": 20,
        "ours_seconds": 8,
        "ratio": 0.4,
    }
    assert compare_curves(curve((4, 0.3)), theirs)["ratio"] is None


def test_the_clock_stands_still_while_something_is_measured():
    now = iter([0.0, 10.0, 25.0, 30.0, 99.0])
    clock = Clock(lambda: next(now))
    clock.start()
    with clock:
        assert clock.seconds == 10
    with clock:
        assert clock.seconds == 15


def test_utilisation_is_of_the_gpu_that_is_there():
    assert utilisation(98.9e12, "NVIDIA H200") == pytest.approx(0.1)
    assert utilisation(31.2e12, "NVIDIA A100-SXM4-80GB") == pytest.approx(0.1)
    assert utilisation(12.1e12, "NVIDIA L4") == pytest.approx(0.1)
    assert utilisation(1e12, "CPU") is None


def test_a_table_has_a_row_for_each_measurement():
    rows = [{"model": "a", "ratio": 1.2345, "images": 1234.5}, {"model": "b", "ratio": None, "images": 2.0}]
    assert table(rows).splitlines() == [
        "| model | ratio | images |",
        "| --- | --- | --- |",
        "| a | 1.23 | 1234 |",
        "| b | – | 2 |",
    ]


def test_a_size_is_height_by_width():
    assert size_of("192x144") == (192, 144)
    with pytest.raises(UserError, match="HEIGHTxWIDTH"):
        size_of("192")


def test_a_large_catalogue_has_attributes_that_vary():
    rows = large_catalogue(40)
    assert len(rows) == 40
    assert len({tuple(a.values()) for a in rows["attributes"][:]}) > 30


# Each command, on next to nothing


def run(*argv: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(argv)


def test_step_gives_a_ratio_for_distinct_and_for_repeated_captions(tmp_path, capsys):
    run("step", *TINY, "--steps", "1", "--out", str(tmp_path))
    rows = read_json(tmp_path / "step.json", "a benchmark")["rows"]
    assert [row["pictures_per_caption"] for row in rows] == [1, 4]
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["open_clip"]) for row in rows)  # one turn
    assert capsys.readouterr().out.startswith("| model | size | batch |")


def test_pipeline_gives_a_ratio_for_each_size(tmp_path):
    run("pipeline", "--sizes", "64", "--images", "2", "--repeats", "1", "--out", str(tmp_path))
    (row,) = read_json(tmp_path / "pipeline.json", "a benchmark")["rows"]
    assert row["jpeg_px"] == 64
    assert row["ratio"] == pytest.approx(row["ours"] / row["torchvision"])
    assert row["device_loader"] > 0
    assert row["device_only"] > 0


def test_scale_gives_a_cost_for_each_size(tmp_path):
    run("scale", "--items", "70,80", "--steps", "1", "--repeats", "1", "--out", str(tmp_path))
    rows = read_json(tmp_path / "scale.json", "a benchmark")["rows"]
    assert [row["items"] for row in rows] == [70, 80]
    assert all(row["ms_per_sample"] > 0 for row in rows)


def test_profile_compares_the_step_with_its_towers(tmp_path, capsys):
    run("profile", *TINY, "--top", "3", "--out", str(tmp_path))
    (row,) = read_json(tmp_path / "profile.json", "a benchmark")["rows"]
    assert row["step_ms"] / row["towers_ms"] - 1 == pytest.approx(row["beyond"])
    assert row["tflop_per_s"] > 0
    assert "Self CPU" in capsys.readouterr().out


@pytest.mark.slow
def test_quality_leaves_both_curves_and_their_picture(tmp_path):
    preset = tmp_path / "tiny.yaml"
    preset.write_text(
        "epochs: 2\nbatch_size: 8\nmodel: {name: 'timm:test_resnet', image_size: [32, 32], tokenizer: trained}\n"
        "data: {catalogue: ['drawn:16'], workers: 0}\n"
    )
    out = tmp_path / "out"
    run("quality", str(preset), "--minutes", "0.001", "--out", str(out), "eval_every=1")
    found = read_json(out / "quality.json", "a benchmark")
    assert len(found["ours"]) == 2
    assert len(found["open_clip"]) >= 1
    seconds = [entry["seconds"] for entry in found["ours"]]
    assert 0 < seconds[0] < seconds[1]
    assert np.asarray(Image.open(out / "quality.png").convert("L")).std() > 5
    with pytest.raises(SystemExit, match="2"):
        main(["quality", str(preset), "--out", str(out)])


@pytest.mark.parametrize(("minutes", "epochs"), [(0.9, 3), (0.8, 2), (0.01, 1)])
def test_the_peer_gets_the_whole_epochs_that_come_nearest_to_its_minutes(monkeypatch, minutes, epochs):
    clock = iter([0.0, 2.0])  # the two timed batches take two seconds: an epoch of twenty takes twenty
    monkeypatch.setattr("experiments.bench_quality.TRIAL_STEPS", 2)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    trial = SimpleNamespace(train_epoch=lambda batches: None)
    assert peer_epochs(trial, range(20), minutes) == epochs


def test_locked_gives_a_row_for_each_choice_of_towers(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("experiments.bench_locked._epoch", lambda freeze, *_: (seen.append(freeze), (1.0, 2.0))[1])
    run("locked", "--out", str(tmp_path))
    rows = read_json(tmp_path / "locked.json", "a benchmark")["rows"]
    assert [row["ratio"] for row in rows] == [1.0] * 3
    assert seen == [way for way in (("visual.trunk.*",), ("visual.*",), ("visual.*", "text.*")) for _ in range(2)]
