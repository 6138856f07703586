"""Studies on a few garments, and what all of them owe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

SMALL = {"model.name": "timm:test_resnet", "model.image_size": "[32,32]", "data.workers": "0"}


def finish(main: Callable[[Sequence[str]], None], out: Path, arguments: Sequence[str], **keys: str) -> list[str]:
    """Runs a study of drawn garments; returns its arguments. Keys of the presets are written with __ for a point."""
    changed = SMALL | {key.replace("__", "."): value for key, value in keys.items()}
    overrides = [word for key, value in changed.items() for word in ("--override", f"{key}={value}")]
    words = ["drawn", *arguments, "--out", str(out), *overrides]
    with pytest.raises(SystemExit, match="0"):
        main(words)
    return words


def assert_measures_nothing_again(
    main: Callable[[Sequence[str]], None], out: Path, words: Sequence[str], measured_by: Sequence[str] = ()
) -> None:
    """A second call with the same arguments neither trains nor measures, and leaves the same table."""
    before = (out / "table.md").read_text()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it trained or measured again")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fclip.training.train", "eval.surfacing.evaluate_surfacing", *measured_by):
            patch.setattr(name, never)
        with pytest.raises(SystemExit, match="0"):
            main(words)
    assert (out / "table.md").read_text() == before
