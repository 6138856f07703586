"""Drawn garments: what is drawn is what is said, and every picture is a pure function of its seed."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fclip.catalogue.drawn import (
    GROUPS,
    OPTIONAL,
    Drawing,
    applies,
    complete,
    draw_catalogue,
    draw_garment,
    sample_attributes,
)
from fclip.catalogue.fabrics import PLAIN
from fclip.catalogue.schema import features, split_of
from fclip.errors import UserError
from fclip.images import decode

SEEDS = st.integers(0, 2**32)


def drawn(seed: int = 0, size_px: int = 96, pose: float = 0.0, **attributes: str | None) -> Drawing:
    return draw_garment(attributes, np.random.default_rng(seed), size_px, pose)


def pixels(drawing: Drawing) -> np.ndarray:
    return np.asarray(drawing.image, dtype=float)


def marks(drawing: Drawing) -> np.ndarray:
    """Landmarks as complex numbers, x + iy."""
    return np.array([complex(x, y) for _, x, y, _ in drawing.landmarks])


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_picture_is_a_function_of_its_seed(seed):
    attributes = sample_attributes(np.random.default_rng(seed))
    one, two = (drawn(seed, pose=1.0, **attributes) for _ in range(2))
    assert np.array_equal(pixels(one), pixels(two))
    assert (one.bbox, one.landmarks) == (two.bbox, two.landmarks)
    assert not np.array_equal(pixels(one), pixels(drawn(seed + 1, pose=1.0, **attributes)))


@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_box_is_tight_on_what_stands_out_of_a_plain_background(seed):
    drawing = drawn(seed, **sample_attributes(np.random.default_rng(seed)))
    ys, xs = np.nonzero(np.abs(pixels(drawing) - PLAIN).max(axis=2) > 20)
    assert np.allclose(drawing.bbox, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), atol=1)


@given(seed=SEEDS, pose=st.floats(0, 2))
@settings(max_examples=25, deadline=None)
def test_visible_landmarks_lie_on_the_garment(seed, pose):
    drawing = drawn(seed, pose=pose, **sample_attributes(np.random.default_rng(seed)))
    x1, y1, x2, y2 = drawing.bbox
    for name, x, y, visible in drawing.landmarks:
        assert visible == (0 <= x < 96 and 0 <= y < 96)
        assert not visible or (x1 - 2 <= x <= x2 + 2 and y1 - 2 <= y <= y2 + 2), name


@pytest.mark.parametrize(
    ("category", "parts"),
    [("shirt", "collar sleeve hem"), ("skirt", "waistline hem"), ("dress", "collar sleeve waistline hem")],
)
def test_landmarks_are_deepfashions(category, parts):
    expected = [f"{side} {part}" for part in parts.split() for side in ("left", "right")]
    drawing = drawn(category=category)
    assert [name for name, *_ in drawing.landmarks] == expected
    x = {name: x for name, x, *_ in drawing.landmarks}
    for part in parts.split():
        assert x[f"left {part}"] + x[f"right {part}"] == pytest.approx(96), "upright and centred"
        assert x[f"left {part}"] < x[f"right {part}"]


@given(seed=SEEDS, pose=st.floats(0.1, 3))
@settings(max_examples=25, deadline=None)
def test_landmarks_move_as_the_pose_does(seed, pose):
    """Without sleeves, a posed garment is a rotated, scaled and shifted upright one: z' = a z + b."""
    upright, posed = (marks(drawn(seed, pose=p, category="trousers")) for p in (0.0, pose))
    a, b = np.linalg.lstsq(np.stack([upright, np.ones(4)], axis=1), posed, rcond=None)[0]
    assert np.allclose(a * upright + b, posed, atol=1e-3)
    assert abs(a - 1) + abs(a + b) > 1e-4
    assert abs(a) <= 1


def test_picture_turns_with_its_landmarks():
    """The blue of a turned pair of trousers is where the upright one's is, carried along by the landmarks."""
    attributes = {"category": "trousers", "colour": "blue"}
    for seed in range(4):
        upright, posed = (drawn(seed, pose=p, **attributes) for p in (0.0, 1.5))
        a, b = np.linalg.lstsq(np.stack([marks(upright), np.ones(4)], axis=1), marks(posed), rcond=None)[0]
        y, x = np.nonzero(blue(upright))
        z = a * (x + 0.5 + 1j * (y + 0.5)) + b
        column, row = np.floor(z.real).astype(int), np.floor(z.imag).astype(int)
        inside = (column >= 0) & (column < 96) & (row >= 0) & (row < 96)
        assert blue(posed)[row[inside], column[inside]].mean() > 0.9


def blue(drawing: Drawing) -> np.ndarray:
    red, green, blue = np.moveaxis(pixels(drawing), 2, 0)
    return blue - np.maximum(red, green) > 35


def test_strong_poses_leave_the_picture_and_say_so():
    drawings = [drawn(seed, pose=6.0, category="dress", length="maxi") for seed in range(20)]
    assert not all(visible for d in drawings for *_, visible in d.landmarks)
    assert all(0 <= d.bbox[0] < d.bbox[2] <= 96 and 0 <= d.bbox[1] < d.bbox[3] <= 96 for d in drawings)


