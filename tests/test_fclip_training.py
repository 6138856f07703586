"""The training loop: it learns, it is reproducible, and it refuses what cannot work."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import AUGMENTED, EVERYTHING, assert_equal, constant, curve, weights
from datasets import Dataset
from test_fclip_machine import Types

import fclip.training
from fclip.checkpoint import load_checkpoint
from fclip.config import load_preset
from fclip.embedding import embed_catalogue, embed_texts
from fclip.errors import UserError
from fclip.files import read_json
from fclip.model import MAX_LOGIT_SCALE
from fclip.optimisation import lr_factor
from fclip.pace import Pace
from fclip.training import Run, measurements_since_best, read_history

# It learns


@pytest.mark.parametrize(
    "loss",
    [
        {"positives": "clip"},
        {"positives": "equal"},
        {"positives": "compatible"},
        {"positives": "compatible", "surfacing": 1.0, "negatives": 99},
        {"positives": "clip", "surfacing": 1.0, "negatives": 2},
    ],
    ids=lambda loss: " ".join(f"{k}={v}" for k, v in loss.items()),
)
def test_it_overfits_one_batch(fit, preset, build, catalogue, captions, loss):
    products = catalogue.select(range(0, 24, 2))  # one view of each: twelve distinct captions
    model = build()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5  # thirty steps are too few for the usual running mean
    run = fit(preset(epochs=30, batch_size=12, loss=loss, optim={"lr": 5e-3}), on=products, model=model)
    texts = [captions.render(a) for a in products["attributes"][:]]
    similarity = embed_catalogue(run.model, products).vectors @ embed_texts(run.model, texts).T
    assert run.history[0]["loss"] > 2
    assert run.history[-1]["loss"] < 0.1
    assert (similarity.argmax(axis=1) == np.arange(12)).all()


def test_growing_pictures_train_the_same_tower(fit, preset):
    run = fit(preset(epochs=3, data={"first_size": 0.5}))
    assert run.step == 9


# It is reproducible


@pytest.mark.parametrize("keys", [{"optim": {"ema": 0.5}}, EVERYTHING], ids=["plain", "everything"])
def test_two_runs_are_equal_bit_for_bit(fit, preset, keys):
    first, second = (fit(preset(out=f"{preset().out}-{n}", data=AUGMENTED, **keys), constant) for n in (1, 2))
    assert_equal(weights(first), weights(second))
    assert curve(first.history) == curve(second.history)


# It stops where it must


def test_a_loss_that_is_not_finite_stops_the_run(fit, preset):
    with pytest.raises(UserError, match=r"the loss is nan at step 3; lower optim.lr \(now 1e\+30\); nothing was saved"):
        fit(preset(optim={"lr": 1e30}))


@pytest.mark.parametrize("save_every", [0, 1])
def test_a_broken_model_never_replaces_the_last_sound_checkpoint(fit, preset, monkeypatch, save_every):
    """The step that breaks the weights still has a finite loss: saving right after it would keep the wreck."""
    sound = lr_factor
    monkeypatch.setattr(fclip.training, "lr_factor", lambda step, *rest: sound(step, *rest) if step < 3 else math.nan)
    with pytest.raises(UserError, match=r"not finite|nan at step [46]; lower .*; the checkpoint in .*last is from bef"):
        fit(preset(save_every=save_every), constant)
    last = load_checkpoint(Path(preset().out) / "last")
    assert all(p.isfinite().all() for p in last.clip.parameters())
    assert read_json(Path(preset().out) / "last" / "metrics.json", "")["step"] == 3


def test_it_warns_when_all_pictures_get_the_same_embedding(fit, preset, catalogue, capsys):
    columns = catalogue.to_dict()
    columns["image"] = [columns["image"][0]] * 24
    fit(preset(), on=Dataset.from_dict(columns, features=catalogue.features))
    assert "warning: all pictures get nearly the same embedding (collapse)" in capsys.readouterr().out
    fit(preset(epochs=1))
    assert "collapse" not in capsys.readouterr().out


def test_a_batch_larger_than_the_data_is_refused(fit, preset):
    with pytest.raises(UserError, match=r"expected at least 25 captioned pictures .*, got 24; set batch_size lower"):
        fit(preset(batch_size=25))


def test_the_sigmoid_loss_learns_its_bias_and_needs_one(fit, preset, build):
    """Its temperature is free: that of the published SigLIP is above CLIP's range."""
    model, sigmoid = build(), preset(epochs=1, loss={"kind": "sigmoid"})
    with pytest.raises(UserError, match=r"^loss.kind=sigmoid is for a model with a logit bias, .* loss.kind=softmax$"):
        fit(sigmoid, model=model)
    model.clip.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))
    model.clip.logit_scale.data.fill_(4.8)
    after = weights(fit(sigmoid, model=model))
    assert after["logit_bias"] != -10
    assert after["logit_scale"] > MAX_LOGIT_SCALE


