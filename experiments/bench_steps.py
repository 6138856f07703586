"""Training steps on pictures in memory: ours and open_clip's, of the same model, by turns.

    found = race("timm:mobilenetv2_100", (192, 144), batch_size=64, per_caption=4, steps=5, repeats=5, bf16=False)
    print(found["ratio"])   # our samples per second, over open_clip's

Ours is the loop's own step on the loop's own batches (uint8, each caption once); open_clip's is `train_one_epoch` on
its own (float32, a caption for each picture), with products as PyTorch makes them. Both clip the gradient and get the
same tuned memory allocator.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from experiments.bench_peer import Peer, PeerRecipe, peer_batch
from fclip.captions import Captions
from fclip.config import LossConfig, ModelConfig, OptimConfig, Preset
from fclip.pretrained import build_model
from fclip.training import Run, on_device

if TYPE_CHECKING:
    from fclip.model import Model

Size = tuple[int, int]
WARM_UP = 2  # steps before the clock starts
BATCHES = 2  # different ones, in turn


@dataclass(frozen=True)
class InMemory:
    """What a run asks of its training pictures, when the batches come from elsewhere."""

    bank: list[str]
    frequency: Tensor

    def __len__(self) -> int:
        return len(self.bank)


def race(
    name: str,
    size: Size,
    batch_size: int,
    per_caption: int,
    steps: int,
    repeats: int,
    bf16: bool,
    compiled: bool = False,
) -> dict[str, float]:
    """Samples per second of both, in turns; `ratio` is the median of the turns' own ratios.

    Args:
        name: as model.name in a preset.
        size: height and width in pixels.
        batch_size: pictures.
        per_caption: pictures of a batch that share a caption; 1: all captions are distinct.
        steps: in one turn of each.
        repeats: turns; who goes first alternates.
        bf16: autocast to bfloat16, for both.
        compiled: torch.compile for ours.
    """
    torch.manual_seed(0)
    model = make_model(name, size)
    batches = [make_batch(model, size, batch_size, per_caption) for _ in range(BATCHES)]
    theirs = peer_turn(copy.deepcopy(model), batches, steps, bf16)
    ours = our_turn(model, batches, steps, bf16, compiled)
    seconds = by_turns({"ours": ours, "open_clip": theirs}, repeats)
    rates = {who: batch_size * steps / statistics.median(times) for who, times in seconds.items()}
    return rates | {"ratio": median_ratio(seconds["open_clip"], seconds["ours"])}


def by_turns(runners: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every turn of each; the order is reversed from turn to turn."""
    seconds: dict[str, list[float]] = {who: [] for who in runners}
    for turn in range(repeats):
        for who in list(runners)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            runners[who]()
            seconds[who].append(time.perf_counter() - start)
    return seconds


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median over turns of above / below: what slows a whole turn cancels."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def make_model(name: str, size: Size) -> Model:
    """A model with random weights; a timm tower gets the small text tower and tokenizer of our CPU presets."""
    own = {"tokenizer": "trained", "context_length": 18} if name.startswith("timm:") else {}
    config = ModelConfig(name=name, image_size=size, **own)  # type: ignore[arg-type]
    return build_model(config, Captions("{colour}"), captions(1000))


def captions(number: int) -> list[str]:
    """Distinct sentences of the length of attribute captions."""
    return [f"garment with solid pattern, long sleeve, v-shaped neckline, number {n}" for n in range(number)]


def make_batch(model: Model, size: Size, rows: int, per_caption: int) -> dict[str, Any]:
    """A collated batch of noise."""
    distinct = max(1, rows // per_caption)
    index = torch.arange(rows) % distinct
    pixels = torch.randint(256, (rows, 3, *size), dtype=torch.uint8)
    batch = {"pixels": pixels, "tokens": model.tokenizer(captions(distinct)), "caption_index": index}
    none = torch.empty(rows, 0, dtype=torch.int64)
    batch |= {"caption_ids": index, "bank_index": index, "attributes": none, "stated": none}
    return {key: value.pin_memory() if torch.cuda.is_available() else value for key, value in batch.items()}


def make_run(model: Model, batch_size: int, bf16: bool, compiled: bool = False) -> Run:
    """Our run of a model, ready for steps; convolutional towers are channels-last, as in our presets."""
    preset = Preset(
        batch_size=batch_size,
        track="none",
        channels_last=not torch.cuda.is_available() and is_convolutional(model),
        bf16_on_cpu=bf16,
        bf16_on_gpu=bf16,
        compile=compiled,
        loss=LossConfig(positives="equal"),
        optim=OptimConfig(lr=1e-4),
    )
    return Run(preset, model, InMemory([""], torch.ones(1)), None)  # type: ignore[arg-type]


def is_convolutional(model: Model) -> bool:
    """Whether the image tower is made of convolutions, but for a patch embedding."""
    return sum(isinstance(m, torch.nn.Conv2d) for m in model.clip.visual.modules()) > 1


def our_turn(
    model: Model, batches: list[dict[str, Any]], steps: int, bf16: bool, compiled: bool = False
) -> Callable[[], None]:
    """A function that takes so many of our steps and looks at their loss; it is warm."""
    run = make_run(model, len(batches[0]["pixels"]), bf16, compiled)
    total = 10**6  # the rate stays as good as constant

    def turn(steps: int = steps) -> None:
        taken = [run.take_step(batch, total)["loss"] for batch in on_device(run, in_turn(batches, steps))]
        torch.stack(taken).mean().item()  # a GPU is done only now

    turn(WARM_UP)
    return turn


def peer_turn(model: Model, batches: list[dict[str, Any]], steps: int, bf16: bool) -> Callable[[], None]:
    """A function that takes so many of open_clip's steps; it is warm."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = PeerRecipe(lr=1e-4, clip_norm=1.0, bf16=bf16)
    peer = Peer(model.clip, recipe, steps=10**6, device=device, batch_size=len(batches[0]["pixels"]))
    floats = [peer_batch(model, batch) for batch in batches]
    if device.type == "cuda":
        floats = [(images.pin_memory(), texts.pin_memory()) for images, texts in floats]

    def turn(steps: int = steps) -> None:
        peer.train_epoch([floats[step % len(floats)] for step in range(steps)])  # its log at the end waits for a GPU

    turn(WARM_UP)
    return turn


def in_turn(batches: list[dict[str, Any]], steps: int) -> Iterator[dict[str, Any]]:
    """So many batches, as a loader gives them."""
    for step in range(steps):
        yield batches[step % len(batches)] | {"skipped": []}
