"""open_clip's own trainer, to be held against ours: its transforms, optimiser, loss and `train_one_epoch` as they are.

    peer = Peer(model.clip, PeerRecipe(lr=5e-4), steps=100, device=torch.device("cpu"), batch_size=64)
    peer.train_epoch(batches)   # of (normalised pictures (B, 3, H, W), tokens (B, L))

Only what its `main.py` would have made from the command line is made here. https://github.com/mlfoundations/open_clip
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fclip.machine import products_as_pytorch_has_them

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.batches import TrainingPictures
    from fclip.model import Model

NOT_DECAYED = ("bn", "ln", "bias", "logit_scale")  # parts of names in open_clip's main.py


@dataclass(frozen=True)
class PeerRecipe:
    """open_clip's flags, with its defaults where a short run allows them."""

    lr: float = 5e-4  # its default
    weight_decay: float = 0.2  # its default
    betas: tuple[float, float] = (0.9, 0.98)  # its default for a ViT
    eps: float = 1e-6  # its default for a ViT
    warmup: float = 0.05  # share of all steps (its default, 10,000 steps, is more than a whole run here)
    clip_norm: float | None = None  # its default
    bf16: bool = False  # --precision amp_bf16, else fp32


class Peer:
    """A model with open_clip's optimiser, schedule and loss.

    Args:
        clip: open_clip's model; it is trained in place.
        recipe: the flags.
        steps: of the whole run, for the cosine.
        device: where it trains.
        batch_size: of every batch.
    """

    def __init__(self, clip: Any, recipe: PeerRecipe, steps: int, device: torch.device, batch_size: int) -> None:
        from open_clip import ClipLoss
        from open_clip_train.scheduler import cosine_lr

        self.clip = clip.to(device)
        self.clip.output_dict = True
        self._optimizer = torch.optim.AdamW(
            peer_groups(clip, recipe.weight_decay), lr=recipe.lr, betas=recipe.betas, eps=recipe.eps
        )
        warmup = max(1, round(recipe.warmup * steps))
        self._schedule = cosine_lr(self._optimizer, recipe.lr, warmup, max(steps, warmup + 1))
        self._loss = ClipLoss(cache_labels=True)
        self._args = _arguments(recipe, device, batch_size)
        self._epoch = 0

    def train_epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """One call of `train_one_epoch`, over all these batches."""
        from open_clip_train.train import train_one_epoch

        data = {"train": SimpleNamespace(dataloader=_Counted(batches, self._args.batch_size), set_epoch=_nothing)}
        with products_as_pytorch_has_them():
            train_one_epoch(
                self.clip, data, self._loss, self._epoch, self._optimizer, None, self._schedule, None, self._args
            )
        self._epoch += 1


def peer_groups(clip: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's two groups as in open_clip's main.py."""

    def exempt(name: str, parameter: Tensor) -> bool:
        return parameter.ndim < 2 or any(part in name for part in NOT_DECAYED)

    learn = [(name, p) for name, p in clip.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in learn if exempt(name, p)], "weight_decay": 0.0},
        {"params": [p for name, p in learn if not exempt(name, p)], "weight_decay": weight_decay},
    ]


def _arguments(recipe: PeerRecipe, device: torch.device, batch_size: int) -> SimpleNamespace:
    """What `train_one_epoch` reads of the command line."""
    return SimpleNamespace(
        device=str(device),
        precision="amp_bf16" if recipe.bf16 else "fp32",
        accum_freq=1,
        batch_size=batch_size,
        distill=False,
        distributed=False,
        grad_clip_norm=recipe.clip_norm,
        horovod=False,
        local_rank=0,
        log_every_n_steps=100,
        log_local=False,
        rank=0,
        skip_scheduler=False,
        wandb=False,
        world_size=1,
    )


class _Counted:
    """Batches with the two numbers that open_clip's loop asks for."""

    def __init__(self, batches: Any, batch_size: int) -> None:
        assert isinstance(batches, Sized)
        self._batches: Any = batches
        self.num_batches = len(batches)
        self.num_samples = self.num_batches * batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self._batches)


def _nothing(epoch: int) -> None:
    """In place of telling a sampler the epoch: ours shuffles by itself."""


class PeerPictures(torch.utils.data.Dataset):
    """Pictures and captions as open_clip's `CsvDataset` gives them: PIL, its training transform, one token row each.

    Args:
        catalogue: the training split.
        pictures: ours of the same split, for the rows that have a caption, and the captions.
        model: for the input size, the normalisation and the tokenizer.
    """

    def __init__(self, catalogue: Dataset, pictures: TrainingPictures, model: Model) -> None:
        self._images = catalogue.select_columns(["image"])
        self._rows, self._texts, self._tokenizer = pictures.rows, pictures.texts, model.tokenizer
        self._transform = peer_transform(model)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from fclip.images import decode

        picture = decode(self._images[self._rows[index]]["image"])
        return self._transform(picture), self._tokenizer([self._texts[index]])[0]


def peer_transform(model: Model) -> Callable[[Any], Tensor]:
    """open_clip's standard training transform for a model's input."""
    from open_clip.transform import image_transform

    p = model.preprocess
    return image_transform(p.size, is_train=True, mean=p.mean, std=p.std, interpolation=p.interpolation)


def peer_loader(pictures: PeerPictures, batch_size: int, workers: int) -> Any:
    """As open_clip's `get_csv_dataset` loads them: shuffled, pinned, the last odd rows dropped."""
    return torch.utils.data.DataLoader(
        pictures,
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )


def peer_batch(model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Our batch as open_clip's loader would have given it: normalised pictures, one row of tokens for each."""
    return model.preprocess.normalise(batch["pixels"]), batch["tokens"][batch["caption_index"]]