@pytest.mark.parametrize(("start", "end"), [(9.0, MAX_LOGIT_SCALE), (-3.0, 0.0)])
def test_the_temperature_stays_in_clips_range(fit, preset, build, start, end):
    model = build()
    model.clip.logit_scale.data.fill_(start)
    fit(preset(epochs=1, optim={"lr": 1e-9}), model=model)
    assert model.clip.logit_scale.item() == pytest.approx(end, abs=1e-6)


def test_on_a_cpu_a_step_in_halves_attends_in_full(fit, preset, monkeypatch):
    """Blockwise attention in halves is what `fclip.machine.slow_halves_in_full` avoids."""
    monkeypatch.setattr("fclip.training.uses_bf16", lambda preset: True)
    with Types() as types:
        fit(preset(epochs=1))
    assert ("pointwise", torch.bfloat16) in types.seen  # autocast is on
    assert ("attention", torch.bfloat16) not in types.seen


# What is kept


def test_averaged_weights_can_be_measured(fit, preset):
    """A causal text tower masks with -inf, and an average of it with itself would be no number."""
    measured: list[torch.Tensor] = []

    def evaluate(model):
        with torch.inference_mode():
            measured.append(model.encode_text(model.tokenizer(["red shirt", "blue dress"])))
        return {"score": 0.5}

    fit(preset(epochs=2, optim={"ema": 0.5}), evaluate)
    assert torch.stack(measured).isfinite().all()
    assert not torch.equal(*measured)


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_best_is_the_epoch_with_the_highest_score_and_last_is_the_end(fit, preset, monkeypatch, ema):
    """With `ema` the best are the averaged weights: here averaged by hand, step by step."""
    averages: list[dict[str, torch.Tensor]] = []
    take_step = Run.take_step

    def follow(run, batch, steps):
        outputs = take_step(run, batch, steps)
        new = {k: v.double() for k, v in weights(run).items()}
        old = averages[-1] if averages else new
        averages.append({k: ema * old[k] + (1 - ema) * new[k] for k in new})
        return outputs

    monkeypatch.setattr(Run, "take_step", follow)
    scores = iter([0.1, 0.9, 0.5])
    run = fit(preset(epochs=3, optim={"ema": ema}), lambda model: {"score": next(scores)})
    best, last = (load_checkpoint(run.out / name).clip.state_dict() for name in ("best", "last"))
    expected = averages[5]  # after two epochs of three steps
    for name, value in best.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert_equal(last, weights(run))
    assert read_json(run.out / "best" / "metrics.json", "") == {"step": 6, "score": 0.9}
    assert run.best == 0.9


@pytest.mark.parametrize("lora", [{}, {"rank": 2}], ids=["whole", "lora"])
def test_best_lies_between_the_start_and_the_end_and_last_at_the_end(fit, preset, build, lora):
    start = build().clip.state_dict()
    measured = []

    def evaluate(model) -> dict[str, float]:
        measured.append({k: v.clone() for k, v in model.clip.state_dict().items()})
        return {"score": 0.5}

    run = fit(preset(epochs=1, optim={"wise_ft": 0.25, "lr": 0.01}, lora=lora), evaluate)
    best, last = (load_checkpoint(run.out / name).clip.state_dict() for name in ("best", "last"))
    assert_equal(best, measured[0])
    for name, value in best.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * last[name], rtol=1e-5, atol=1e-7)
    assert not torch.equal(last["visual.head.proj.weight"], start["visual.head.proj.weight"])
    if not lora:
        assert_equal(last, weights(run))


def test_the_history_holds_losses_and_scores(fit, preset):
    run = fit(preset(epochs=4, eval_every=2), constant)
    history = read_history(run.out)
    assert [entry["step"] for entry in history if "loss" in entry] == [3, 6, 9, 10, 12]
    assert [(e["epoch"], e["score"]) for e in history if "score" in e] == [(2, 0.5), (4, 0.5)]


