"""Adapters that learn: fine-tuning and DreamBooth on a tiny Stable Diffusion of the real classes."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_diffusion import SIDE, make_tiny_pipeline

from experiments.diffusion import config as config_module
from experiments.diffusion import loop
from experiments.diffusion.__main__ import main
from experiments.diffusion.config import Dreambooth, Finetune, NoiseConfig
from experiments.diffusion.dreambooth import run_dreambooth
from experiments.diffusion.finetune import run_finetune
from experiments.diffusion.loop import Run, train
from experiments.diffusion.objective import Denoiser, draw_noise
from experiments.diffusion.pictures import Batches, collate
from experiments.diffusion.pipelines import add_lora, open_pipeline
from fclip.catalogue.storage import save_catalogue
from fclip.config import config_from, load_config
from fclip.errors import UserError
from fclip.files import read_json
from fclip.generations import read_generations

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "experiments" / "presets" / "diffusion"


@pytest.fixture
def settings(tiny_sd, tmp_path):
    """settings(kind, **keys) → a small run in the test's folder."""

    def make(kind=Finetune, **keys):
        small = {"model": str(tiny_sd), "size_px": SIDE, "batch_size": 4, "workers": 0, "track": "none"}
        small |= {"out": str(tmp_path / "run"), "save_every": 0, "samples": {"every": 0}, "adapter": {"rank": 4}}
        return config_from(kind, small | keys, "test")

    return make


@pytest.fixture(scope="module")
def one_batch():
    """Four plain pictures with their colours' names, again and again."""
    colours = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "grey": (0, 0, 0)}
    pixels = [torch.tensor(rgb, dtype=torch.float32).view(3, 1, 1).expand(3, SIDE, SIDE) for rgb in colours.values()]
    samples = [{"pixels": p, "prompt": name, "weight": 1.0} for p, name in zip(pixels, colours, strict=True)]
    return collate(samples)


def repeated(batch, steps):
    return Batches(steps, list(batch["prompts"]), lambda start: [batch] * (steps - start))


def fit(config, batch, steps, resume=None, validation=()):
    return train(config, open_pipeline(config.model), repeated(batch, steps), validation, resume)


def adapters(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "pytorch_lora_weights.safetensors")


def picture(pipe, prompt="red"):
    noise = torch.Generator().manual_seed(1)
    return np.asarray(pipe(prompt, generator=noise, num_inference_steps=2).images[0], int)


def test_the_loss_falls_on_one_batch_and_what_is_saved_draws_the_same_picture(settings, one_batch, tiny_sd, tmp_path):
    config = settings(optim={"lr": 0.02, "warmup": 0}, adapter={"rank": 8, "text_rank": 2, "alpha": 16})
    run = fit(config, one_batch, 30, validation=[one_batch])
    before = Run(config, open_pipeline(config.model), repeated(one_batch, 1), [one_batch]).validate()
    assert run.validate() < 0.93 * before
    run.pipe.unet.eval()
    learned, plain = picture(run.pipe), open_pipeline(str(tiny_sd))
    untuned = picture(plain)
    assert np.abs(learned - untuned).max() > 20
    plain.load_lora_weights(tmp_path / "run" / "lora")  # diffusers' own way
    assert np.abs(picture(plain) - learned).max() <= 1
    ours = open_pipeline(str(tiny_sd), lora=str(tmp_path / "run" / "last"))
    assert np.abs(picture(ours) - learned).max() <= 1
    off = open_pipeline(str(tiny_sd), lora=str(tmp_path / "run" / "lora"), lora_scale=0)
    assert np.abs(picture(off) - untuned).max() <= 1
    names = {name.split(".")[0] for name in adapters(tmp_path / "run" / "lora")}
    assert names == {"unet", "text_encoder"}


