"""A model with its loss: what a training step computes.

    contrastive = Contrastive(model, LossConfig(positives="equal"))
    outputs = contrastive(contrastive.with_texts(batch))
    outputs["loss"].backward()

It is one module because DistributedDataParallel synchronises the forward of the module that it wraps. It has two
halves, towers and loss, because gradient caching (`fclip.caching`) takes the first one part by part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fclip.batches import caption_id
from fclip.config import LossConfig
from fclip.distributed import gather, gather_on_host, rank
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
from fclip.text_shares import Share, share_texts

EXCHANGED = ("caption_ids", "bank_index", "attributes", "stated")
"""Of a batch, what every process must know of every other's."""
ON_HOST = (*EXCHANGED, "caption_index", "tokens")
"""Of a batch, what only the choice of texts needs: it stays in the processor's memory."""


class Contrastive(nn.Module):
    """Two towers and the loss of their embeddings over all processes.

    Args:
        model: the two towers, frozen where they shall stay so: a text tower that does not learn encodes a caption once.
        config: which pairs attract each other.
        bank: the distinct training captions (N), for the surfacing loss.
        frequency: the share (N,) of training pictures that have each of them.
        remember: whether a text tower that does not learn encodes a caption once in the whole run.
    """

    def __init__(
        self,
        model: Model,
        config: LossConfig,
        bank: Sequence[str] = (),
        frequency: Tensor | None = None,
        remember: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.bank: Bank | None = None
        if config.surfacing:
            assert frequency is not None
            self.bank = Bank(model.tokenizer(bank), np.array([caption_id(text) for text in bank]), frequency)
        self._remember = remember
        self.lock()

    def lock(self, only_new: bool = False) -> None:
        """Finds what stays as it is, throughout or in a stage that teaches `only_new`: its outputs are kept."""
        model = self.model
        locked = self._remember and text_is_locked(model.clip, only_new)
        self._locked_texts = LockedTexts(model) if locked else None
        self.cut: Cut | None = cut_image_tower(model.clip.visual, only_new)

    def forward(self, batch: dict[str, Any], only_embed: bool = False) -> dict[str, Tensor]:
        """What `with_texts` gave → as `loss`; a part of it → as `embed` when that is all."""
        embedded = self.embed(batch)
        return embedded if only_embed else self.loss(embedded, batch)

    def with_texts(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A collated batch with the "texts" (T, L) that this process encodes, and where each caption is among all.

        Captions and the surfacing loss's bank are of all processes together, and each distinct text is encoded by one.
        The processes must call it at the same time. What is random about a batch besides the towers is drawn here, and
        is the same for every process: it depends on the captions alone.
        """
        met = gather_on_host(torch.cat([batch[name].reshape(len(batch[name]), -1) for name in EXCHANGED], 1)).numpy()
        ids, rows, codes = met[:, :, 0], met[:, :, 1], met[:, :, 2:].reshape(met.shape[0] * met.shape[1], -1)
        device, bank = self.model.device, self.bank
        drawn, inclusion = (np.empty(0, int), None) if bank is None else bank.draw(rows, ids, self.config.negatives)
        share = share_texts(list(ids), drawn if bank is None else bank.ids[drawn], rank())
        texts = self._tokens(batch, share)
        known: dict[str, Any] = {
            "places": torch.from_numpy(share.find(ids.ravel())),
            "ids": torch.from_numpy(ids.ravel().copy()),
            "attributes": torch.from_numpy(codes[:, : codes.shape[1] // 2].copy()),
            "stated": torch.from_numpy(codes[:, codes.shape[1] // 2 :].copy()),
            "texts": texts if self._locked_texts else self.model.cut(texts),
        }
        if bank is not None:
            known["bank"] = torch.from_numpy(share.find(bank.ids[drawn]))
            known["target"] = torch.from_numpy(np.searchsorted(drawn, rows[rank()]))
            known["inclusion"] = inclusion
        there = {name: v if v is None else v.to(device, non_blocking=True) for name, v in known.items()}
        return {name: v for name, v in batch.items() if name not in ON_HOST} | there | {"most": share.most}

    def _tokens(self, batch: dict[str, Any], share: Share) -> Tensor:
        """Token ids (T, L) of what this process encodes."""
        ids, first = np.unique(batch["caption_ids"].numpy(), return_index=True)
        own = batch["caption_index"].numpy()[first]
        found = np.searchsorted(ids, share.mine).clip(max=len(ids) - 1)
        met = ids[found] == share.mine
        if self.bank is None:
            assert met.all()
            return batch["tokens"][own[found]]
        tokens = self.bank.tokens[self.bank.find(np.where(met, self.bank.ids[0], share.mine))]
        tokens[met] = batch["tokens"][own[found[met]]]
        return tokens

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
            embedded["text"] = (self._locked_texts or model.encode_text)(batch["texts"])
        return embedded

    def loss(self, embedded: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Embeddings → {"loss": with gradient, "cosine": between pictures, for the collapse warning}."""
        image, scale = embedded["image"], embedded["scale"]
        texts = gather(F.pad(embedded["text"], (0, 0, 0, batch["most"] - len(embedded["text"]))))
        # Not texts[…]: the backward of that adds in any order when there are several threads.
        images, captions, positives = gather(image), texts.index_select(0, batch["places"]), self._positives(batch)
        if "bias" in embedded:
            loss = sigmoid_loss(images, captions, scale, embedded["bias"], positives)
        else:
            loss = contrastive_loss(images, captions, scale, positives)
        if self.bank is not None:
            bank = texts.index_select(0, batch["bank"])
            surfacing = surfacing_loss(image, bank, scale, batch["target"], batch["inclusion"])
            loss = loss + self.config.surfacing * surfacing
        with torch.no_grad():
            cosine = image.detach().mean(dim=0).square().sum()
        return {"loss": loss, "cosine": cosine}

    def _positives(self, batch: dict[str, Any]) -> Tensor | None:
        if self.config.positives == "clip":
            return None
        if self.config.positives == "equal":
            return equal_captions(batch["ids"])
        graded = caption_overlap if self.config.positives == "overlap" else compatible_captions
        return graded(batch["attributes"], batch["stated"])


class Bank:
    """The distinct captions of the training split, on the host.

    Attributes:
        tokens: (N, L).
        ids: (N,), as `caption_id` makes them.
    """

    def __init__(self, tokens: Tensor, ids: np.ndarray, frequency: Tensor) -> None:
        self.tokens, self.ids, self._frequency = tokens, ids, frequency
        self._order = np.argsort(ids)
        self._sorted = ids[self._order]

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The rows of captions: ids (M,) → (M,)."""
        return self._order[np.searchsorted(self._sorted, ids)]

    def draw(self, own: np.ndarray, ids: np.ndarray, wanted: int) -> tuple[np.ndarray, Tensor | None]:
        """Rows of a batch's own captions and of so many drawn beside, sorted, and the chance of each; None: all."""
        size, met = len(self.ids), own.ravel()
        if size <= wanted:
            return np.arange(size), None
        rng = np.random.default_rng(int(ids.sum(dtype=np.uint64)))  # whatever the order of pictures and processes
        rows = np.unique(np.concatenate([met, rng.choice(size, wanted, replace=False, shuffle=False)]))
        missed = (1 - self._frequency[torch.from_numpy(rows)]) ** len(met) * (1 - wanted / size)
        return rows, 1 - missed
