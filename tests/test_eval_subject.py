"""What protocols share: means over queries with intervals, and the line that repeats a measurement."""

from __future__ import annotations

import numpy as np

from eval.metrics.uncertainty import interval, ratio_samples
from eval.subject import command, mean_scores


def test_means_leave_out_what_does_not_count_and_resample_items():
    items = ["a", "a", "b", "c", "c", "d"]
    values = np.array([1, 0, np.nan, 1, 1, 0])
    found = mean_scores({"hit": values, "all": np.arange(6.0)}, items, resamples=200, seed=3)
    assert found["hit"]["value"] == 0.6
    assert found["all"]["value"] == 2.5
    known = np.array([1, 1, 0, 1, 1, 1.0])
    by_hand = ratio_samples(np.nan_to_num(values)[:, None], known[:, None], items, 200, 3)
    low, high = interval(by_hand, 0.95)
    assert (found["hit"]["low"], found["hit"]["high"]) == (round(low[0], 6), round(high[0], 6))
    assert found["hit"]["low"] < 0.6 < found["hit"]["high"]


def test_a_mean_of_nothing_is_null():
    assert mean_scores({"x": np.array([np.nan, np.nan])}, ["a", "b"], 10)["x"]["value"] is None


def test_the_command_repeats_the_measurement():
    options = {"catalogue": ["a b", "c"], "split": "val", "format": None, "again": True, "quiet": False}
    assert command("probe", options) == "python -m eval probe --catalogue 'a b' --catalogue c --split val --again"