def test_a_resumed_run_ends_as_the_uninterrupted_one_bit_for_bit(settings, one_batch, tmp_path):
    common = {
        "adapter": {"rank": 2, "text_rank": 2, "dropout": 0.2},
        "save_every": 3,
        "samples": {"every": 0, "steps": 1},
        "noise": {"offset": 0.1},
    }
    whole = fit(settings(out=str(tmp_path / "whole"), **common), one_batch, 6)
    config = settings(out=str(tmp_path / "cut"), **common)
    cut = Run(config, open_pipeline(config.model), repeated(one_batch, 6))
    for _ in range(3):
        cut.take_step(one_batch)
    loop.save_last(cut)
    torch.manual_seed(99)  # whatever happened in between
    seen = replace(config, samples=replace(config.samples, every=2, columns=1))  # and with grids on the way
    resumed = fit(seen, one_batch, 6, resume=tmp_path / "cut" / "last")
    assert resumed.step == whole.step == 6
    first, second = adapters(tmp_path / "whole" / "lora"), adapters(tmp_path / "cut" / "lora")
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert sorted(p.name for p in (tmp_path / "cut" / "samples").iterdir()) == ["step-000004.png", "step-000006.png"]
    with Image.open(tmp_path / "cut" / "samples" / "step-000006.png") as grid:
        assert grid.size == (SIDE, 4 * SIDE + 3 * 4)


def test_a_checkpoint_that_does_not_fit_is_refused(settings, one_batch, tmp_path):
    config = settings(save_every=1)
    fit(config, one_batch, 2)
    last = tmp_path / "run" / "last"
    with pytest.raises(UserError, match=r"had another preset: lr: 0\.5 \(was lr: 0\.0001\)"):
        fit(settings(save_every=5, optim={"lr": 0.5}), one_batch, 2, resume=last)
    with pytest.raises(UserError, match=r"found no state\.pt in"):
        fit(config, one_batch, 2, resume=tmp_path)
    (last / "state.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"is damaged: .* can be continued with --resume .*previous"):
        fit(config, one_batch, 2, resume=last)
    assert fit(config, one_batch, 2, resume=tmp_path / "run" / "previous").step == 2


def test_parts_of_a_batch_give_its_gradients(settings, one_batch):
    batch = one_batch | {"weights": torch.tensor([1.0, 1.0, 0.5, 0.25])}
    ends = []
    for micro in (0, 1, 3):
        run = Run(settings(micro_batch=micro), open_pipeline(settings().model), repeated(batch, 9))
        losses = [run.take_step(batch).item() for _ in range(2)]
        ends.append((losses, loop.adapter_state(run.pipe)))
    for losses, state in ends[1:]:
        assert losses == pytest.approx(ends[0][0], rel=1e-5)
        for name, value in state.items():
            torch.testing.assert_close(value, ends[0][1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_its_formula(tmp_path, prediction_type):
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    pipe = open_pipeline(str(make_tiny_pipeline(tmp_path / "model", prediction_type)))
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    draws = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn((3, 4, 16, 16), generator=draws) for _ in range(2))
    tokens, levels = torch.randint(0, 500, (3, 77), generator=draws), torch.tensor([5, 400, 950])
    with torch.no_grad():
        found = Denoiser(pipe.unet, pipe.text_encoder, scheduler, NoiseConfig(min_snr=5))(
            latents, tokens, noise, levels
        )
        plain = Denoiser(pipe.unet, pipe.text_encoder, scheduler, NoiseConfig())(latents, tokens, noise, levels)
        for i in range(3):
            level = levels[i : i + 1]
            kept = scheduler.alphas_cumprod[level].view(1, 1, 1, 1)
            noisy = kept.sqrt() * latents[i : i + 1] + (1 - kept).sqrt() * noise[i : i + 1]
            target = noise[i : i + 1]
            if prediction_type == "v_prediction":
                target = kept.sqrt() * noise[i : i + 1] - (1 - kept).sqrt() * latents[i : i + 1]
            guess = pipe.unet(noisy, level, pipe.text_encoder(tokens[i : i + 1])[0]).sample
            loss, snr = F.mse_loss(guess, target).item(), compute_snr(scheduler, level).item()
            weight = min(snr, 5) / (snr + (prediction_type == "v_prediction"))
            assert plain[i].item() == pytest.approx(loss, rel=1e-4)
            assert found[i].item() == pytest.approx(loss * weight, rel=1e-3)


def test_offset_noise_is_the_same_all_over_a_channel():
    shape = torch.Size((2, 4, 64, 64))
    plain, shifted = (draw_noise(shape, offset, torch.Generator().manual_seed(0)) for offset in (0, 0.5))
    difference = shifted - plain
    torch.testing.assert_close(difference, difference.mean((2, 3), keepdim=True).expand(shape))
    assert 0.1 < difference[..., 0, 0].std() < 1.5


def test_the_finetuning_of_a_catalogue_from_preset_to_pictures(settings, catalogue, tiny_sd, tmp_path, capsys):
    save_catalogue(catalogue, tmp_path / "garments")
    (tmp_path / "preset.yaml").write_text(f"base: {PRESETS / 'finetune.yaml'}\n")
    out = tmp_path / "run"
    keys = [
        f"data.catalogue=[{tmp_path / 'garments'}]",
        f"out={out}",
        f"model={tiny_sd}",
        f"size_px={SIDE}",
        "workers=0",
    ]
    keys += ["epochs=1", "track=none", "samples.every=3", "samples.steps=1", "samples.columns=2", "adapter.rank=2"]
    with pytest.raises(SystemExit) as end:
        main(["finetune", str(tmp_path / "preset.yaml"), *keys])
    assert not end.value.code
    history = read_json(out / "history.json", "")
    assert [entry["step"] for entry in history if "val_loss" in entry] == [0, 3, 5]
    assert [entry["step"] for entry in history if "loss" in entry] == [5]
    assert {p.name for p in (out / "samples").iterdir()} == {f"step-00000{step}.png" for step in (0, 3, 5)}
    assert "20 pictures in 5 steps, e.g. '" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["finetune", str(tmp_path / "preset.yaml"), *keys])
    assert end.value.code == 2
    assert "already holds a run; continue with --resume" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["generate", "--text", "red dress", "--model", str(tiny_sd), "--lora", str(out / "lora"), "-n", "1",
              "--steps", "1", "--out", str(tmp_path / "drawn"), "--device", "cpu"])  # fmt: skip
    assert not end.value.code
    assert read_generations(tmp_path / "drawn")[0].settings["lora"] == str(out / "lora")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 50), (200, 20 * number, 0)).save(folder / f"{number}.jpg")
    return folder


