"""The study of the spatial transformer: equal time, the same posed pictures for all, pictures of what it looks at."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from studies import assert_measures_nothing_again, finish

from eval.compare import answers_of
from eval.metrics.uncertainty import paired_interval
from experiments import stn_study, study
from experiments.stn_study import adapting, fix_costs, main, pose_catalogue, read_presets, variants_of
from experiments.stn_study_report import look
from experiments.study import with_options
from experiments.study_report import difference_cell, draw_scores
from fclip.config import DataConfig, StnConfig
from fclip.errors import UserError
from fclip.files import read_json, write_json
from fclip.images import decode
from fclip.variants import with_stn


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two variants, on a few garments and for a blink."""
    out = tmp_path_factory.mktemp("study") / "it"
    keys = {"data__catalogue": "[drawn:60]", "batch_size": "16"}
    keys |= {"model__stn__look_size": "[64,64]", "model__stn__look_at": "32"}
    return out, finish(main, out, ["--variants", "plain,stn", "--minutes", "0.001"], **keys)


def test_it_leaves_tables_pictures_and_results(finished):
    out, _ = finished
    table = (out / "table.md").read_text()
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows == ["Variant", "plain", "stn"] * 5
    assert "(a) trained and tested as they are" in table
    assert "scale=[0.35,1.0] data.shift=1.0 data.turn_deg=30.0" in table
    for picture in ("scores.png", "looks.png"):
        assert np.asarray(Image.open(out / picture).convert("L")).std() > 5
    assert len(list((out / "results").glob("*.json"))) == 10


def test_a_second_call_measures_nothing_again(finished):
    assert_measures_nothing_again(main, *finished)


def test_another_time_in_the_same_folder_is_refused(finished, capsys):
    out, arguments = finished
    speeds = read_json(out / "speeds.json", "speeds")
    assert set(speeds) == {"plain", "stn"}
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--minutes", "9"])
    assert "was trained for another time; remove it, or choose another --out" in capsys.readouterr().err


def test_slower_variants_get_fewer_epochs(tmp_path):
    presets = read_presets("catalogue", ["plain", "stn"], tmp_path, [])
    seconds = {"plain": 10.0, "stn": 25.0}
    write_json(
        tmp_path / "speeds.json", {k: {"images_per_second": 1, "seconds_per_epoch": s} for k, s in seconds.items()}
    )
    assert {name: p.epochs for name, p in fix_costs(presets, 2, tmp_path).items()} == {"plain": 12, "stn": 4.8}


def test_speeds_are_kept_in_a_folder_that_was_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(
        stn_study, "measure_speed", lambda preset: {"images_per_second": 9.0, "seconds_per_epoch": 30.0}
    )
    presets = read_presets("catalogue", ["plain"], tmp_path / "new", [])
    assert fix_costs(presets, 1, tmp_path / "new")["plain"].epochs == 2
    assert read_json(tmp_path / "new" / "speeds.json", "speeds")["plain"]["images_per_second"] == 9


def test_an_unknown_variant_names_the_known_ones(tmp_path):
    with pytest.raises(
        UserError, match=r"no study preset drawn_stm; did you mean 'drawn_stn'\? known: catalogue_plain"
    ):
        read_presets("drawn", ["stm"], tmp_path, [])


def test_posed_pictures_are_the_same_for_all_and_keep_their_labels(catalogue, broken):
    pictures = broken(catalogue.select(range(6)), [2])
    data = DataConfig(scale=(0.4, 1), shift=1.0, turn_deg=30)
    first, second = pose_catalogue(pictures, data), pose_catalogue(pictures, data)
    assert first["image"][:] == second["image"][:]
    assert first["image"][2] == pictures["image"][2]  # the one that cannot be read
    assert [first[name][:] for name in ("id", "item", "attributes")] == [
        pictures[name][:] for name in ("id", "item", "attributes")
    ]
    assert decode(first["image"][0]).size == decode(pictures["image"][0]).size
    assert first["image"][0] != pictures["image"][0]


def test_the_difference_is_the_paired_bootstrap_of_eval(finished):
    out, _ = finished
    ours, theirs = (read_json(out / "results" / f"c-{name}.json", "a result") for name in ("stn", "plain"))
    shown = difference_cell([ours], [theirs], "text_sfa").text
    right = [np.array(result["pictures"]["rank"]) == 1 for result in (ours, theirs)]
    ones = np.ones((len(right[0]), 1))
    low, high = paired_interval(right[0][:, None], right[1][:, None], ones, answers_of(ours).items)
    assert shown == f"{right[0].mean() - right[1].mean():.3f} [{low[0]:.3f}–{high[0]:.3f}]"


def test_an_untrained_transformer_looks_at_the_whole_picture(build, catalogue):
    model = with_stn(build(), StnConfig(transform="similarity", look_at=32))
    inputs, outlines, outputs = look(model, catalogue.select(range(2)))
    corners = [[-0.5, -0.5], [31.5, -0.5], [31.5, 31.5], [-0.5, 31.5]]
    assert np.allclose(outlines[0][:4], corners, atol=0.51)  # the outermost pixels' centres
    assert np.allclose(outputs[1] * 255, inputs[1], atol=0.1)


def test_every_study_preset_says_what_it_studies():
    assert {f.stem for f in study.HERE.glob("*.yaml")} == {
        f"{data}_{variant}" for data in ("drawn", "catalogue") for variant in stn_study.VARIANTS
    }


def test_what_is_adapted_goes_on_from_the_first_variant_and_gives_a_transformer_half_of_the_time(tmp_path):
    presets = read_presets("catalogue", ["plain", "swin", "stn"], tmp_path, ["epochs=5"])
    assert variants_of(presets, "posed") == ["plain", "swin", "stn"]
    assert variants_of(presets, "adapted") == ["plain", "stn"]
    plain, stn = (with_options(presets[name], adapting(presets[name], tmp_path / "last")) for name in ("plain", "stn"))
    assert plain.model.name == stn.model.name == str(tmp_path / "last")
    assert (plain.optim.head_epochs, stn.optim.head_epochs) == (0, 2.5)
    assert plain.model.image_weights is None


def test_a_condition_without_all_variants_is_drawn(finished, tmp_path):
    result = read_json(finished[0] / "results" / "a-stn.json", "a result")
    draw_scores(
        tmp_path / "all.png", {"a": {"plain": [result], "stn": [result]}, "d": {"plain": [result], "stn": [result]}}
    )
    draw_scores(tmp_path / "it.png", {"a": {"plain": [result], "stn": [result]}, "d": {"stn": [result]}})
    whole, missing = (np.asarray(Image.open(tmp_path / name)) for name in ("all.png", "it.png"))
    assert 0 < (whole != missing).any(-1).sum() < whole[..., 0].size / 2  # a bar of each panel
