"""DCGANs that learn: a small run from preset to pictures, resumed, refused, in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_fclip_catalogue_idx import write_idx

from experiments.dcgan import loop, saving
from experiments.dcgan.__main__ import main
from experiments.dcgan.config import Dcgan
from experiments.dcgan.curves import MOST_POINTS, thinned
from experiments.dcgan.loop import Run, train
from experiments.dcgan.pictures import open_pictures
from experiments.dcgan.saving import as_images, open_generator, save_last
from fclip.catalogue.storage import save_catalogue
from fclip.config import config_from, dump_preset
from fclip.errors import UserError
from fclip.generations import LIST, read_generations, seed_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def idx(tmp_path_factory) -> Path:
    """Thirty pictures of a bright square on black, somewhere in the middle."""
    pictures = np.zeros((30, 8, 8), np.uint8)
    for number, picture in enumerate(pictures):
        picture[2 : 5 + number % 2, 2 : 5 + number % 3] = 200 + number
    return write_idx(tmp_path_factory.mktemp("idx") / "images-idx3-ubyte.gz", pictures, packed=True)


@pytest.fixture
def settings(idx, tmp_path):
    """settings(**keys) → a small run in the test's folder; 8 pixels, three steps an epoch."""

    def make(**keys) -> Dcgan:
        net = {"channels": 1, "latent": 4, "width": 4} | keys.pop("net", {})
        small = {"out": str(tmp_path / "run"), "size_px": 8, "epochs": 2, "batch_size": 10, "samples": 9, "workers": 0}
        return config_from(Dcgan, small | {"data": {"idx": str(idx)}, "net": net} | keys, "test")

    return make


def fit(config: Dcgan, resume: Path | None = None) -> Run:
    return train(config, open_pictures(config), resume)


