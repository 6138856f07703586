"""Simulated studies: the published figures, each test against its own function, and what the command says."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest

from user_study.__main__ import main
from user_study.power import Power, detections, enough, power, simulate_ranks
from user_study.statistics import friedman, nemenyi, wilcoxon_holm

WORTHS = (2.75, 1, 1, 1)


def test_rankings_come_as_often_as_plackett_and_luce_say():
    worths = np.array([3.0, 1, 2])
    ranks = simulate_ranks(worths, 40_000, 1, np.random.default_rng(0))[0]
    for order in permutations(range(3)):
        expected, left = 1.0, worths.sum()
        for system in order:
            expected, left = expected * worths[system] / left, left - worths[system]
        seen = (ranks[:, list(order)] == [1, 2, 3]).all(1).mean()
        assert seen == pytest.approx(expected, abs=4 * np.sqrt(expected / 40_000))


@pytest.mark.parametrize(("people", "whole", "pair"), [(20, 0.68, 0.40), (40, 0.96, 0.78), (60, 1.00, 0.94)])
def test_the_figures_that_the_default_number_of_participants_rests_on(people, whole, pair):
    found = power(WORTHS, people, trials=600, seed=people)
    for seen, expected in ((found.friedman, whole), (found.nemenyi, pair)):
        assert seen == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / 600) + 0.011)
    assert found.critical_difference == pytest.approx(1.05 * np.sqrt(20 / people), abs=0.006)
    np.testing.assert_allclose(found.mean_ranks, [1.8, 2.733, 2.733, 2.733], atol=0.04)


def test_every_simulated_study_is_judged_as_a_real_one_is():
    studies = simulate_ranks((3, 1, 1), 22, 25, np.random.default_rng(1))
    found = detections(studies, (3, 1, 1), 0.05)
    for ranks, (whole, by_means, by_pairs) in zip(studies, found, strict=True):
        ahead = ranks.mean(0)[0] < ranks.mean(0)[1]
        assert whole == (friedman(ranks, False).p < 0.05)
        assert by_means == (ahead and nemenyi(ranks, False)[0, 1] < 0.05)
        assert by_pairs == (ahead and wilcoxon_holm(ranks)[0, 1] <= 0.05)
    assert 0 < found.mean() < 1


def test_a_test_that_points_the_wrong_way_has_not_found_it():
    studies = simulate_ranks((1, 30, 1), 40, 20, np.random.default_rng(2))
    found = detections(studies, (2, 1.5, 1), 0.05)  # asked whether the first beats the second, which is far better
    assert found.all(0).tolist() == [True, False, False]
    assert not found[:, 1:].any()


def test_equal_systems_are_told_apart_as_often_as_the_level_says():
    found = power((1, 1, 1), 30, trials=800, seed=2)
    assert 0.02 < found.friedman < 0.085
    assert found.nemenyi < 0.05


def test_seeded_and_refuses_what_is_no_study():
    assert power(WORTHS, 12, 150, seed=3).nemenyi == power(WORTHS, 12, 150, seed=3).nemenyi
    assert power(WORTHS, 12, 150, seed=3).friedman != power(WORTHS, 12, 150, seed=4).friedman
    for worths, people in (((1,), 9), ((1, 0), 9), ((1, 2), 1), ((1, float("nan")), 9)):
        with pytest.raises(ValueError, match="two worths above 0"):
            power(worths, people)


def test_enough_is_where_power_stays_and_not_where_it_first_is():
    rows = [Power(n, 1, p, 0, 0, np.zeros(2)) for n, p in ((40, 0.95), (10, 0.3), (20, 0.81), (30, 0.79))]
    assert enough(rows, "friedman") == 40
    assert enough(rows, "nemenyi") is None


def test_the_command_tells_draws_and_writes(tmp_path, capsys):
    curve, numbers = tmp_path / "power.png", tmp_path / "power.json"
    main_with(["--participants", "8,30", "--trials", "100", "--figure", str(curve), "--json", str(numbers)])
    said = capsys.readouterr().out
    assert "2.75 : 1 : 1 : 1" in said
    assert "power of 80%, best / second, Nemenyi: more than 30 participants" in said
    assert "every 4 participants; not a multiple: 30" in said
    assert curve.read_bytes().startswith(b"\x89PNG")
    assert [row["participants"] for row in json.loads(numbers.read_text())["power"]] == [8, 30]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--worths", "2,1"], "expected 4 worths, one for each system (--systems), got 2"),
        (["--worths", "2,1,0,1"], "expected numbers of more than 0 in --worths"),
        (
            ["--participants", "20,x"],
            "expected numbers of 2 or more in --participants, with commas between, got '20,x'",
        ),
        (["--participants", "20.5"], "whole numbers"),
        (["--participants", "4", "--trials", "10", "--figure", "curve.nothing"], "cannot draw a 'nothing' picture"),
    ],
)
def test_a_wrong_question_is_one_line(options, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["power", *options])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1


def main_with(options: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["power", *options])
    assert not stopped.value.code