def test_dreambooth_learns_one_thing_beside_its_class(settings, photos, tmp_path, monkeypatch, capsys):
    asked = {"instance": str(photos), "prompt": "a sks dress", "class_prompt": "a dress", "class_pictures": 3}
    config = settings(Dreambooth, batch_size=2, steps=20, prior_weight=0.5, optim={"lr": 0.02, "warmup": 0}, **asked)
    batches = []
    monkeypatch.setattr(
        Run, "prepared", lambda run, b, draws, was=Run.prepared: (batches.append(b), was(run, b, draws))[1]
    )
    run = run_dreambooth(config)
    assert len(batches) == 20
    assert batches[0]["prompts"] == ["a sks dress"] * 2 + ["a dress"] * 2
    assert batches[0]["weights"].tolist() == [1, 1, 0.5, 0.5]
    kept = read_generations(tmp_path / "run" / "class")
    assert [(one.prompt, one.negative_prompt) for one in kept] == [("a dress", "")] * 3
    losses = [entry["loss"] for entry in run.history if "loss" in entry]
    assert losses[-1] < 0.97 * losses[0]
    made = {one.file: (tmp_path / "run" / "class" / one.file).stat().st_mtime_ns for one in kept}
    run_dreambooth(replace(config, steps=1), overwrite=True)  # the class's pictures are those of before
    assert {file: (tmp_path / "run" / "class" / file).stat().st_mtime_ns for file in made} == made
    pipe = open_pipeline(config.model)
    add_lora(pipe, str(tmp_path / "run" / "lora"))
    assert "note" not in capsys.readouterr().err


def test_dreambooth_without_a_class_learns_only_the_thing(settings, photos, tmp_path, capsys):
    (photos / "0.jpg").unlink()
    asked = {"instance": str(photos), "prompt": "a sks dress", "steps": 1}
    run_dreambooth(settings(Dreambooth, **asked))
    assert "note: 2 pictures are few" in capsys.readouterr().err
    assert not (tmp_path / "run" / "class").exists()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "no pictures to learn from; set instance=FOLDER"),
        ({"instance": "x"}, 'no name for what is learned; set "prompt=a photo of sks dress"'),
        ({"instance": "none/here", "prompt": "a"}, "expected a folder with pictures of the one thing"),
        ({"instance": "x", "prompt": "a", "class_prompt": "a"}, "prompt and class_prompt are the same"),
    ],
)
def test_a_dreambooth_that_says_too_little_is_refused(settings, keys, told):
    with pytest.raises(UserError, match=told):
        run_dreambooth(settings(Dreambooth, **keys))


