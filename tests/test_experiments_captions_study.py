"""The study of losses and captions: the same pictures for all, and one table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from studies import assert_measures_nothing_again, finish

from eval.compare import answers_of
from eval.metrics.uncertainty import paired_interval
from eval.surfacing import evaluate_surfacing
from experiments.captions_study import LOSSES, epochs_for, main
from experiments.study_report import mean_difference, mean_score
from fclip.config import LossConfig
from fclip.files import read_json


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two losses, on a few garments."""
    out = tmp_path_factory.mktemp("study") / "it"
    arguments = ["--losses", "clip,equal", "--seeds", "3", "--pictures", "9"]
    return out, finish(main, out, arguments, data__catalogue="[drawn:24]", batch_size="8")


def test_it_leaves_tables_numbers_and_a_picture(finished):
    out, _ = finished
    table = (out / "table.md").read_text()
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    losses = ["Variant", "clip", "equal"]
    assert rows == losses * 3
    assert np.asarray(Image.open(out / "scores.png").convert("L")).std() > 5
    assert len(list((out / "results").glob("*.json"))) == 4
    found = read_json(out / "results.json", "numbers")
    assert found["settings"]["epochs"] == 1
    assert found["scores"]["whole"]["clip"]["text_sfa"]["difference"] is None
    assert len(found["scores"]["subsets"]["equal"]["attribute_sfa"]["seeds"]) == 1


def test_the_runs_differ_in_what_they_study_alone(finished):
    out, _ = finished
    names = ("whole-clip-3", "whole-equal-3", "subsets-clip-3")
    plain, *others = (set((out / name / "last" / "preset.yaml").read_text().splitlines()) for name in names)
    changed = [{line.split(":")[0].strip() for line in other - plain} for other in others]
    assert changed == [{"out", "positives"}, {"out", "drop"}]
    assert "seed: 3" in plain


def test_a_second_call_measures_nothing_again(finished):
    assert_measures_nothing_again(main, *finished, [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--losses", "clip,eqal"], "--losses: no 'eqal'; did you mean 'equal'?"),
        (["--captions", "all"], "--captions: no 'all'; known: subsets, whole"),
        (["--seeds", "1,x"], "expected --seeds as numbers with commas, e.g. 0,1,2, got '1,x'"),
        (["--pictures", "9000"], "was trained for another time; remove it, or choose another --out"),
    ],
)
def test_a_mistake_is_one_line(finished, capsys, words, said):
    _, arguments = finished
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, *words])
    assert said in " ".join(capsys.readouterr().err.split())


def test_epochs_are_whole_and_at_least_one():
    assert [epochs_for(pictures, 100) for pictures in (1, 149, 151, 1000)] == [1, 1, 2, 10]


def test_means_and_differences_over_seeds_are_those_of_the_bootstrap(build, catalogue):
    results = []
    for seed in range(4):
        model = build()
        torch.manual_seed(seed)
        for parameter in model.clip.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        results.append(evaluate_surfacing(model, catalogue))
    ours, theirs = results[:2], results[2:]
    right = [np.mean([np.array(r["pictures"]["rank"]) == 1 for r in results], axis=0) for results in (ours, theirs)]
    items, ones = answers_of(ours[0]).items, np.ones((len(right[0]), 1))
    low, high = paired_interval(right[0][:, None], right[1][:, None], ones, items)
    found = mean_difference(ours, theirs, "text_sfa")
    expected = (right[0].mean() - right[1].mean(), low[0], high[0])
    assert (found["value"], found["low"], found["high"]) == pytest.approx(expected, abs=1e-6)
    assert found["low"] < found["high"]
    assert mean_score(ours, "text_sfa")["value"] == pytest.approx(right[0].mean(), abs=1e-6)
    alone = ours[0]["metrics"]["text_sfa"]
    assert mean_score(ours[:1], "text_sfa") == pytest.approx(alone)


def test_every_loss_of_the_objective_is_studied():
    from typing import get_args, get_type_hints

    known = set(get_args(get_type_hints(LossConfig)["positives"]))
    assert {option.partition("=")[2] for options in LOSSES.values() for option in options[:1]} == known
