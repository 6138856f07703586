"""The benchmark compares ways that find the same recall."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments.bench_eval import WAYS, app, by_fclip, by_open_clip, by_surfacing, embeddings, table


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