def test_a_part_of_an_epoch_is_trained_measured_and_kept(fit, preset):
    run = fit(preset(epochs=1.5), constant)  # three steps an epoch
    assert run.step == 4
    assert [(e["step"], e["epoch"]) for e in run.history if "score" in e] == [(3, 1), (4, 4 / 3)]
    assert read_json(run.out / "last" / "metrics.json", "")["step"] == 4


def test_the_history_holds_the_pace_without_measuring_and_saving(fit, preset, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(fclip.training, "Pace", lambda images: Pace(images, lambda: now[0]))
    take_step = Run.take_step

    def in_a_quarter_of_a_second(run, batch, steps):
        now[0] += 0.25
        return take_step(run, batch, steps)

    def evaluate(model) -> dict[str, float]:
        now[0] += 1000
        return {"score": 0.5}

    monkeypatch.setattr(Run, "take_step", in_a_quarter_of_a_second)
    run = fit(preset(), evaluate)
    looks = [entry for entry in read_history(run.out) if "loss" in entry]
    assert len(looks) == 2
    for look in looks:
        assert (look["images_per_second"], look["step_seconds"], look["data_wait"]) == (32, 0.25, 0)
        assert 0.05 < look["memory_gib"] < 1000


# When it ends early


def test_measurements_since_the_best_by_hand():
    def curve(*scores: float) -> list[dict[str, float]]:
        return [entry for score in scores for entry in ({"loss": 1.0}, {"score": score})]

    assert [measurements_since_best(curve(*s)) for s in ([], [1], [1, 2], [2, 1], [1, 2, 1, 2, 1])] == [0, 0, 0, 1, 3]


SCORES = (0.1, 0.5, 0.4, 0.5, 0.9, 0.2)


@pytest.mark.parametrize(
    ("patience", "every", "ends", "best"),
    [(0, 1, 6, 0.9), (1, 1, 3, 0.5), (2, 1, 4, 0.5), (3, 1, 6, 0.9), (1, 2, 6, 0.9)],
)
def test_it_stops_when_the_score_no_longer_rises(fit, preset, capsys, patience, every, ends, best):
    """The first of two equal scores is the best; with `every` 2 only the epochs 2, 4 and 6 are measured."""
    scores = iter((0.1, 0.3, 0.9) if every == 2 else SCORES)
    run = fit(preset(epochs=6, patience=patience, eval_every=every), lambda model: {"score": next(scores)})
    assert run.step == 3 * ends
    assert run.best == best == read_json(run.out / "best" / "metrics.json", "")["score"]
    assert read_json(run.out / "last" / "metrics.json", "")["step"] == run.step
    told = f"stopped at step {3 * ends}: {patience} measurements without a better score than {best:.3f}"
    assert (told in capsys.readouterr().out) == (ends < 6)


def test_a_run_that_gave_up_and_is_resumed_takes_no_step(fit, preset, capsys):
    settled = preset(epochs=6, patience=1)
    first = fit(settled, constant)
    again = fit(settled, constant, resume=first.out / "last")
    assert again.step == first.step == 6
    assert_equal(weights(first), weights(again))
    assert capsys.readouterr().out.count("stopped at step 6: 1 measurements without a better score than 0.500") == 2


def test_the_last_epoch_is_measured_whatever_eval_every_says(fit, preset):
    run = fit(preset(epochs=3, eval_every=2), constant)
    assert [entry["epoch"] for entry in run.history if "score" in entry] == [2, 3]


# What learns


def test_the_optimiser_follows_the_learning_rate_and_its_factors(fit, preset):
    run = fit(preset(epochs=1, optim={"lr": 0.01, "image_lr": 0.1, "head_lr": 2, "text_lr": 0.5}))
    names = {id(p): name for name, p in run.model.clip.named_parameters()}
    factors = {}
    for group in run.optimizer.param_groups:
        assert group["lr"] == pytest.approx(group["peak"] * lr_factor(2, 3, 0.05))
        factors |= {names[id(p)]: group["peak"] / 0.01 for p in group["params"]}
    some = ("visual.trunk.conv1.0.weight", "visual.head.proj.weight", "text.ln_final.bias", "logit_scale")
    assert [factors[name] for name in some] == pytest.approx([0.1, 2, 0.5, 1])
    assert factors.keys() == set(names.values())


def test_a_first_stage_is_a_run_of_its_own_in_which_only_what_is_new_learns(fit, preset, build):
    """The same as a run with all else frozen (but for rounding: frozen texts are encoded one by one)."""
    new = ("visual.head.proj.weight", "logit_scale")
    others = tuple(name for name, _ in build().clip.named_parameters() if name not in new)
    staged = fit(preset(optim={"head_epochs": 2}), constant)
    frozen = fit(preset(freeze=others, freeze_batch_norm=True), constant)
    torch.testing.assert_close(weights(staged), weights(frozen), rtol=1e-5, atol=1e-6)
    before = build().clip.state_dict()
    assert {n for n, w in weights(staged).items() if not torch.equal(w, before[n])} == set(new)
    assert len(staged.optimizer.state) == 2


def test_in_the_second_stage_everything_learns_after_a_warm_up_of_its_own(fit, preset, build):
    run = fit(preset(epochs=3, optim={"head_epochs": 1, "warmup": 0.5}))
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * lr_factor(5, 6, 0.5))
    before, after = build().clip.state_dict(), weights(run)
    names = [name for name, _ in build().clip.named_parameters()]
    assert [n for n in names if torch.equal(before[n], after[n])] == []