@pytest.mark.parametrize("group", GROUPS)
def test_each_value_changes_the_picture(group):
    base = {"colour": "blue"} if group == "category" else {"category": "dress", "colour": "blue", "length": "midi"}
    drawings = {value: pixels(drawn(3, **base | {group: value})) for value in GROUPS[group]}
    for one, two in combinations(drawings, 2):
        changed = np.abs(drawings[one] - drawings[two]).max(axis=2) > 30
        assert changed.mean() > 0.008, f"{one} looks like {two}"


def test_colours_are_recognised_by_the_nearest_of_their_names():
    from fclip.catalogue.fabrics import COLOURS

    for name in GROUPS["colour"]:
        drawing = drawn(5, category="skirt", length="midi", colour=name)
        middle = np.median(pixels(drawing)[40:60, 40:56].reshape(-1, 3), axis=0)
        assert min(COLOURS, key=lambda other: np.linalg.norm(np.subtract(COLOURS[other], middle))) == name


def test_samples_are_valid_and_every_value_is_common():
    rng = np.random.default_rng(0)
    samples = [sample_attributes(rng) for _ in range(2000)]
    for sample in samples:
        assert complete(sample) == sample
        assert all((sample[group] is not None) == applies(group, str(sample["category"])) for group in GROUPS)
    for group, values in GROUPS.items():
        counts = Counter(sample[group] for sample in samples)
        assert min(counts[value] for value in values) > 60, group
    denim = Counter(s["category"] for s in samples if s["fabric"] == "denim")
    assert denim["trousers"] + denim["shorts"] + denim["jacket"] + denim["skirt"] > 0.6 * denim.total()


def test_values_read_well_in_a_sentence():
    assert all("sleeve" in value for value in GROUPS["sleeve"])
    assert all(group not in value for group, values in GROUPS.items() if group != "sleeve" for value in values)


@pytest.fixture(scope="module")
def catalogue():
    return draw_catalogue(items=12, views=3, size_px=48, seed=4)


def test_catalogue_has_the_one_shape(catalogue):
    assert catalogue.features == features(GROUPS, optional=OPTIONAL)
    assert catalogue[0]["id"] == "drawn-000000-front"
    assert catalogue["view"][:3] == ["front", "styled", "styled2"]
    assert len(set(catalogue["id"])) == len(catalogue) == 36
    assert catalogue["split"] == [split_of(item) for item in catalogue["item"]]
    assert catalogue["category"] == [attributes["category"] for attributes in catalogue["attributes"]]
    assert all(decode(cell).size == (48, 48) for cell in catalogue["image"])
    assert catalogue.cache_files == [], "nothing is written"


def test_views_share_a_product(catalogue):
    by_item: dict[str, list] = {}
    for row in catalogue:
        by_item.setdefault(row["item"], []).append(row)
    for rows in by_item.values():
        assert all(row["attributes"] == rows[0]["attributes"] for row in rows)
        assert len({row["image"]["bytes"] for row in rows}) == 3
    assert len({str(rows[0]["attributes"]) for rows in by_item.values()}) > 10


def test_views_share_shade_and_print():
    """Without pose and light, only folds and a leather's gloss differ between views."""
    still = [np.asarray(decode(cell), dtype=float) for cell in draw_catalogue(8, 2, 64, pose=0.0)["image"]]
    within = [np.abs(front - styled).mean() for front, styled in zip(still[::2], still[1::2], strict=True)]
    between = [np.abs(one - two).mean() for one, two in zip(still[:-2:2], still[2::2], strict=True)]
    assert max(within) < 0.7 * min(between)


def test_catalogue_is_deterministic_and_grows_at_its_end(catalogue):
    assert draw_catalogue(5, 3, 48, seed=4).to_list() == catalogue.select(range(15)).to_list()
    fewer_views = draw_catalogue(5, 1, 48, seed=4).to_list()
    assert fewer_views == [row for row in catalogue.select(range(15)).to_list() if row["view"] == "front"]
    assert draw_catalogue(5, 3, 48, seed=5)["image"] != catalogue["image"][:15]


def test_progress_bar_only_when_asked(capsys):
    draw_catalogue(1, 1, 32)
    assert capsys.readouterr().err == ""
    draw_catalogue(1, 1, 32, progress=True)
    assert "drawing garments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"category": "dres"}, "did you mean 'dress'"),
        ({"category": "dress", "colour": "mauve"}, "no colour 'mauve'"),
        ({"category": "dress", "color": "red"}, "did you mean 'colour'"),
        ({"category": "skirt", "sleeve": "long sleeve"}, "skirt has no sleeve"),
        ({"colour": "red"}, "expected a category"),
    ],
)
def test_wrong_attributes_are_named(attributes, message):
    with pytest.raises(UserError, match=message):
        drawn(**attributes)


@pytest.mark.parametrize(
    "options", [{"items": 0}, {"views": 0}, {"seed": -1}, {"size_px": 31}, {"pose": -0.1}, {"pose": float("nan")}]
)
def test_wrong_sizes_are_refused(options):
    with pytest.raises(UserError, match=r"expected .* got"):
        draw_catalogue(**{"items": 1} | options)
