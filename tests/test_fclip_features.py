"""A locked image tower: each picture is encoded once, and a run learns what it would have learned without that."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fclip.features
from fclip.batches import TrainingPictures
from fclip.config import StnConfig
from fclip.errors import UserError
from fclip.files import read_json
from fclip.objective import Contrastive
from fclip.training import Run, train
from fclip.variants import with_stn

TRUNK, ALL = ("visual.trunk.*",), ("visual.*",)
STILL = {"freeze_batch_norm": True}
PICTURES = 24


class Counted:
    """How many pictures a module has seen."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.pictures = 0
        module.register_forward_pre_hook(self)

    def __call__(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.pictures += len(inputs[0])


@pytest.fixture
def fit(build, catalogue, captions):
    """fit(preset, resume=…, model=…, on=…) → a finished run, and how many pictures its image tower saw."""

    def go(preset, resume=None, model=None, on=catalogue) -> tuple[Run, int]:
        model = model or build()
        tower = getattr(model.clip.visual, "tower", model.clip.visual)
        counted = Counted(getattr(tower, "trunk", tower))
        pictures = TrainingPictures(on, captions, model.preprocess, preset.data, preset.seed, preset.epochs)
        return train(preset, model, pictures, None, resume), counted.pictures

    return go


@pytest.fixture
def unlocked(monkeypatch):
    """unlocked(): from now on nothing is kept, as in a trainer that knows of no locked towers."""

    def forget(self, only_new=False):
        self._locked_texts = self.cut = None

    return lambda: monkeypatch.setattr(Contrastive, "lock", forget)


@pytest.fixture
def double(monkeypatch):
    """Float64 also where float32 is asked for."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def learned(run: Run) -> dict[str, torch.Tensor]:
    average = {} if run.average is None else {f"ema.{k}": v for k, v in run.average.state_dict().items()}
    return {k: v.clone() for k, v in (run.model.clip.state_dict() | average).items()}


def losses(run: Run) -> list[float]:
    return [entry["loss"] for entry in run.history if "loss" in entry]


def stored(run: Run) -> Path:
    (folder,) = (run.out / "features").iterdir()
    return folder


RUNS = {
    "all but the projection": ({"freeze": TRUNK}, PICTURES, 3 * PICTURES),
    "all": ({"freeze": ALL}, PICTURES, 3 * PICTURES),
    "in parts": ({"freeze": TRUNK, "cache_chunk": 3}, PICTURES, 6 * PICTURES),
    "all, in parts": ({"freeze": ALL, "cache_chunk": 3}, PICTURES, 6 * PICTURES),
    "in a first stage": ({"optim": {"head_epochs": 1.34, "ema": 0.5}}, PICTURES + 5 * 8, 3 * PICTURES),
    "all at once": (
        {"freeze": TRUNK, "optim": {"head_epochs": 1, "ema": 0.5, "wise_ft": 0.5}, "loss": {"surfacing": 1.0}},
        PICTURES,
        3 * PICTURES,
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_learns_what_it_would_have_learned(double, fit, preset, build, unlocked, name):
    keys, passes, plain_passes = RUNS[name]
    keys = {"epochs": 3, **STILL, **keys}
    cached, seen = fit(preset(**keys), model=build().double())
    unlocked()
    plain, seen_plain = fit(preset(out=preset().out + "-plain", **keys), model=build().double())
    torch.testing.assert_close(learned(cached), learned(plain), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(losses(cached), losses(plain), rtol=1e-12, atol=1e-12)
    assert (seen, seen_plain) == (passes + 1, plain_passes)  # one blank more tells the shape
    assert np.load(stored(cached) / "features.npy").dtype == np.float64
    assert not (plain.out / "features").exists()


def test_a_tower_of_open_clips_own_learns_its_projection(double, fit, preset, vit, unlocked):
    twin, start = copy.deepcopy(vit).double(), vit.clip.visual.proj.detach().double()
    keys = {"freeze": ("visual.[!p]*", "visual.positional_embedding", "token_*"), "optim": {"lr": 1e-2}, "epochs": 1}
    cached, _ = fit(preset(**keys), model=vit.double())
    unlocked()
    plain, _ = fit(preset(out=preset().out + "-plain", **keys), model=twin)
    torch.testing.assert_close(learned(cached), learned(plain), rtol=1e-9, atol=1e-11)
    assert not torch.equal(cached.model.clip.visual.proj, start)
    assert stored(cached)


def test_a_frozen_transformer_belongs_to_what_is_kept(double, fit, preset, build, unlocked):
    def model():
        return with_stn(build(), StnConfig(transform="similarity", look_at=32)).double()

    keys = {"freeze": ("visual.stn.*", "visual.tower.trunk.*"), **STILL}
    cached, seen = fit(preset(**keys), model=model())
    unlocked()
    plain, _ = fit(preset(out=preset().out + "-plain", **keys), model=model())
    torch.testing.assert_close(learned(cached), learned(plain), rtol=1e-9, atol=1e-11)
    assert seen == PICTURES + 1


@pytest.mark.parametrize(
    "data", [{"flip": 0.5}, {"crop": 0.9}, {"contrast": 0.1}, {"turn_deg": 5.0}, {"first_size": 0.5}, {"aspect": 1.1}]
)
def test_pictures_that_vary_are_encoded_anew(fit, preset, capsys, data):
    run, seen = fit(preset(freeze=TRUNK, data=data, **STILL))
    assert seen == 2 * PICTURES
    assert not (run.out / "features").exists()
    assert "encodes every picture anew in every epoch: its pictures vary" in capsys.readouterr().out


def test_batch_norms_that_learn_and_layers_that_drop_keep_it_from_being_locked(fit, preset, build, capsys):
    assert fit(preset(freeze=TRUNK))[1] == 2 * PICTURES
    assert "set freeze_batch_norm=true" in capsys.readouterr().out
    dropping = build(name="timm:test_vit", drop_path=0.5)
    assert fit(preset(out=preset().out + "-drop", freeze=TRUNK, **STILL), model=dropping)[1] == 2 * PICTURES
    assert "it drops at random" in capsys.readouterr().out


def test_a_killed_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(fit, preset, monkeypatch):
    keys = {"epochs": 3, "freeze": TRUNK, "save_every": 2, "optim": {"head_epochs": 1.5}, **STILL}
    whole, _ = fit(preset(**keys))
    killed = preset(out=preset().out + "-killed", **keys)
    take_step = Run.take_step

    def dying(run, batch, steps):
        if run.step == 3:
            raise KeyboardInterrupt
        return take_step(run, batch, steps)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "take_step", dying)
        with pytest.raises(KeyboardInterrupt):
            fit(killed)
    shutil.rmtree(Path(killed.out) / "features")  # computed again, bit for bit
    resumed, seen = fit(killed, resume=Path(killed.out) / "last")
    assert seen == PICTURES + 1
    assert all(torch.equal(a, b) for a, b in zip(learned(resumed).values(), learned(whole).values(), strict=True))


def test_runs_that_share_a_folder_share_features_and_draw_the_same_random_numbers(fit, preset, tmp_path):
    keys = {"freeze": TRUNK, "features": str(tmp_path / "kept"), "loss": {"surfacing": 1.0, "negatives": 3}, **STILL}
    first, seen = fit(preset(**keys))
    again, seen_again = fit(preset(out=preset().out + "-2", **keys))
    assert (seen, seen_again) == (PICTURES + 1, 0)
    assert losses(first) == losses(again)
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert not (again.out / "features").exists()


def test_other_weights_or_pictures_have_other_features(fit, preset, build, catalogue, tmp_path):
    keys = {"freeze": TRUNK, "features": str(tmp_path / "kept"), "epochs": 1, **STILL}
    fit(preset(**keys))
    shaken, new_head, columns = build(), build(), catalogue.to_dict()
    with torch.no_grad():
        next(shaken.clip.visual.trunk.parameters()).add_(1e-3)
        new_head.clip.visual.head.proj.weight.add_(1)
    assert fit(preset(out=preset().out + "-2", **keys), model=shaken)[1] == PICTURES + 1
    columns["image"][0], columns["image"][2] = columns["image"][2], columns["image"][0]
    swapped = type(catalogue).from_dict(columns, features=catalogue.features)
    assert fit(preset(out=preset().out + "-3", **keys), on=swapped)[1] == PICTURES + 1
    assert fit(preset(out=preset().out + "-4", **keys), model=new_head)[1] == 0  # that is above the cut
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_unreadable_pictures_are_replaced_and_named_as_ever(fit, preset, catalogue, broken, unlocked, monkeypatch):
    monkeypatch.setattr(fclip.features, "PART", 5)
    bad = [4, 5, 6, 7, 8, 9, 17]  # among them a whole part
    on = broken(catalogue, bad)
    run, seen = fit(preset(freeze=TRUNK, **STILL), on=on)
    assert seen == PICTURES - len(bad) + 1
    unlocked()
    plain, _ = fit(preset(out=preset().out + "-plain", freeze=TRUNK, **STILL), on=on)
    assert sorted(run.skipped) == sorted(plain.skipped)
    assert len(run.skipped) == len(bad)
    torch.testing.assert_close(losses(run), losses(plain), rtol=1e-5, atol=1e-5)
    values = np.load(stored(run) / "features.npy")
    assert values.dtype == np.float32
    assert (np.abs(values).sum(axis=1) == 0).nonzero()[0].tolist() == bad
    assert [int(row) for row in read_json(stored(run) / "unreadable.json", "it")] == bad


def test_a_large_file_is_mapped_and_a_damaged_one_is_named(fit, preset, monkeypatch):
    run, _ = fit(preset(freeze=TRUNK, epochs=1, **STILL))
    whole = fclip.features.read_features(stored(run)).values
    monkeypatch.setattr(fclip.features, "IN_MEMORY", 100)
    mapped = fclip.features.read_features(stored(run)).values
    assert isinstance(mapped, np.memmap)
    assert not isinstance(whole, np.memmap)
    assert np.array_equal(mapped, whole)
    file = stored(run) / "features.npy"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"cannot read the features in .*; remove the folder"):
        fclip.features.read_features(stored(run))


def test_a_full_disk_is_told_and_leaves_nothing(fit, preset, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fclip.features, "_write_header", full)
    with pytest.raises(UserError, match="the disk is full; free some space; nothing was written"):
        fit(preset(freeze=TRUNK, **STILL))
    assert list((Path(preset().out) / "features").iterdir()) == []
