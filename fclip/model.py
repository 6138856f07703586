"""A model: open_clip's towers with the preprocessing, tokenizer and captions that belong to their weights.

model = build_model(ModelConfig(name="ViT-B-32-quickgelu"), captions, texts)
image = model.encode_image(model.normalise(model.preprocess(picture)[None]))   # (1, D), unit length
text = model.encode_text(model.cut(model.tokenizer(["red dress"])))            # (1, D), unit length
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transform import image_transform
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms import Compose
from torchvision.transforms.functional import pil_to_tensor

from fclip.captions import Captions
from fclip.errors import UserError
from fclip.prefix import prefix_of
from fclip.tokenizer import Tokenizer
from stn import SpatialTransformer

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # CLIP, section 2.5
MAX_LOGIT_SCALE = math.log(100)


@dataclass(frozen=True)
class Preprocess:
    """Picture → uint8 (3, H, W), and uint8 → what the tower was trained on. The resizing is open_clip's own, with
    `resize` that of timm and torchvision.

    Attributes:
        size: height and width in pixels.
        mean, std: of each channel, for values in 0..1.
        interpolation: bicubic, bilinear or random.
        resize_mode: shortest (resize the shorter side, then centre crop: CLIP), squash (ignore the aspect ratio:
            SigLIP, and the STN variants), longest (resize the longer side, then pad).
        fill_color: of the padding, 0..255.
        resize: height and width before the crop to `size`, where that is less than the whole picture.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's CLIP
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 255  # catalogues have white backgrounds
    resize: tuple[int, int] | None = None

    @classmethod
    def from_open_clip(cls, cfg: dict[str, Any]) -> Preprocess:
        """From open_clip's `preprocess_cfg`."""
        size = cfg["size"] if isinstance(cfg["size"], (tuple, list)) else (cfg["size"], cfg["size"])
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in cfg.items() if k != "mode"}
        return cls(**{**known, "size": tuple(size)})

    @property
    def shorter_px(self) -> int:
        """The shorter side that a decoded picture needs."""
        return min(self.resize or self.size)

    def __call__(self, picture: Image) -> Tensor:
        """Resizes a picture to uint8 (3, H, W)."""
        return pil_to_tensor(self._resize(picture))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) → float32, zero mean and unit deviation over the tower's training pictures."""
        mean = _per_channel(tuple(255 * value for value in self.mean), pixels.device)
        scale = _per_channel(tuple(1 / (255 * value) for value in self.std), pixels.device)
        floats = pixels.float() if pixels.dtype == torch.uint8 else pixels.float().clone()  # never in the caller's
        return floats.sub_(mean).mul_(scale)  # in place: many times as fast on a CPU

    @cached_property
    def _resize(self) -> Compose:
        if self.resize is not None:
            return cropped(self)
        options = {k: v for k, v in asdict(self).items() if k not in ("size", "resize")}
        square = self.size[0] if self.size[0] == self.size[1] else self.size
        return Compose(
            image_transform(square, is_train=False, **options).transforms[:-2]
        )  # without ToTensor, Normalize


def cropped(own: Preprocess) -> Compose:
    """timm's `transforms_imagenet_eval` and torchvision's `ImageClassification` up to their tensors."""
    from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio, str_to_interp_mode
    from torchvision.transforms import CenterCrop, Resize

    assert own.resize is not None
    how, size = own.interpolation, list(own.size)
    if own.resize_mode == "longest":
        shrink = ResizeKeepRatio(own.resize, longest=1.0, interpolation=how)
        return Compose([shrink, CenterCropOrPad(size, fill=own.fill_color)])
    if own.resize_mode == "shortest" and own.resize[0] != own.resize[1]:
        return Compose([ResizeKeepRatio(own.resize, interpolation=how), CenterCrop(size)])
    to = own.resize[0] if own.resize_mode == "shortest" else own.resize
    return Compose([Resize(to, str_to_interp_mode(how)), CenterCrop(size)])


def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1), copied once: a copy in every step would make the processor wait for a GPU."""
    traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()  # what is made there holds no numbers
    return (_copied.__wrapped__ if traced else _copied)(values, device)


@lru_cache(maxsize=16)
def _copied(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(3, 1, 1)


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint says of its model besides the weights; JSON.

    Attributes:
        name: as asked for, e.g. "fashionclip" or "timm:mobilenetv2_100".
        architecture: open_clip's `model_cfg`; holds the activation (quick_gelu), context length and pooling. Of models
            without a text tower {"image_only": arguments of `fclip.image_only.ImageOnly`}.
        preprocess: how pictures enter.
        captions: how attributes become the texts that it was trained on.
    """

    name: str
    architecture: dict[str, Any]
    preprocess: Preprocess
    captions: Captions


