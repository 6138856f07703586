"""Image towers without a text tower: any of timm's or torchvision's, with a choice of pooling.

    model = open_model("image:resnet50.a1_in1k+max", groups)            # Style Matcher's: ResNet50, largest values
    vectors = embed_pictures(model, ["photo.jpg"])                      # (1, 2048); words are refused in one line

image:[torchvision/]NAME[.TAG][@PX][+POOLING…][:FILE]

    image:vgg16                               timm's VGG16 with timm's default weights, as timm pools it
    image:torchvision/vgg16.IMAGENET1K_V1+max torchvision's; TAG is one of the library's published weights
    image:vit_small_patch14_dinov2.lvd142m@224+cls+avg     DINOv2 at 224 px: class token and mean, side by side
    image:mobilenetv2_100+gem:weights.safetensors          weights from a file, timm's names or torchvision's

Poolings are those of `fclip.pooling`; without one it is the tower's own, what its classifier takes. Preprocessing is
timm's or torchvision's for these weights; `fclip tower` writes a folder with another one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fclip import timm_tower, torchvision_tower
from fclip.captions import captions_for
from fclip.errors import UserError, nearest
from fclip.files import expand
from fclip.model import Model, ModelCard, Preprocess
from fclip.pooling import OWN, POOLINGS, pool
from fclip.tokenizer import NO_WORDS, NoTokenizer
from fclip.weights import load_image_state, load_state, read_weights

IMAGE = "image:"
RESIZE_MODES = ("shortest", "squash", "longest")
FORM = "image:[torchvision/]NAME[.TAG][@PX][+POOLING][:FILE]"
PATTERN = re.compile(
    r"image:(?P<torchvision>torchvision/)?(?P<name>\w+)(\.(?P<tag>[\w-]+))?(@(?P<px>\d+))?(?P<pooling>(\+\w+)*)(:(?P<file>.+))?"
)


@dataclass(frozen=True)
class TowerName:
    """A name taken apart."""

    library: str  # timm or torchvision
    name: str
    tag: str  # "" where none is named
    size_px: int | None
    pooling: tuple[str, ...]
    file: str  # "" for the library's own weights

    @property
    def full(self) -> str:
        """The name without its file."""
        tag, size = f".{self.tag}" * bool(self.tag), f"@{self.size_px}" * bool(self.size_px)
        pooling = "" if self.pooling == (OWN,) else "".join(f"+{kind}" for kind in self.pooling)
        return f"{IMAGE}{'torchvision/' * (self.library == 'torchvision')}{self.name}{tag}{size}{pooling}"


def parse_tower(source: str) -> TowerName:
    """Takes a name apart and checks it; a tag that was left out is filled in where the weights are the library's.

    Raises:
        UserError: another form, or a model, tag or pooling that is not known.
    """
    found = PATTERN.fullmatch(source)
    if found is None:
        raise UserError(f"expected {FORM}, got {source!r}")
    pooling = tuple(found["pooling"].split("+")[1:]) or (OWN,)
    for kind in pooling:
        if kind not in POOLINGS and pooling != (OWN,):
            raise UserError(f"no pooling {kind!r}; {nearest(kind, POOLINGS)}")
    if len(set(pooling)) < len(pooling):
        raise UserError(f"expected every pooling once, got {found['pooling']!r}")
    library = "torchvision" if found["torchvision"] else "timm"
    px = int(found["px"]) if found["px"] else None
    name, tag, file = found["name"], found["tag"] or "", found["file"] or ""
    return TowerName(library, name, _tag(library, name, tag, bool(file)), px, pooling, file)


def _tag(library: str, name: str, tag: str, from_file: bool) -> str:
    """The tag, checked; the library's default where none is named and none is given in a file."""
    if library == "torchvision":
        torchvision_tower.check_name(name)
        entry = torchvision_tower.published(name, tag)
        return tag if from_file else entry.name
    import timm

    timm_tower.check_name(f"{name}.{tag}" if tag else name)
    if tag or from_file:
        return tag
    own = timm.get_pretrained_cfg(name)
    if own is None or not own.has_weights:
        raise UserError(f"timm has no weights for {name}; give a file: {IMAGE}{name}:FILE")
    return own.tag or ""


