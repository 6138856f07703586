"""The training loop: it learns, it is reproducible, it survives a kill, and it refuses what cannot work."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

import fclip.training
from fclip.batches import TrainingPictures
from fclip.checkpoint import load_checkpoint, write_checksums
from fclip.config import load_preset
from fclip.embedding import embed_catalogue, embed_texts
from fclip.errors import UserError
from fclip.files import read_json
from fclip.model import MAX_LOGIT_SCALE
from fclip.optimisation import lr_factor
from fclip.pace import KEYS, Pace
from fclip.training import Run, measurements_since_best, read_history, train

AUGMENTED = {"crop": 0.7, "aspect": 1.2, "flip": 0.5, "brightness": 0.1, "contrast": 0.1}

EVERYTHING = {
    "save_every": 2,
    "lora": {"rank": 2, "dropout": 0.3},
    "freeze": ("text.transformer.resblocks.0.attn.*", "logit_scale"),
    "optim": {"head_epochs": 1.5, "ema": 0.9, "wise_ft": 0.5, "layer_decay": 0.5},
}
"""All that changes what learns and what is kept, at once."""


@pytest.fixture
def fit(build, catalogue, captions):
    """fit(preset, evaluate=…, resume=…, on=catalogue, model=…) → the finished Run of a fresh model."""

    def go(preset, evaluate=None, resume=None, on: Dataset = catalogue, model=None) -> Run:
        model = model or build(drop_path=preset.model.drop_path)
        pictures = TrainingPictures(on, captions, model.preprocess, preset.data, preset.seed, preset.epochs)
        return train(preset, model, pictures, evaluate, resume)

    return go


def constant(model) -> dict[str, float]:
    return {"score": 0.5}


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.model.clip.state_dict().items()}


def curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """A history without the clock."""
    return [{k: v for k, v in entry.items() if k not in ("minutes", *KEYS)} for entry in history]


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


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


class KilledError(Exception):
    pass


@pytest.fixture
def kill_at(monkeypatch):
    """kill_at(n): the next run dies when it starts its step n; kill_at(None): runs live again."""
    take_step = Run.take_step

    def arm(step: int | None) -> None:
        def wrapped(run, batch, steps):
            if run.step == step:
                raise KilledError
            return take_step(run, batch, steps)

        monkeypatch.setattr(Run, "take_step", wrapped)

    return arm


@pytest.mark.parametrize(
    ("keys", "dies", "resumes"),
    [
        ({}, 3, 3),  # right after the save at the end of an epoch
        ({}, 5, 3),  # in the middle of an epoch: two steps are done again
        ({"save_every": 2}, 5, 4),
        ({"save_every": 1, "optim": {"ema": 0.9}}, 4, 4),
        ({"save_every": 2, "model": {"drop_path": 0.5}}, 5, 4),
        ({"save_every": 2, "loss": {"surfacing": 1.0, "negatives": 3}}, 7, 6),  # draws captions each step
        ({"freeze_batch_norm": True, "freeze": ("visual.trunk.conv1.*",)}, 5, 3),
        ({"channels_last": True}, 5, 3),
        ({"save_every": 2, "cache_chunk": 3, "model": {"drop_path": 0.5}}, 5, 4),
        ({"save_every": 2, "freeze": ("text.*",)}, 5, 4),  # it meets captions in other batches than before
        ({"save_every": 1, "optim": {"head_epochs": 1.5}}, 2, 2),  # four steps of the first stage
        ({"save_every": 2, "optim": {"head_epochs": 1.5, "layer_decay": 0.5}}, 5, 4),
        ({"save_every": 2, "optim": {"wise_ft": 0.3, "ema": 0.9}}, 5, 4),
        ({"save_every": 2, "lora": {"rank": 2, "dropout": 0.3}}, 5, 4),
        (EVERYTHING, 2, 2),
        (EVERYTHING, 8, 8),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(fit, preset, kill_at, keys, dies, resumes):
    whole, broken = (preset(epochs=3, data=AUGMENTED, out=preset().out + end, **keys) for end in ("", "-killed"))
    scores = {3: 0.3, 6: 0.9, 9: 0.6}

    def evaluate(model) -> dict[str, float]:
        return {"score": scores[round(lives[-1].step)]}

    lives = []
    kept = Run.__init__

    def remember(run, *args):
        kept(run, *args)
        lives.append(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "__init__", remember)
        uninterrupted = fit(whole, evaluate)
        kill_at(dies)
        with pytest.raises(KilledError):
            fit(broken, evaluate)
        kill_at(None)
        last = Path(broken.out) / "last"
        assert read_json(last / "metrics.json", "")["step"] == resumes
        torch.rand(5)  # whatever happens in the process between the two lives
        resumed = fit(broken, evaluate, resume=last)
    assert_equal(weights(uninterrupted), weights(resumed))
    assert curve(uninterrupted.history) == curve(resumed.history) == curve(read_history(broken.out))
    assert uninterrupted.best == resumed.best == 0.9
    assert_equal(*(load_checkpoint(Path(p.out) / "best").clip.state_dict() for p in (whole, broken)))
    if uninterrupted.average is not None:
        assert_equal(uninterrupted.average.state_dict(), resumed.average.state_dict())


def test_a_resumed_run_remembers_the_unreadable_pictures(fit, preset, catalogue, broken, kill_at):
    damaged = broken(catalogue, [5])
    kill_at(4)
    with pytest.raises(KilledError):
        fit(preset(epochs=2), on=damaged)
    kill_at(None)
    run = fit(preset(epochs=2), on=damaged, resume=Path(preset().out) / "last")
    assert [line.split(":")[0] for line in run.skipped] == [catalogue["id"][5]]


def test_the_checkpoint_before_the_last_is_kept_and_offered_when_the_last_is_damaged(fit, preset):
    """Whichever file is damaged; resumed from the one before, the run ends the same."""
    run = fit(preset(epochs=3), constant)
    last, previous = run.out / "last", run.out / "previous"
    assert read_json(previous / "metrics.json", "")["step"] == 6
    for name in sorted(path.name for path in last.iterdir()):
        sound = (last / name).read_bytes()
        (last / name).write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(UserError, match=rf"last/.* is damaged: .*; the checkpoint before .* --resume {previous}$"):
            fit(preset(epochs=3), resume=last)
        if name != "state.pt":
            (last / name).write_bytes(sound)
    resumed = fit(preset(epochs=3), constant, resume=previous)
    assert_equal(weights(run), weights(resumed))
    assert read_json(previous / "metrics.json", "")["step"] == 6  # not the damaged one
    fit(preset(epochs=3), constant, resume=last)


def test_another_number_of_processes_is_refused(fit, preset):
    run = fit(preset(epochs=1))
    state = torch.load(run.out / "last" / "state.pt", weights_only=True)
    torch.save(state | {"random": state["random"] * 2}, run.out / "last" / "state.pt")
    write_checksums(run.out / "last")
    with pytest.raises(UserError, match=r"had 2 processes, this one has 1; launch as many as before"):
        fit(preset(epochs=1), resume=run.out / "last")


@pytest.mark.parametrize("best", [True, False])
def test_a_run_that_continues_elsewhere_has_a_best_there(fit, preset, tmp_path, kill_at, best):
    kill_at(4)
    with pytest.raises(KilledError):
        fit(preset(epochs=2), lambda model: {"score": 0.9})
    kill_at(None)
    if not best:
        shutil.rmtree(Path(preset().out) / "best")
    elsewhere = preset(epochs=2, out=str(tmp_path / "other"))
    fit(elsewhere, lambda model: {"score": 0.1}, resume=Path(preset().out) / "last")
    assert read_json(tmp_path / "other" / "best" / "metrics.json", "") == (
        {"step": 3, "score": 0.9} if best else {"step": 6, "score": 0.1}
    )


def test_another_preset_cannot_be_resumed_and_the_key_is_named(fit, preset):
    run = fit(preset(epochs=1))
    with pytest.raises(UserError, match=r"had another preset: lr: 0\.5 \(was lr: 0\.001\); resume it unchanged"):
        fit(preset(epochs=1, optim={"lr": 0.5}), resume=run.out / "last")
    with pytest.raises(UserError, match=r"epochs: 2.0 \(was epochs: 1.0\)"):
        fit(preset(epochs=2), resume=run.out / "last")


def test_where_and_how_often_it_saves_may_change(fit, preset, tmp_path):
    run = fit(preset(epochs=1))
    resumed = fit(preset(epochs=1, out=str(tmp_path / "other"), save_every=7), resume=run.out / "last")
    assert resumed.step == 3


def test_only_a_training_checkpoint_can_be_resumed(fit, preset, tmp_path):
    with pytest.raises(UserError, match=r"expected a training checkpoint \(OUT/last\), found no state.pt"):
        fit(preset(), resume=tmp_path)


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


@pytest.mark.parametrize(("start", "end"), [(9.0, MAX_LOGIT_SCALE), (-3.0, 0.0)])
def test_the_temperature_stays_in_clips_range(fit, preset, build, start, end):
    model = build()
    model.clip.logit_scale.data.fill_(start)
    fit(preset(epochs=1, optim={"lr": 1e-9}), model=model)
    assert model.clip.logit_scale.item() == pytest.approx(end, abs=1e-6)


# What is kept


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


@pytest.mark.parametrize("dies", [4, 8, 10])
def test_patience_survives_a_kill(fit, preset, kill_at, dies):
    """Killed before and after the best measurement; measured as often as without the kill."""
    settled = preset(epochs=6, patience=2)

    def evaluate(model) -> dict[str, float]:
        return {"score": SCORES[measured[-1].step // 3 - 1]}

    measured = []
    kept = Run.measure

    def remember(run):
        measured.append(run)
        return kept(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "measure", remember)
        kill_at(dies)
        with pytest.raises(KilledError):
            fit(settled, evaluate)
        kill_at(None)
        run = fit(settled, evaluate, resume=Path(settled.out) / "last")
    assert (run.step, run.best) == (12, 0.5)
    assert [entry["score"] for entry in run.history if "score" in entry] == list(SCORES[:4])


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
