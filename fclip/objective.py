"""A model with its loss: what a training step computes.

    outputs = Contrastive(model, LossConfig(positives="equal"))(batch)
    outputs["loss"].backward()

It is one module because DistributedDataParallel synchronises the forward of the module that it wraps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fclip.config import LossConfig
from fclip.distributed import gather
from fclip.losses import compatible_captions, contrastive_loss, equal_captions, surfacing_loss
from fclip.model import Model


class Contrastive(nn.Module):
    """Two towers and the loss of their embeddings over all processes.

    Args:
        model: the two towers.
        config: which pairs attract each other.
        bank: token ids (N, L) of the distinct training captions; None without a bank.
        frequency: the share (N,) of training pictures that have each of them.
    """

    bank: Tensor  # this and the next are None without a bank
    frequency: Tensor

    def __init__(
        self, model: Model, config: LossConfig, bank: Tensor | None = None, frequency: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("frequency", frequency, persistent=False)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """A collated batch → {"loss": with gradient, "cosine": between pictures, for the collapse warning}."""
        model = self.model
        pixels = model.preprocess.normalise(batch["pixels"])
        image = model.encode_image(pixels)
        scale = model.clip.logit_scale
        every_image, every_text = gather(image), gather(model.encode_text(batch["tokens"]))
        loss = contrastive_loss(every_image, every_text, scale, self._positives(batch))
        if self.bank is not None:
            texts, target, inclusion = self._sampled_bank(batch["bank_index"])
            surfacing = surfacing_loss(image, model.encode_text(texts), scale, target, inclusion)
            loss = loss + self.config.surfacing * surfacing
        with torch.no_grad():
            cosine = image.detach().mean(dim=0).square().sum()
        return {"loss": loss, "cosine": cosine}

    def _positives(self, batch: dict[str, Any]) -> Tensor | None:
        if self.config.positives == "clip":
            return None
        if self.config.positives == "equal":
            return equal_captions(gather(batch["caption_ids"]))
        return compatible_captions(gather(batch["attributes"]), gather(batch["stated"]))

    def _sampled_bank(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The whole bank, or a sample that holds the batch's own captions; where those are; the chance of each."""
        size, wanted = len(self.bank), self.config.negatives
        if size <= wanted:
            return self.bank, own, None
        others = torch.randperm(size, device="cpu")[:wanted].to(own.device)
        rows = torch.unique(torch.cat([own, others]))
        missed = (1 - self.frequency[rows]) ** len(own) * (1 - wanted / size)
        return self.bank[rows], torch.searchsorted(rows, own), 1 - missed
