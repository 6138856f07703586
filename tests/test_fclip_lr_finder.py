"""The range test, where the right rate is known, and on a model that must stay as it was."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from fclip.batches import TrainingPictures
from fclip.errors import UserError
from fclip.files import read_json
from fclip.lr_finder import find_lr, read_sweep, save_sweep, smoothed, sweep
from fclip.training import train


class Quadratic:
    """Gradient descent on curvature * x² / 2, which diverges above a rate of 2 / curvature."""

    def __init__(self, curvature: float) -> None:
        self.curvature, self.x = curvature, 1.0

    def step(self, rate: float) -> float:
        loss = self.curvature * self.x**2 / 2
        self.x -= rate * self.curvature * self.x
        return loss


@pytest.mark.parametrize("curvature", [0.1, 1.0, 100.0, 1e4])
def test_the_rate_of_a_quadratic_is_within_a_decade_below_where_it_diverges(curvature):
    found = read_sweep(*sweep(Quadratic(curvature).step, 1e-8, 1e3, 150))
    assert 0.1 * 2 / curvature > found.suggested > 0.01 * 2 / curvature
    assert found.diverges > 2 / curvature


def test_smoothing_does_not_move_a_step():
    losses = [1.0] * 20 + [0.0] * 20
    smooth = smoothed(losses)
    assert (smooth[19] + smooth[20]) / 2 == pytest.approx(0.5)
    assert np.abs(np.gradient(smooth)).argmax() in (19, 20)
    assert smoothed([2.0] * 9) == pytest.approx([2.0] * 9)


def test_a_sweep_ends_where_the_loss_explodes():
    losses = iter([1.0, 0.9, 4.1, 0.1])
    assert sweep(lambda rate: next(losses), 1e-3, 1, 4)[1:] == ([1.0, 0.9], pytest.approx(0.1))
    losses = iter([1.0, math.nan, 0.1])
    assert sweep(lambda rate: next(losses), 1e-3, 1, 3)[1:] == ([1.0], pytest.approx(10**-1.5))


def test_a_loss_that_only_wavers_suggests_nothing():
    noise = np.random.default_rng(0).normal(5, 0.1, 100).tolist()
    with pytest.raises(UserError, match=r"no learning rate from 1e-08 to 1e\+00 made the loss fall by more than it"):
        read_sweep(np.geomspace(1e-8, 1, 100).tolist(), noise)
    with pytest.raises(UserError, match=r"at least 10 steps, the loss exploded after 2; begin it lower"):
        read_sweep([1e-2, 1e-1], [1.0, 2.0])


@pytest.fixture
def pictures(catalogue, captions, model, preset):
    return TrainingPictures(catalogue, captions, model.preprocess, preset().data, 0, 20)


def test_the_suggested_rate_learns_better_than_much_less_and_much_more(build, preset, pictures):
    keys = {"batch_size": 12, "loss": {"positives": "clip"}}
    found = find_lr(preset(**keys), build(), pictures).suggested

    def loss(rate: float, out: str) -> float:
        settled = preset(epochs=20, out=f"{preset().out}-{out}", optim={"lr": rate}, **keys)
        return train(settled, build(), pictures).history[-1]["loss"]

    assert loss(found, "found") < min(loss(found / 100, "less"), loss(found * 1000, "more"))


def test_model_and_random_numbers_stay_as_they_were(model, preset, pictures):
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = {n: w.clone() for n, w in model.clip.state_dict().items()}
    learns = [p.requires_grad for p in model.clip.parameters()]
    expected = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    find_lr(preset(freeze=("logit_scale",), optim={"head_epochs": 1}), model, pictures)
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected
    after = model.clip.state_dict()
    assert all(torch.equal(w, after[n]) for n, w in before.items())
    assert [p.requires_grad for p in model.clip.parameters()] == learns
    assert not model.clip.training


def test_the_factors_of_the_towers_stay(model, preset, pictures, monkeypatch):
    from fclip.training import Run

    seen, step = [], Run.take_step

    def watched(run, batch, steps):
        outputs = step(run, batch, steps)
        seen.append(sorted({group["lr"] for group in run.optimizer.param_groups}))
        return outputs

    monkeypatch.setattr(Run, "take_step", watched)
    optim = {"image_lr": 0.1, "text_lr": 0.5, "warmup": 0.5, "head_epochs": 1}
    with pytest.raises(UserError, match="made the loss fall"):
        find_lr(preset(optim=optim), model, pictures, low=1e-9, high=1e-8, steps=12)
    assert seen[0] == pytest.approx([1e-10, 5e-10, 1e-9])
    assert seen[-1] == pytest.approx([1e-9, 5e-9, 1e-8])


def test_the_picture_and_the_numbers_are_written(tmp_path):
    found = read_sweep(*sweep(Quadratic(1.0).step, 1e-6, 1e3, 100))
    save_sweep(found, tmp_path / "out")
    values = read_json(tmp_path / "out" / "lr.json", "")
    assert values["suggested"] == found.suggested
    assert len(values["rates"]) == len(values["losses"])
    assert np.asarray(Image.open(tmp_path / "out" / "lr.png").convert("L")).std() > 5
