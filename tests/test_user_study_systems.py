from __future__ import annotations

import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from serving import jpeg, make_recommender
from study_stores import make_study

from fclip.errors import UserError
from fclip.generations import Generation, keep
from user_study.config import System
from user_study.jobs import Wish
from user_study.rehearsal import PaintingSystem
from user_study.store import new_token, open_store
from user_study.systems import (
    SIDE_PX,
    DiffusionSystem,
    FolderSystem,
    IndexSystem,
    as_shown,
    filter_values,
    open_systems,
)
from user_study.worker import Worker

WISH = Wish("a red dress", (jpeg("red"),), {"colour": "red"}, "p1", "0001", 0, None)


def ignore(_: float) -> None:
    pass


@pytest.mark.parametrize("size", [(40, 400), (900, 30), (256, 256), (3, 3)])
def test_pictures_of_every_shape_are_shown_at_one_size_without_distortion(size):
    shown = Image.open(io.BytesIO(as_shown(Image.new("RGB", size, "red"))))
    assert (shown.format, shown.size, shown.mode) == ("JPEG", (SIDE_PX, SIDE_PX), "RGB")
    red = np.asarray(shown)[..., 1] < 128
    scale = SIDE_PX / max(size)
    assert abs(red.any(0).sum() - size[0] * scale) <= 2
    assert abs(red.any(1).sum() - size[1] * scale) <= 2


def test_an_index_answers_with_its_filters():
    index = IndexSystem(make_recommender())
    found = index.recommend(WISH, 3, ignore)
    assert len(found) == 3
    assert {int(one.item.split()[1]) % 3 for one in found} == {0}  # the red ones
    assert {Image.open(io.BytesIO(one.picture)).size for one in found} == {(SIDE_PX, SIDE_PX)}
    assert set(index.values("colour")) == {"red", "green", "blue"}


def test_filters_are_what_every_index_knows():
    study = replace(make_study(), filters=("colour",))
    systems = {"a": IndexSystem(make_recommender()), "b": IndexSystem(make_recommender())}
    assert filter_values(study, systems) == {"colour": ["blue", "green", "red"]}
    with pytest.raises(UserError, match="filters need a system of kind index"):
        filter_values(study, {})


def test_a_filter_that_an_index_lacks_is_said_to_be_one(monkeypatch):
    def lacking(self, group):
        raise UserError(f"no attribute group {group!r} in the index")

    monkeypatch.setattr(IndexSystem, "values", lacking)
    with pytest.raises(UserError, match="filters: no attribute group 'color' in the index"):
        filter_values(replace(make_study(), filters=("color",)), {"a": IndexSystem(make_recommender())})


def test_a_system_that_cannot_be_opened_is_named(tmp_path):
    systems = tuple(System(name, "index", str(tmp_path / "nowhere")) for name in ("ours", "theirs"))
    study = replace(make_study(), systems=systems)
    with pytest.raises(UserError, match=r"system 'ours': .*nowhere"):
        open_systems(study)


def test_a_folder_shows_the_pictures_of_the_participant_of_the_query(tmp_path):
    for name in ("0001", "0001-1", "a warm coat"):
        for index in range(3):
            made = Generation(f"{name[-4:].strip()}-{index}.png", name, index, "red", "", 7, "sd", 1.0)
            keep(tmp_path, made, Image.new("RGB", (64, 64), "red"))
    folder = FolderSystem(tmp_path, ["a warm coat"])
    assert [one.item for one in folder.recommend(WISH, 2, ignore)] == ["0001-0.png", "0001-1.png"]
    assert folder.recommend(replace(WISH, number=1), 1, ignore)[0].item == "01-1-0.png"
    assert folder.recommend(replace(WISH, calibration=0), 1, ignore)[0].item == "coat-0.png"
    with pytest.raises(UserError, match="no pictures for 0002 or p1"):
        folder.recommend(replace(WISH, external="0002"), 1, ignore)