class Model(nn.Module):
    """Two towers into one space.

    Attributes:
        clip: open_clip's `CLIP` or `CustomTextCLIP`, or `fclip.image_only.ImageOnly`, which has no text tower.
        card: see ModelCard.
        tokenizer: texts → ids (B, L).
        fingerprint: of the weights, set when they are saved or loaded; indexes and results carry it.
    """

    clip: Any  # else a checker takes the attributes of an nn.Module for tensors

    def __init__(self, clip: nn.Module, card: ModelCard, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.clip = clip
        self.card = card
        self.tokenizer = tokenizer
        self.fingerprint = "unsaved"

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def captions(self) -> Captions:
        return self.card.captions

    @property
    def preprocess(self) -> Preprocess:
        return self.card.preprocess

    @property
    def device(self) -> torch.device:
        return next(self.clip.parameters()).device

    @property
    def reads_text(self) -> bool:
        """Whether there is a text tower."""
        return "image_only" not in self.card.architecture

    def require_text(self) -> None:
        """Raises UserError where there is no text tower."""
        if not self.reads_text:
            raise UserError(
                f"the model {self.name} knows pictures only and cannot read words; ask it with pictures, or take a "
                "model with a text tower (`fclip models`)"
            )

    def weights_header(self) -> dict[str, str] | None:
        """What the file of the weights says beside them, and the fingerprint counts.

        Two poolings of one tower have the same weights and other vectors; CLIP's towers have one way to be used.
        """
        if self.reads_text:
            return None
        return {"image_only": json.dumps([self.card.architecture, asdict(self.preprocess)], sort_keys=True)}

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) → unit vectors (B, D), float32 whatever the autocast."""
        return F.normalize(self.clip.encode_image(pixels).float(), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L), cut or not → unit vectors (B, D), float32 whatever the autocast."""
        prefix = prefix_of(self.clip) if tokens.shape[1] < self.tokenizer.context_length else None
        encode = self.clip.encode_text if prefix is None else prefix.encode
        return F.normalize(encode(tokens).float(), dim=-1)

    def cut(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) → (B, L'), without the padding that the tower need not see; on a GPU this waits for it."""
        prefix = prefix_of(self.clip)
        return tokens if prefix is None else prefix.cut(tokens)

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keeps the temperature in CLIP's range: after every optimiser step."""
        self.clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def instantiate(architecture: dict[str, Any]) -> nn.Module:
    """open_clip's model of this `model_cfg`, with random weights; behind a spatial transformer when it has `stn`."""
    if "image_only" in architecture:
        from fclip.image_only import ImageOnly

        return ImageOnly(**architecture["image_only"])
    from open_clip import CLIP, CustomTextCLIP

    from fclip.towers import set_input_size

    cfg = copy.deepcopy(architecture)
    text, look = cfg["text_cfg"], cfg.pop("stn", None)
    custom = cfg.pop("custom_text", False) or "hf_model_name" in text
    if cfg["vision_cfg"].get("timm_model_name"):
        cfg["vision_cfg"]["timm_model_pretrained"] = False  # weights come from the checkpoint
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    clip: Any = (CustomTextCLIP if custom else CLIP)(**cfg)
    if hasattr(clip.visual, "trunk"):  # open_clip tells it its size only when it loads weights
        set_input_size(clip.visual.trunk, clip.visual.image_size)
    if look:
        clip.visual = LookingTower(SpatialTransformer(**look), clip.visual)
    return clip


class LookingTower(nn.Module):
    """An image tower behind a spatial transformer: pictures of `stn.in_size` in, whatever the tower takes."""

    def __init__(self, stn: SpatialTransformer, tower: nn.Module) -> None:
        super().__init__()
        self.stn, self.tower = stn, tower

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) → vectors (B, D).

        Raises:
            UserError: pictures smaller than the transformer looks at, or a transform that is not finite.
        """
        try:
            seen = self.stn(pixels)
        except ValueError as error:
            raise UserError(f"the spatial transformer cannot look at these pictures: {error}") from None
        return self.tower(seen)


def unique(texts: Sequence[str]) -> list[str]:
    """The distinct texts in order of appearance."""
    return list(dict.fromkeys(texts))