def test_what_cannot_be_learned_from_is_refused(settings, catalogue, photos, tmp_path, tiny_sd):
    asked = {"instance": str(photos), "prompt": "a b", "class_prompt": "b"}
    with pytest.raises(UserError, match=r"expected 5 pictures of the class in .*, found 3; set class_pictures=3"):
        run_dreambooth(settings(Dreambooth, class_folder=str(photos), class_pictures=5, **asked))
    (photos / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bad\.jpg"):
        run_dreambooth(settings(Dreambooth, **asked))
    with pytest.raises(UserError, match=r"no catalogue to learn from; set data\.catalogue"):
        run_finetune(settings())
    save_catalogue(catalogue, tmp_path / "garments")
    data = {"catalogue": (str(tmp_path / "garments"),)}
    with pytest.raises(UserError, match="expected at least 64 captioned pictures to train on, got 20"):
        run_finetune(settings(batch_size=64, data=data))


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(settings, one_batch, tmp_path):
    with pytest.raises(UserError, match=r"the loss is nan at step 2; lower optim\.lr"):
        fit(settings(save_every=2), one_batch | {"pixels": one_batch["pixels"] * float("nan")}, 2)
    assert not (tmp_path / "run" / "last").exists()


def test_adapters_of_another_model_are_refused(settings, one_batch, tiny_sd, tmp_path):
    fit(settings(), one_batch, 1)
    file = tmp_path / "run" / "lora" / "pytorch_lora_weights.safetensors"
    with pytest.raises(UserError, match=r"expected adapters in .*, found none"):
        open_pipeline(str(tiny_sd), lora=str(tmp_path))
    other = tmp_path / "wider"
    shutil.copytree(tiny_sd, other)
    about = json.loads((other / "unet" / "config.json").read_text()) | {"block_out_channels": [24, 48]}
    (other / "unet" / "config.json").write_text(json.dumps(about))
    from diffusers import UNet2DConditionModel

    UNet2DConditionModel.from_config(about).save_pretrained(other / "unet")
    with pytest.raises(UserError, match="do not fit this model: "):
        open_pipeline(str(other), lora=str(file))


def test_every_key_has_a_comment_and_every_preset_is_valid():
    source = Path(config_module.__file__).read_text()
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)] if isinstance(node, ast.ClassDef) else []
        for field in fields:
            last, before = lines[field.end_lineno - 1], lines[field.lineno - 2].strip()
            explained = "  # " in last[field.end_col_offset :] or before.startswith("# ")
            assert explained or "default_factory" in last, ast.unparse(field)
    kinds = {"dreambooth.yaml": Dreambooth}
    found = sorted(PRESETS.glob("*.yaml"))
    assert len(found) == 3
    assert all(load_config(kinds.get(file.name, Finetune), file).out.startswith("runs/diffusion/") for file in found)
    with pytest.raises(UserError, match=r"unknown key 'optim\.rate'; .*known: beta1, beta2, clip_norm, lr"):
        load_config(Finetune, PRESETS / "finetune.yaml", ["optim.rate=1"])


@pytest.mark.slow
def test_two_processes_share_the_batches_and_one_writes(tiny_sd, tmp_path):
    (tmp_path / "preset.yaml").write_text(
        f"base: {PRESETS / 'finetune.yaml'}\nmodel: {tiny_sd}\nout: {tmp_path / 'run'}\nsize_px: {SIDE}\nepochs: 1\n"
        "workers: 0\nbatch_size: 2\ntrack: none\ndata: {catalogue: ['drawn:12']}\nsamples: {every: 0}\n"
    )
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m"]
    done = subprocess.run(
        [*line, "experiments.diffusion", "finetune", str(tmp_path / "preset.yaml")],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("20 pictures in 5 steps") == 1
    assert [entry["step"] for entry in read_json(tmp_path / "run" / "history.json", "") if "loss" in entry] == [5]
    assert adapters(tmp_path / "run" / "lora")
