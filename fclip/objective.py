"""A model with its loss: what a training step computes.

    outputs = Contrastive(model, LossConfig(positives="equal"))(batch)
    outputs["loss"].backward()

It is one module because DistributedDataParallel synchronises the forward of the module that it wraps. It has two
halves, towers and loss, because gradient caching (`fclip.caching`) takes the first one part by part.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fclip.config import LossConfig
from fclip.distributed import gather
from fclip.locked import Cut, LockedTexts, cut_image_tower, text_is_locked
from fclip.losses import (
    caption_overlap,
    compatible_captions,
    contrastive_loss,
    equal_captions,
    sigmoid_loss,
    surfacing_loss,
)
from fclip.model import Model


class Contrastive(nn.Module):
    """Two towers and the loss of their embeddings over all processes.

    Args:
        model: the two towers, frozen where they shall stay so: a text tower that does not learn encodes a caption once.
        config: which pairs attract each other.
        bank: token ids (N, L) of the distinct training captions; None without a bank.
        frequency: the share (N,) of training pictures that have each of them.
        remember: whether a text tower that does not learn encodes a caption once in the whole run.
    """

    bank: Tensor  # this and the next are None without a bank
    frequency: Tensor

    def __init__(
        self,
        model: Model,
        config: LossConfig,
        bank: Tensor | None = None,
        frequency: Tensor | None = None,
        remember: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("frequency", frequency, persistent=False)
        self._remember = remember
        self.lock()

    def lock(self, only_new: bool = False) -> None:
        """Finds what stays as it is, throughout or in a stage that teaches `only_new`: its outputs are kept."""
        model = self.model
        locked = self._remember and text_is_locked(model.clip, only_new)
        self._encode_text = LockedTexts(model.encode_text) if locked else model.encode_text
        self.cut: Cut | None = cut_image_tower(model.clip.visual, only_new)

    def forward(self, batch: dict[str, Any], only_embed: bool = False) -> dict[str, Tensor]:
        """A collated batch → as `loss`; a batch with texts, or a part of it, → as `embed` when that is all."""
        if only_embed:
            return self.embed(batch)
        batch = self.with_texts(batch)
        return self.loss(self.embed(batch), batch)

    def with_texts(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with the "texts" (T, L) to encode: its distinct captions and, behind them, the surfacing loss's.

        What is random about a batch besides the towers is drawn here.
        """
        if self.bank is None:
            return batch | {"texts": batch["tokens"]}
        texts, target, inclusion = self._sampled_bank(batch["bank_index"])
        drawn = {"target": target, "inclusion": inclusion}
        return batch | drawn | {"texts": torch.cat([batch["tokens"], texts])}

    def embed(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Pictures and texts → {"image": (B, D), "text": (T, D), "scale", "bias": scalars}, without what has no row.

        Of pictures that come as "features", what a locked tower made of them, only the rest is computed.
        """
        model = self.model
        embedded = {"scale": model.clip.logit_scale.clone()}  # FSDP hangs hooks on what comes out, and may free it
        if self.config.kind == "sigmoid":
            embedded["bias"] = model.clip.logit_bias.clone()
        if "features" not in batch:
            if len(batch["pixels"]):
                embedded["image"] = model.encode_image(model.preprocess.normalise(batch["pixels"]))
        elif len(batch["features"]):
            assert self.cut is not None
            embedded["image"] = F.normalize(self.cut.head(batch["features"]).float(), dim=-1)
        if len(batch["texts"]):
            embedded["text"] = self._encode_text(batch["texts"])
        return embedded

    def loss(self, embedded: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Embeddings → {"loss": with gradient, "cosine": between pictures, for the collapse warning}."""
        image, scale = embedded["image"], embedded["scale"]
        captions, bank, _ = embedded["text"].tensor_split([len(batch["tokens"]), len(batch["texts"])])
        # Not captions[…]: the backward of that adds in any order when there are several threads.
        own = captions.index_select(0, batch["caption_index"])
        images, texts, positives = gather(image), gather(own), self._positives(batch)
        if "bias" in embedded:
            loss = sigmoid_loss(images, texts, scale, embedded["bias"], positives)
        else:
            loss = contrastive_loss(images, texts, scale, positives)
        if self.bank is not None:
            surfacing = surfacing_loss(image, bank, scale, batch["target"], batch["inclusion"])
            loss = loss + self.config.surfacing * surfacing
        with torch.no_grad():
            cosine = image.detach().mean(dim=0).square().sum()
        return {"loss": loss, "cosine": cosine}

    def _positives(self, batch: dict[str, Any]) -> Tensor | None:
        if self.config.positives == "clip":
            return None
        if self.config.positives == "equal":
            return equal_captions(gather(batch["caption_ids"]))
        graded = caption_overlap if self.config.positives == "overlap" else compatible_captions
        return graded(gather(batch["attributes"]), gather(batch["stated"]))

    def _sampled_bank(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The whole bank, or a sample that holds the batch's own captions; where those are; the chance of each."""
        size, wanted = len(self.bank), self.config.negatives
        if size <= wanted:
            return self.bank, own.to(self.bank.device, non_blocking=True), None
        device, own = self.bank.device, own.cpu()  # where it is already: a GPU would be asked how many there are
        rows = torch.unique(torch.cat([own, torch.randperm(size)[:wanted]]))
        target = torch.searchsorted(rows, own).to(device, non_blocking=True)
        rows = rows.to(device, non_blocking=True)
        missed = (1 - self.frequency[rows]) ** len(own) * (1 - wanted / size)
        return self.bank[rows], target, 1 - missed
