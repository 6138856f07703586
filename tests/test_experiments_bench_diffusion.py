"""Memory and time of diffusion: rows are measured on a tiny pipeline, and the large one is Stable Diffusion 1.5."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from experiments.bench_diffusion import app, draw, make_stable_diffusion, measure, teach_adapters
from fclip.errors import UserError

ROW = {"size": 32, "steps": 2, "dtype": "float32"}


@pytest.fixture
def asked(tiny_sd):
    return ROW | {"model": str(tiny_sd)}


def test_drawing_is_steps_and_a_rest(asked):
    found = draw(asked | {"batch": 2, "mode": "all"})
    assert found["megabytes"] > 50
    assert found["picture"] == pytest.approx((30 * found["step"] + found["rest"]) / 2)
    assert found["rest"] >= 0


def test_teaching_takes_steps_of_the_real_loop(asked):
    found = teach_adapters(asked | {"micro": 2, "checkpointing": True})
    assert found["step"] > 0
    assert found["megabytes"] > 50


def test_rows_that_fail_say_why_and_the_others_are_there(asked, monkeypatch):
    import experiments.bench_diffusion as bench

    def here(command, **_):
        import json
        import subprocess

        row = json.loads(command[-1])
        if row.get("mode") == "offload":
            return subprocess.CompletedProcess(command, 2, "", "error: none is here")
        return subprocess.CompletedProcess(command, 0, json.dumps(measure(row)), "")

    monkeypatch.setattr(bench.subprocess, "run", here)
    options = ["--model", asked["model"], "--size", "32", "--batch", "1", "--modes", "all,offload", "--steps", "1"]
    told = CliRunner().invoke(app, options)
    assert told.exit_code == 0, told.output
    rows = [line for line in told.output.splitlines() if line.startswith("| float32")]
    assert len(rows) == 4
    assert rows[1] == "| float32 | offload | 1 | error: none is here |"
    assert [row.count("|") for row in (rows[0], *rows[2:])] == [8, 6, 6]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--batch", "two"], "expected --batch as numbers with commas, e.g. 1,4, got 'two'"),
        (["--teach", "0"], "expected --teach as numbers"),
        (["--modes", "all,al"], "expected --modes of all, slicing, tiling, offload, sequential, got 'al'"),
        (["--dtype", "half"], "expected --dtype of float32, float16, bfloat16, got 'half'"),
        (["--size", "100"], "expected --size in pixels, a multiple of 8, got 100"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(options, told):
    with pytest.raises(UserError, match=told):
        CliRunner().invoke(app, ["--model", "nowhere", *options], catch_exceptions=False)


def test_without_a_model_it_is_stable_diffusion_of_random_weights(tmp_path, monkeypatch):
    from diffusers import StableDiffusionPipeline

    def counted(self, folder):
        counts = {name: sum(p.numel() for p in getattr(self, name).parameters()) for name in ("unet", "vae")}
        assert counts == {"unet": 859_520_964, "vae": 83_653_863}  # those of the published weights
        folder.mkdir(parents=True)

    monkeypatch.setattr(StableDiffusionPipeline, "save_pretrained", counted)
    with torch.device("meta"):  # without the memory
        folder = make_stable_diffusion(tmp_path / "sd")
    assert folder.is_dir()
