from __future__ import annotations

import io
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
from user_study.systems import (
    SIDE_PX,
    DiffusionSystem,
    FolderSystem,
    IndexSystem,
    as_shown,
    filter_values,
    open_systems,
)

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
