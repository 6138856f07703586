"""What it saves to compute a locked tower's outputs once: processor time of an epoch, kept outputs against none.

race_locked(("visual.*",), items=200, out=Path("runs/locked"))   # {"once": s, "epoch": s, "unkept": s, "ratio": …}
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from fclip.objective import Contrastive

PRESET = Path(__file__).parent / "presets" / "study" / "drawn_plain.yaml"
PLAIN = ("data.crop=1", "data.aspect=1", "data.flip=0", "data.brightness=0", "data.contrast=0", "captions.drop=0")
EPOCHS = 2


def race_locked(freeze: Sequence[str], items: int, out: Path) -> dict[str, float]:
    """Seconds that the tower takes once for all pictures, of an epoch after it, and of one that keeps nothing."""
    once, kept = _epoch(freeze, items, out / "kept")
    with patch.object(Contrastive, "lock", _keep_nothing):
        _, unkept = _epoch(freeze, items, out / "unkept")
    return {"once": once, "epoch": kept, "unkept": unkept, "ratio": unkept / kept}


def _keep_nothing(contrastive: Contrastive, only_new: bool = False) -> None:
    contrastive._locked_texts = contrastive.cut = None


def _epoch(freeze: Sequence[str], items: int, out: Path) -> tuple[float, float]:
    """Processor seconds before the first step, and of an epoch, loading included."""
    from experiments.train import prepare
    from fclip.config import load_preset
    from fclip.training import Run, batches_of_stages, checked_order, on_device

    keys = [f"out={out}", f"freeze=[{','.join(freeze)}]", f"data.catalogue=[drawn:{items}]", f"epochs={EPOCHS}"]
    keys += [
        *PLAIN,
        "captions.paraphrases=[]",
        "data.workers=0",
        "freeze_batch_norm=true",
        "track=none",
        "bf16_on_cpu=false",
    ]
    prepared = prepare(load_preset(PRESET, keys))
    run = Run(prepared.preset, prepared.model, prepared.pictures, None)
    order, start = checked_order(run), time.process_time()
    batches = on_device(run, batches_of_stages(run, order))
    begun = time.process_time()
    for batch in batches:
        run.take_step(batch, order.steps)
    return begun - start, (time.process_time() - begun) / EPOCHS