class ImageOnly(nn.Module):
    """In place of open_clip's CLIP where there is no text tower.

    Args:
        library: timm or torchvision.
        name: of the tower, without a tag.
        pooling: ("own",), or some of `fclip.pooling.POOLINGS`.
        image_size: height and width.
        options: further arguments of timm's `create_model`, e.g. {"pad_type": "same"}.
    """

    def __init__(
        self,
        library: str,
        name: str,
        pooling: Sequence[str],
        image_size: Sequence[int],
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.library, self.pooling = library, tuple(pooling)
        self.trunk: Any
        if library == "torchvision":
            self.trunk = torchvision_tower.torchvision_trunk(name, self.own)
        else:
            self.trunk = timm_tower.timm_trunk(name, (image_size[0], image_size[1]), options or {})
        own_tokens = 1 if type(self.trunk).__name__ == "VisionTransformer" else 0  # torchvision's
        self.prefix = getattr(self.trunk, "num_prefix_tokens", own_tokens)

    @property
    def own(self) -> bool:
        """Whether the tower pools itself."""
        return self.pooling == (OWN,)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) → vectors (B, D) of any length."""
        if self.own:
            return self.trunk(pixels)
        features = self.features(pixels)
        if not isinstance(features, Tensor):
            raise UserError(
                f"expected one map of features to pool, got a {type(features).__name__}; leave the pooling out"
            )
        channels = getattr(self.trunk, "num_features", features.shape[1 if features.ndim == 4 else -1])
        return pool(features, self.pooling, channels, self.prefix)

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) → the last map or tokens."""
        return (
            self.trunk(pixels)[torchvision_tower.MAP]
            if self.library == "torchvision"
            else self.trunk.forward_features(pixels)
        )

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Raises UserError: there is no text tower. `Model.require_text` says so earlier, with the model's name."""
        raise UserError(NO_WORDS)


def image_model(
    source: str,
    groups: Sequence[str] = (),
    *,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    resize_mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Model:
    """The model of a name, in evaluation mode, on the CPU, without a fingerprint.

    Args:
        source: see above.
        groups: the catalogue's attribute groups.
        mean, std: of each channel, where the weights want others than the library says.
        resize_mode: in place of the library's: shortest, or squash or longest, which show the whole picture.
        options: of timm's `create_model`; they stay with the model.

    Raises:
        UserError: an unknown name, unreachable weights, weights of another tower, or a size it cannot take.
    """
    tower = parse_tower(source)
    if options and tower.library == "torchvision":
        raise UserError(f"options are for timm's towers, got {options} for {tower.full}")
    preprocess = _changed(_preprocess(tower), mean, std, resize_mode)
    native = replace(tower, size_px=None)
    about: dict[str, Any] = {
        "library": tower.library,
        "name": tower.name,
        "pooling": list(tower.pooling),
        "options": options or {},
    }
    only = ImageOnly(**about, image_size=_preprocess(native).size)
    _load(only, tower)
    timm_tower.set_input_size(only.trunk, preprocess.size)
    only.eval()
    if tower.size_px or not only.own:
        _try(only, tower, preprocess.size)
    architecture = {"image_only": about | {"image_size": list(preprocess.size)}}
    card = ModelCard(tower.full, architecture, preprocess, captions_for(groups or ["category"]))
    return Model(only, card, NoTokenizer()).eval()


def _preprocess(tower: TowerName) -> Preprocess:
    size = (tower.size_px, tower.size_px) if tower.size_px else None
    if tower.library == "torchvision":
        return torchvision_tower.torchvision_preprocess(tower.name, tower.tag, size)
    return timm_tower.timm_data_preprocess(f"{tower.name}.{tower.tag}".rstrip("."), size)


def _changed(own: Preprocess, mean: Any, std: Any, resize_mode: str | None) -> Preprocess:
    own = replace(own, mean=mean or own.mean, std=std or own.std)
    if resize_mode is None or resize_mode == own.resize_mode:
        return own
    if resize_mode not in RESIZE_MODES:
        raise UserError(f"no resize mode {resize_mode!r}; {nearest(resize_mode, RESIZE_MODES)}")
    return replace(own, resize_mode=resize_mode, resize=own.size)  # a larger one would cut off what is to be shown


def _load(only: ImageOnly, tower: TowerName) -> None:
    hint = f"is the network reachable? A local file can be given: {tower.full}:FILE"
    where = expand(tower.file) if tower.file else tower.full
    state = read_weights(where) if tower.file else _published_state(tower, hint)
    if tower.library == "torchvision":
        own, behind = only.trunk.state_dict(), torchvision_tower.HEADS
        load_state(only.trunk, {k: v for k, v in state.items() if k in own or not k.startswith(behind)}, where)
        return
    classifier = only.trunk.default_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    heads = tuple(f"{name}." for name in names)
    load_image_state(only, {k: v for k, v in state.items() if not k.startswith(heads)}, where)


def _published_state(tower: TowerName, hint: str) -> dict[str, Tensor]:
    if tower.library == "torchvision":
        return torchvision_tower.torchvision_weights(tower.name, tower.tag, hint)
    size = _preprocess(replace(tower, size_px=None)).size
    return timm_tower.timm_weights(f"{tower.name}.{tower.tag}".rstrip("."), size, hint)


@torch.inference_mode()
def _try(only: ImageOnly, tower: TowerName, size: tuple[int, int]) -> None:
    """One empty picture: a tower tells only then that it cannot take a size, or has nothing to pool."""
    try:
        only.encode_image(torch.zeros(1, 3, *size))
    except UserError as error:
        raise UserError(f"{tower.full}: {error}") from None
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{tower.full} cannot take pictures of {size[0]}x{size[1]}: {reason}; leave @PX out") from None