def test_a_first_stage_without_anything_new_is_refused(fit, preset, vit):
    with pytest.raises(UserError, match=r"optim.head_epochs is for a model with a new projection"):
        fit(preset(optim={"head_epochs": 1}), model=vit)


def test_adapters_learn_and_checkpoints_hold_plain_weights(fit, preset, vit, catalogue):
    before = {n: w.clone() for n, w in vit.clip.state_dict().items()}
    scores = iter([0.1, 0.2])
    run = fit(preset(lora={"rank": 2}, optim={"lr": 0.01}), lambda model: {"score": next(scores)}, model=vit)
    last, best = (load_checkpoint(run.out / name) for name in ("last", "best"))
    assert last.clip.state_dict().keys() == before.keys()
    moved = {n for n, w in last.clip.state_dict().items() if not torch.equal(w, before[n])}
    kinds = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight", "logit_scale")
    assert moved == {n for n in before if n.endswith(kinds)}
    own = embed_catalogue(run.model, catalogue).vectors
    np.testing.assert_allclose(embed_catalogue(last, catalogue).vectors, own, atol=1e-5)
    assert_equal(best.clip.state_dict(), last.clip.state_dict())


@pytest.mark.parametrize("size", ["hundreds", "thousands", "hundred_thousand", "millions"])
def test_presets_by_size_of_data_train_a_tower_of_fashionclips_kind(fit, preset, vit, size):
    chosen = load_preset(Path(__file__).parents[1] / "experiments" / "presets" / "size" / f"{size}.yaml")
    small = preset(epochs=1)
    run = fit(
        replace(chosen, out=small.out, epochs=1, batch_size=8, track="none", data=small.data), constant, model=vit
    )
    assert (run.step, run.best) == (3, 0.5)


def test_frozen_parameters_stay_and_the_others_learn(fit, preset, build):
    before = build().clip.state_dict()
    after = weights(fit(preset(epochs=1, freeze=("visual.trunk.layer[12].*", "text.token_embedding.*"))))
    names = [n for n, _ in build().clip.named_parameters()]
    stayed = {n for n in names if torch.equal(before[n], after[n])}
    assert stayed == {n for n in names if "layer1" in n or "layer2" in n or "token_embedding" in n}


@pytest.mark.parametrize(
    ("keys", "frozen"),
    [({"freeze_batch_norm": True}, True), ({"lora": {"rank": 2}}, True), ({}, False)],
    ids=["as asked", "with adapters", "not"],
)
def test_statistics_of_batches_stay_with_what_does_not_learn(fit, preset, build, keys, frozen):
    """Also after the first measurement, which puts the model in evaluation mode and back."""
    before = build().clip.state_dict()
    after = weights(fit(preset(**keys), constant))
    statistics = [n for n in before if n.endswith(("running_mean", "running_var"))]
    assert len(statistics) > 10
    assert all(torch.equal(before[n], after[n]) == frozen for n in statistics)