def test_a_folder_that_is_not_there_is_said_at_the_start(tmp_path):
    study = replace(make_study(), systems=(System("a", "folder", str(tmp_path)), System("b", "folder", "nowhere")))
    with pytest.raises(UserError, match="system 'b': expected a folder of pictures"):
        open_systems(study)


@pytest.mark.slow
def test_a_pipeline_paints_and_tells_how_far_it_is(tiny_sd, monkeypatch):
    monkeypatch.setattr("user_study.systems.STEPS", 2)
    told, system = [], DiffusionSystem(str(tiny_sd))
    first = system.recommend(WISH, 2, told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]
    assert first[0].picture != first[1].picture
    assert system.recommend(WISH, 2, ignore) == first
    assert system.recommend(replace(WISH, participant="p2"), 2, ignore) != first


@pytest.mark.slow
def test_a_pipeline_draws_on_from_each_photograph_in_turn_as_far_as_its_strength_says(tiny_sd, monkeypatch):
    monkeypatch.setattr("user_study.systems.STEPS", 10)
    wish = replace(WISH, photographs=(jpeg("red", (40, 64)), jpeg("blue")))
    told, system = [], DiffusionSystem(str(tiny_sd), strength=0.2)
    begun = []
    paint = system.from_photograph.__class__.__call__
    monkeypatch.setattr(
        system.from_photograph.__class__, "__call__", lambda self, **given: begun.append(given) or paint(self, **given)
    )
    near = system.recommend(wish, 3, told.append)
    assert told == pytest.approx([i / 6 for i in range(1, 7)])  # two steps of ten for each of three
    assert [one["image"].getpixel((16, 16))[0] > 200 for one in begun] == [True, False, True]
    assert {one["image"].size for one in begun} == {(32, 32)}
    assert begun[0]["image"].getpixel((1, 16)) == (255, 255, 255)  # whole, beside it white
    assert near == system.recommend(wish, 3, ignore)
    assert near != DiffusionSystem(str(tiny_sd), strength=0.9).recommend(wish, 3, ignore)
    words = replace(wish, photographs=())
    assert system.recommend(words, 1, ignore) == DiffusionSystem(str(tiny_sd)).recommend(words, 1, ignore)
    assert DiffusionSystem(str(tiny_sd)).recommend(wish, 1, ignore) == system.recommend(words, 1, ignore)


@pytest.mark.slow
def test_a_participants_photographs_reach_a_diffusion_system_through_the_worker(tiny_sd, tmp_path, monkeypatch):
    monkeypatch.setattr("user_study.systems.STEPS", 10)
    begun, canvas = [], DiffusionSystem._canvas
    monkeypatch.setattr(DiffusionSystem, "_canvas", lambda self, data: begun.append(data) or canvas(self, data))
    painting = System("sd", "diffusion", str(tiny_sd), generated=True, strength=0.5)
    study = replace(make_study(), systems=(make_study().systems[0], painting))
    for name, photographs in (("words", []), ("photographs", [jpeg("red")])):
        store = open_store(f"sqlite:///{tmp_path}/{name}.db", study)
        worker = Worker(store, {"system-0": PaintingSystem(0), "sd": DiffusionSystem(str(tiny_sd), 0, 0.5)})
        who = store.claim(new_token())
        store.ask(who, 0, "a red dress", None, photographs)
        worker.start()
        while store.step(who).kind == "waiting":
            time.sleep(0.05)
        worker.stop()
        [answer] = [one for one in store.step(who).query.answers if one.system == "sd"]
        assert (answer.state, answer.why, len(answer.pictures)) == ("ready", None, 2)
        assert begun == 2 * photographs
        store.engine.dispose()


def test_the_strength_of_a_study_is_the_systems():
    two = (System("a", "diffusion", "x/y", strength=0.6), System("b", "diffusion", "x/z"))
    study = replace(make_study(), systems=two)
    assert [system.strength for system in open_systems(study).values()] == [0.6, None]
    with pytest.raises(ValueError, match="strength is of systems of kind diffusion"):
        System("a", "index", "nowhere", strength=0.6)
