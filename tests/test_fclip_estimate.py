"""What is said before a run: arithmetic by hand, disk use against a real run, steps that are really taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

import fclip.estimate
from fclip.batches import TrainingPictures
from fclip.errors import UserError
from fclip.estimate import Estimate, Speed, disk_use, estimate, mean_step_seconds, measure_speed, what_learns
from fclip.training import Run, train

EXAMPLE = Estimate(
    pictures=10_000,
    steps=390,
    epochs=10,
    speed=Speed(images_per_second=128, step_seconds=2.0, data_wait=0.25),
    evaluations=5,
    evaluation_seconds=30.0,
    memory_gib=3.21,
    checkpoint_bytes=3 * 2**30,
    disk_bytes=7 * 2**30,
    free_bytes=100 * 2**30,
    towers={"image": (0, 1000), "text": (200, 50), "scale": (1, 0)},
    truncated=0.125,
)


@pytest.fixture
def begin(build, catalogue, captions):
    """begin(preset) → a Run that has not taken a step."""

    def go(preset, model=None) -> Run:
        model = model or build()
        return Run(
            preset, model, TrainingPictures(catalogue, captions, model.preprocess, preset.data, 0, preset.epochs), None
        )

    return go


# Arithmetic


def test_minutes_by_hand():
    assert EXAMPLE.minutes() == (13.0, 2.5)


def test_the_words_by_hand():
    assert EXAMPLE.lines() == [
        "pictures      10,000, 12.5% of their captions truncated",
        "steps         390 in 10 epochs",
        "speed         128 images/s, 2.0 s per step, of which 25% waiting for data",
        "training      13.0 minutes",
        "evaluation    2.5 minutes: 5 times 30.0 s",
        "memory        3.2 GiB at its peak",
        "checkpoint    3.0 GiB to resume from; at most 7.0 GiB on disk, 100.0 GiB free",
        "image tower   0 parameters learn, 1,000 stay",
        "text tower    200 parameters learn, 50 stay",
        "scale         all 1 parameters learn",
    ]


def test_too_little_room_and_a_busy_machine_are_said():
    lines = replace(EXAMPLE, free_bytes=2**30, speed=replace(EXAMPLE.speed, busy=2.5), steps=36_000).lines()
    assert lines[6].endswith("1.0 GiB free: TOO LITTLE; set out=… on another disk")
    assert lines[2].endswith("half of the spans took 2.5 times as long: the machine is busy")
    assert lines[3] == "training      20.0 hours"


def test_growing_pictures_cost_by_their_area():
    """Areas 1, 2, 4 and steps of 1 s at the first, 2.5 s at the last: half a second for each unit of area."""
    assert mean_step_seconds([1, 2, 4], 1.0, 2.5) == pytest.approx((1 + 1.5 + 2.5) / 3)
    assert mean_step_seconds([4, 4], 3.0, 3.0) == 3.0


# A real run


@pytest.mark.parametrize(
    "keys",
    [{}, {"optim": {"ema": 0.9, "wise_ft": 0.5}}, {"freeze": ("visual.trunk.*",)}, {"lora": {"rank": 4}}],
    ids=["plain", "average and start", "frozen", "adapters"],
)
def test_the_disk_use_is_that_of_a_real_run(begin, preset, build, catalogue, captions, keys):
    """The tokenizer, the cards and the curve are what it leaves out."""
    model = build(embed_dim=256, text_width=128)
    settled = preset(epochs=1, **keys)
    last, everything = disk_use(begin(settled, build(embed_dim=256, text_width=128)))
    pictures = TrainingPictures(catalogue, captions, model.preprocess, settled.data, 0, 1)
    out = train(settled, model, pictures, lambda model: {"score": 0.0}).out
    sizes = {n: sum(f.stat().st_size for f in (out / n).iterdir()) for n in ("last", "best")}
    assert last == pytest.approx(sizes["last"], rel=0.1)
    assert everything == pytest.approx(3 * sizes["last"] + sizes["best"], rel=0.1)


def test_what_learns_is_counted_by_tower(begin, preset, model):
    sizes = {n: p.numel() for n, p in model.clip.named_parameters()}
    trunk = sum(size for n, size in sizes.items() if n.startswith("visual.trunk."))
    first = sum(size for n, size in sizes.items() if n.startswith("visual.trunk.layer1."))
    found = what_learns(begin(preset(freeze=("visual.trunk.layer1.*", "logit_scale"))).model.clip)
    assert found["image"] == (trunk - first, first)
    assert found["scale"] == (0, 1)
    assert sum(map(sum, found.values())) == sum(sizes.values())
    assert list(found) == ["image", "head", "text", "scale"]


def test_steps_are_taken_loaded_and_timed(begin, preset, monkeypatch):
    taken = []
    step = Run.take_step
    monkeypatch.setattr(Run, "take_step", lambda run, batch, steps: taken.append(batch) or step(run, batch, steps))
    run = begin(preset())
    speed = measure_speed(run, steps=14)
    assert len(taken) == 14
    assert all(len(batch["pixels"]) == 8 for batch in taken)
    assert speed.images_per_second == pytest.approx(8 / speed.step_seconds)
    assert 0 < speed.data_wait < 1 <= speed.busy
    found = estimate(run, speed, evaluation_seconds=1.0)
    assert (found.pictures, found.steps, found.epochs, found.evaluations) == (24, 6, 2, 2)
    assert found.memory_gib > 0
    assert found.free_bytes > 0
    assert not run.out.exists()


@pytest.mark.parametrize("frozen", ["visual.*", "visual.trunk.*"])
def test_a_locked_tower_is_timed_by_itself_and_steps_without_it(begin, preset, monkeypatch, frozen):
    taken, step = [], Run.take_step
    monkeypatch.setattr(Run, "take_step", lambda run, batch, steps: taken.append(batch) or step(run, batch, steps))
    plain = {"crop": 1, "aspect": 1, "flip": 0, "brightness": 0, "contrast": 0}
    run = begin(preset(freeze=(frozen,), freeze_batch_norm=True, data=plain))
    speed = measure_speed(run, steps=4)
    assert all("pixels" not in batch and len(batch["features"]) == 8 for batch in taken)
    assert speed.encoding_seconds > 0
    kept = run.seen(False)._features.values  # what a real run leaves
    assert speed.features_bytes == kept.nbytes
    found = estimate(run, speed, evaluation_seconds=1.0)
    assert found.disk_bytes == disk_use(run)[1] + kept.nbytes
    assert found.lines()[3].startswith("encoding      0.0 minutes: the locked image tower, once for every picture")


def test_a_tower_whose_pictures_vary_is_in_every_step(begin, preset):
    speed = measure_speed(begin(preset(freeze=("visual.*",), freeze_batch_norm=True, data={"flip": 0.5})), steps=2)
    assert (speed.encoding_seconds, speed.features_bytes) == (0, 0)


def test_slow_steps_end_at_the_limit(begin, preset, monkeypatch):
    """A clock that runs 40 s a step: the first sets up, the second is past the limit of a minute."""
    taken, step = [], Run.take_step
    now = iter(range(10_000))

    class Slow(fclip.estimate.Pace):
        def __init__(self, images_per_step: int) -> None:
            super().__init__(images_per_step, lambda: 10.0 * next(now))

    monkeypatch.setattr(fclip.estimate, "Pace", Slow)
    monkeypatch.setattr(Run, "take_step", lambda run, batch, steps: taken.append(1) or step(run, batch, steps))
    measure_speed(begin(preset()), steps=30)
    assert len(taken) < 4


def test_both_sizes_of_growing_pictures_are_timed(begin, preset, monkeypatch):
    sizes, step = [], Run.take_step
    monkeypatch.setattr(
        Run, "take_step", lambda run, batch, steps: sizes.append(batch["pixels"].shape[-1]) or step(run, batch, steps)
    )
    measure_speed(begin(preset(epochs=3, data={"first_size": 0.5})), steps=5)
    assert sizes == [16] * 5 + [32] * 5


def test_too_few_pictures_are_refused(begin, preset):
    with pytest.raises(UserError, match="expected at least 25 captioned pictures"):
        measure_speed(begin(preset(batch_size=25)))