def said(argv: list[str], capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(argv)
    return end.value.code or 0, capsys.readouterr().err


@pytest.mark.parametrize("norm", ["spectral", "batch"])
def test_a_resumed_run_ends_as_the_uninterrupted_one_bit_for_bit(settings, tmp_path, norm):
    common = {"net": {"norm": norm}, "epochs": 3, "save_every": 1}
    whole = fit(settings(out=str(tmp_path / "whole"), **common))
    cut = settings(out=str(tmp_path / "cut"), **common)
    run, seen = Run(cut), open_pictures(cut)
    order = loop.BatchOrder(len(seen), 10, 3, cut.seed)
    for number, batch in enumerate(loop.loader(seen, order, 0)):
        run.take_step(batch)
        if number == 2:
            save_last(run)
        if number == 3:  # killed in the second epoch
            break
    torch.manual_seed(99)  # whatever happened in between
    resumed = fit(replace(cut, samples=3), tmp_path / "cut" / "last")
    assert resumed.step == whole.step == 9
    for part in ("bare_g", "bare_d", "average"):
        first, second = (getattr(run, part).state_dict() for run in (whole, resumed))
        assert [name for name in first if not torch.equal(first[name], second[name])] == []
    weights = [(tmp_path / name / "last" / saving.WEIGHTS).read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert [p.name for p in sorted((tmp_path / "cut" / "samples").iterdir())] == ["epoch-0002.png", "epoch-0003.png"]


def test_what_a_run_leaves_along_the_way(settings, tmp_path):
    run = fit(settings(report_every=2))
    out = tmp_path / "run"
    assert sorted(p.name for p in (out / "samples").iterdir()) == [f"epoch-000{epoch}.png" for epoch in range(3)]
    with Image.open(out / "samples" / "epoch-0002.png") as grid:
        assert grid.size == (8 * 8 + 7 * 4, 2 * 8 + 4)
    points = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    assert points == run.history
    assert [point["step"] for point in points] == [2, 3, 4, 6]
    assert all(0 <= point["right_real"] <= 1 and 0 <= point["right_fake"] <= 1 for point in points)
    with Image.open(out / "curves.png") as figure:
        assert len(figure.convert("RGB").getcolors(1 << 20)) > 10
    generator, config = open_generator(out / "last")
    assert config == settings(report_every=2)
    noise = torch.randn(9, 4, generator=torch.Generator().manual_seed(config.seed))
    assert torch.equal(generator(noise), run.average(noise))
    with Image.open(out / "samples" / "epoch-0002.png") as grid:
        assert np.array_equal(np.asarray(grid.crop((0, 0, 8, 8)).convert("L")), as_images(generator(noise))[0])


def test_the_discriminator_learns_to_tell_and_the_generator_what_it_is_told(settings):
    config = settings(optim={"augment": [], "generator_lr": 2e-3, "discriminator_lr": 4e-3, "ema": 0})
    pictures = open_pictures(config)
    real = torch.stack([pictures[i] for i in range(10)])
    alone = Run(config)
    alone.adam_g.param_groups[0]["lr"] = 0.0  # a generator that never learns
    points = [alone.take_step(real) for _ in range(40)]
    assert points[-1][0] < 0.7 * points[0][0]
    assert points[-1][4:].tolist() == [1, 1]
    run = Run(config)
    for _ in range(150):
        run.take_step(real)
    mean = real.mean(0)

    def distance(generator) -> float:
        made = generator(torch.randn(64, 4, generator=torch.Generator().manual_seed(1)))
        return float((made.mean(0) - mean).square().mean())

    assert distance(run.average) < 0.4 * distance(Run(config).average)
    assert torch.equal(run.average.body[0].weight, run.bare_g.body[0].weight)  # no averaging


def test_what_a_step_changes(settings):
    run, real = Run(settings()), torch.zeros(10, 1, 8, 8)
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in (run.bare_g, run.bare_d)]
    point = run.take_step(real)
    for part, was in zip((run.bare_g, run.bare_d), before, strict=True):
        assert all(not torch.equal(value, was[name]) for name, value in part.named_parameters() if value.grad.any())
        assert all(value.requires_grad for value in part.parameters())
    decay = 2 / 11
    weight, old = run.bare_g.body[0].weight.detach(), before[0]["body.0.weight"]
    torch.testing.assert_close(run.average.body[0].weight, decay * old + (1 - decay) * weight)
    assert point.shape == (6,)
    assert run.adam_g.param_groups[0]["lr"] == 1e-4
    assert run.adam_d.param_groups[0]["lr"] == 4e-4


def test_a_checkpoint_that_does_not_fit_is_refused(settings, tmp_path):
    fit(settings())
    last = tmp_path / "run" / "last"
    with pytest.raises(UserError, match=r"had another preset: latent: 5 \(was latent: 4\)"):
        fit(settings(net={"latent": 5}), last)
    with pytest.raises(UserError, match=r"found no state\.pt in .*; did you mean .*last\?"):
        fit(settings(), tmp_path / "run")
    with pytest.raises(UserError, match=r"found no generator\.safetensors in"):
        open_generator(tmp_path)
    (last / saving.WEIGHTS).write_bytes(b"x")
    with pytest.raises(UserError, match=r"generator\.safetensors is damaged: .* continued with --resume .*previous"):
        fit(settings(), last)
    with pytest.raises(UserError, match=r"generator\.safetensors is damaged"):
        open_generator(last)
    assert fit(settings(), tmp_path / "run" / "previous").step == 6


def test_too_few_pictures_and_a_loss_that_is_not_finite_end_a_run(settings, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="expected at least 31 pictures to train on, got 30"):
        fit(settings(batch_size=31))
    monkeypatch.setitem(loop.LOSSES, "hinge", (lambda real, fake: real.mean() * float("nan"), lambda fake: fake.mean()))
    with pytest.raises(UserError, match="the loss is not finite at step 3; lower"):
        fit(settings())
    assert not (tmp_path / "run" / "last").exists()


def test_from_preset_to_pictures(settings, tmp_path, capsys):
    preset, out, made = tmp_path / "preset.yaml", tmp_path / "run", tmp_path / "made"
    preset.write_text(dump_preset(settings()))
    code, told = said(["train", str(preset), "epochs=1"], capsys)
    assert code == 0
    assert "30 pictures of 8×8, 1 epochs" in told
    assert "note: 30 pictures are few" in told
    code, told = said(["train", str(preset)], capsys)
    assert (code, "already holds a run; continue with --resume" in told) == (2, True)
    line = ["generate", str(out / "last"), "--out", str(made), "-n"]
    assert said([*line, "5", "--batch-size", "5"], capsys) == (0, f"5 pictures in {made}\n")
    first = read_generations(made)
    assert [(one.file, one.participant, one.seed) for one in first[:1]] == [
        ("00001-0.png", "00001", seed_of(0, "00001", 0))
    ]
    pixels = {one.file: np.asarray(Image.open(made / one.file), int) for one in first}
    assert len({p.tobytes() for p in pixels.values()}) == 5
    # Interrupted and continued, in other batches: the same pictures.
    lines = (made / LIST).read_text().splitlines(keepends=True)
    (made / LIST).write_text("".join(lines[:2]) + lines[2][:9])
    assert said([*line, "5", "--batch-size", "2"], capsys)[0] == 0
    for one in read_generations(made):
        assert np.abs(np.asarray(Image.open(made / one.file), int) - pixels[one.file]).max() <= 1
    assert "pictures of another generator or seed" in said([*line, "5", "--seed", "1"], capsys)[1]
    assert "holds 00005-0.png, which is not asked for now" in said([*line, "4"], capsys)[1]
    assert said([*line, "0"], capsys)[0] == 2


def test_participants_get_pictures_of_their_own(settings, tmp_path, capsys):
    fit(settings(epochs=1))
    (tmp_path / "preferences.csv").write_text("participant,text\nana,red dress\nbo,a shirt\n")
    asked = ["generate", str(tmp_path / "run" / "last"), "--preferences", str(tmp_path / "preferences.csv"), "-n", "2"]
    assert said([*asked, "--out", str(tmp_path / "made")], capsys)[0] == 0
    found = read_generations(tmp_path / "made")
    assert [(one.participant, one.index, one.settings["text"]) for one in found] == [
        ("ana", 0, "red dress"), ("ana", 1, "red dress"), ("bo", 0, "a shirt"), ("bo", 1, "a shirt")
    ]  # fmt: skip


def test_a_catalogue_in_colour_by_the_large_preset(catalogue, tmp_path, capsys):
    save_catalogue(catalogue, tmp_path / "garments")
    preset = ROOT / "experiments" / "presets" / "dcgan" / "catalogue.yaml"
    keys = [f"data.catalogue=[{tmp_path / 'garments'}]", "batch_size=4", "epochs=1", "net.width=2", "net.max_width=4"]
    code, told = said(["train", str(preset), *keys, "samples=2", "workers=0", f"out={tmp_path / 'run'}"], capsys)
    assert code == 0, told
    with Image.open(tmp_path / "run" / "samples" / "epoch-0001.png") as grid:
        assert grid.size == (2 * 256 + 4, 256)


def test_long_curves_are_thinned_to_means():
    history = [{"step": float(n), "loss_d": float(n % 2)} for n in range(2 * MOST_POINTS)]
    points = thinned(history)
    assert len(points) == MOST_POINTS
    assert points[1] == {"step": 2.5, "loss_d": 0.5}
    assert thinned([]) == []


@pytest.mark.slow
def test_two_processes_share_the_pictures_and_resume_to_the_same_weights(settings, tmp_path):
    def launch(out: str, *options: str) -> None:
        preset = tmp_path / f"{out}.yaml"
        preset.write_text(dump_preset(settings(out=str(tmp_path / out), batch_size=5, epochs=2)))
        line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m"]
        done = subprocess.run(
            [*line, "experiments.dcgan", "train", str(preset), *options],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("30 pictures of 8×8") == 1

    launch("whole")
    points = [json.loads(line) for line in (tmp_path / "whole" / "curves.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == [3, 6]
    launch("cut", "--resume", str(tmp_path / "whole" / "previous"))
    files = [(tmp_path / out / "last" / saving.WEIGHTS).read_bytes() for out in ("whole", "cut")]
    assert files[0] == files[1]
