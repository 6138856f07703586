"""What all protocols are told alike: where the result goes, what stands beside, how sure, how many pictures at once.

    result = run_probe("runs/plain", "data/catalogue", "test", Settings(out="probe.json", untuned="fashionclip"))

`eval.options.with_settings` makes command-line options of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How something is measured; a protocol says which of these it does not know."""

    out: str | Path | None = None  # the JSON file; None writes nothing
    baselines: bool = True  # measure what needs no model too: chance, the most frequent, …
    untuned: str | None = None  # a model to stand beside, as `fclip.pretrained.open_model` knows it
    catalogue_format: str | None = None  # of the catalogues; recognised when None
    bootstrap: int = 1000  # resamples of the products for the intervals; 0: none
    seed: int = 0  # of the resamples, and of what a protocol draws besides
    batch_size: int = 64  # pictures embedded at once
    progress: bool = False  # show progress bars

    @property
    def target(self) -> Path | None:
        """Where the JSON goes.

        Raises:
            UserError: nothing can be written there; told before anything is measured.
        """
        from fclip.files import writable

        return None if self.out is None else writable(self.out)

    @property
    def resampling(self) -> tuple[int, int]:
        """How many resamples, and their seed."""
        return self.bootstrap, self.seed

    @property
    def embedding(self) -> dict[str, Any]:
        """For `eval.subject.embed_images`."""
        return {"batch_size": self.batch_size, "progress": self.progress}

    @property
    def options(self) -> dict[str, Any]:
        """The command-line options that say the same, but for the JSON file."""
        return {
            "untuned": self.untuned,
            "bootstrap": self.bootstrap,
            "seed": self.seed,
            "batch-size": self.batch_size,
            "no-baselines": not self.baselines,
            "format": self.catalogue_format,
        }


DEFAULTS = Settings()
"""What holds where nothing is said."""
