"""The benchmark compares ways that find the same recall."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments import bench_eval
from experiments.bench_eval import SMALL, WAYS, app, by_fclip, by_open_clip, by_surfacing, embeddings, needed_gb, table


def test_ours_and_open_clips_way_find_the_same():
    data = embeddings(60, 30, 16)
    scores = data[0] @ data[1].T
    expected = ((scores > scores[np.arange(60), data[2]][:, None]).sum(1) < 10).mean()
    assert 0.4 < expected < 1
    assert by_fclip(*data) == by_open_clip(*data) == pytest.approx(expected)
    assert by_surfacing(*data) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow  # its import takes seconds
def test_torchmetrics_way_finds_the_same():
    data = embeddings(60, 30, 16)
    assert WAYS["torchmetrics"](*data) == pytest.approx(by_fclip(*data))


def test_a_way_is_measured_in_a_process_of_its_own():
    shown = CliRunner().invoke(
        app, ["--images", "50", "--captions", "20", "--dim", "8", "--rounds", "1", "--ways", "fclip"]
    )
    assert shown.exit_code == 0, shown.output
    assert "| fclip | 0." in shown.output


def test_the_table_has_medians_ratios_and_what_found_no_memory():
    turns = [{"recall": 0.5, "seconds": s, "beyond_mb": 10.0 * s, "peak_mb": 99.0} for s in (1, 2, 9)]
    slow = [{**turn, "seconds": 3 * turn["seconds"]} for turn in turns]
    lines = table({"fclip": turns, "open_clip": slow, "torchmetrics": []}, {"torchmetrics": "out of memory"})
    assert lines[2:] == [
        "| fclip | 0.5000 | 2.00 | 1.0 | 20 | 1.0 | 99 |",
        "| open_clip | 0.5000 | 6.00 | 3.0 | 20 | 1.0 | 99 |",
        "| torchmetrics | out of memory | – | – | – | – | – |",
    ]


def test_a_way_nobody_knows_is_refused():
    shown = CliRunner().invoke(app, ["--ways", "faiss"])
    assert shown.exit_code == 2
    assert "expected ways among fclip, open_clip, torchmetrics, surfacing, got faiss" in shown.output.replace("\n", " ")


def test_memory_is_extrapolated_in_pairs_and_a_way_that_cannot_fit_says_so(monkeypatch):
    def turn(name, sizes, turns, failed, limit_s):
        n, m = int(sizes[1]), int(sizes[3])
        beyond = 50.0 if name == "fclip" else 100 + 20 * n * m / 1e6  # flat; 20 bytes a pair
        turns.append({"recall": 0.5, "seconds": 1.0, "beyond_mb": beyond, "peak_mb": beyond})

    monkeypatch.setattr(bench_eval, "_take_turn", turn)
    assert needed_gb("open_clip", 100_000, 10_000, 512, 9) == pytest.approx(0.1 + 20)
    assert needed_gb("fclip", 100_000, 10_000, 512, 9) == pytest.approx(0.05)
    shown = CliRunner().invoke(app, ["--limit-gb", "8", "--ways", "fclip,open_clip", "--rounds", "1"])
    assert "| fclip | 0.5000 |" in shown.output
    assert "| open_clip | not started: needs about 20 GB, 8 GB are allowed |" in shown.output
    assert SMALL[0] < SMALL[1]


def test_a_turn_that_takes_too_long_says_so():
    failed = {}
    bench_eval._take_turn("fclip", ["--images", "50", "--captions", "20"], [], failed, 0.01)
    assert failed == {"fclip": "more than 0 s"}
