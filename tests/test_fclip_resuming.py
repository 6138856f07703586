"""A killed run continues as if nothing had been: from what was saved, checked, in any place, bit for bit."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from conftest import AUGMENTED, EVERYTHING, assert_equal, constant, curve, weights

import fclip.resuming
from fclip.checkpoint import damaged_file, load_checkpoint, write_checksums
from fclip.errors import UserError
from fclip.files import new_folder, read_json
from fclip.training import Run, read_history

SCORES = (0.1, 0.5, 0.4, 0.5)
"""Of the epochs: with a patience of 2 the run ends after the last one."""


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
        ({"save_every": 2, "cache_chunk": 3, "data": AUGMENTED | {"augment_on": "device"}}, 5, 4),
        (EVERYTHING, 2, 2),
        (EVERYTHING, 8, 8),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(fit, preset, kill_at, keys, dies, resumes):
    whole, broken = (preset(epochs=3, out=preset().out + end, **{"data": AUGMENTED} | keys) for end in ("", "-killed"))
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


@contextmanager
def full_device(folder: Path, file: str) -> Iterator[None]:
    """A file that is a device without room, of the test's own (as /dev/full is)."""
    try:
        os.mknod(folder / file, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    except OSError:
        pytest.skip("only root can make a device")
    yield


@contextmanager
def full_disk(folder: Path, file: str) -> Iterator[None]:
    """A disk of a page in place of a folder: the weights are written beside, where no device can wait for them."""
    mounted = shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder])
    if not mounted or mounted.returncode:
        pytest.skip("only root can mount a disk")
    try:
        yield
        assert not (folder / file).exists()
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(
    ("file", "without_room"),
    [("state.pt", full_device), ("preset.yaml", full_device), ("model.safetensors", full_disk)],
    ids=["state.pt", "preset.yaml", "model.safetensors"],
)
def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(fit, preset, monkeypatch, file, without_room):
    """There is really no room for the second checkpoint."""
    saved, make = [], new_folder

    @contextmanager
    def on_a_full_disk(*args, **kwargs):
        with make(*args, **kwargs) as folder, without_room(folder, file) if saved else nullcontext():
            saved.append(folder)
            yield folder

    monkeypatch.setattr(fclip.resuming, "new_folder", on_a_full_disk)
    with pytest.raises(UserError, match=r"^cannot write .*last: the disk is full; .* what was there before is untouch"):
        fit(preset(epochs=2), constant)
    last = Path(preset().out) / "last"
    assert damaged_file(last) is None
    assert read_json(last / "metrics.json", "")["step"] == 3
    assert sorted(path.name for path in last.parent.iterdir()) == ["best", "history.json", "last"]


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
    run = fit(preset(epochs=1))
    with pytest.raises(UserError, match=f"found no state.pt in {run.out}; did you mean {run.out / 'last'}\\?"):
        fit(preset(), resume=run.out)


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
    assert [entry["score"] for entry in run.history if "score" in entry] == list(SCORES)
