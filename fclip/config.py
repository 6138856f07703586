"""Presets: the science of a run, as YAML (hardware, processes and precision belong to `accelerate launch`).

    preset = load_preset("experiments/presets/drawn.yaml", ["optim.lr=3e-4", "--epochs", "5"])

A preset may name another as its `base` and change some of its keys. Every key is a field below; an unknown one names
the nearest. The resolved preset goes into the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from fclip.errors import UserError
from fclip.validation import UNKNOWN_KEY, in_words

STRICT = ConfigDict(extra="forbid")
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Size = tuple[PositiveInt, PositiveInt]
"""(height, width) in pixels."""
Paths = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
"""One, or a list."""
Config = TypeVar("Config")


@dataclass(frozen=True, config=STRICT)
class StnConfig:
    """The spatial transformer in front of the image tower; bounds and coordinates as in `stn`."""

    # none: no transformer. affine: free. similarity: shift, zoom, rotation. scale_translation: the same unrotated.
    # tps: thin-plate spline.
    transform: Literal["none", "affine", "similarity", "scale_translation", "tps"] = "none"
    localisation: Literal["paper", "residual"] = "paper"  # the net that chooses the transform; residual is stronger
    look_size: Size | None = None  # (height, width) of what it samples from; None: the tower's input size
    look_at: PositiveInt = 64  # side in pixels of the small copy that the localisation net sees
    max_shift: Share = 0.5  # of the centre, as a share of the half side
    max_zoom: Annotated[float, Field(ge=1)] = 2.0  # in or out, at most
    max_angle_deg: Annotated[float, Field(ge=0, le=180)] = 45.0  # of a similarity
    # Largest change of a free affine's entry (below 0.5), or largest move of a spline's control point (up to 0.3).
    max_bend: Annotated[float, Field(ge=0, lt=0.5)] = 0.25
    points: Annotated[int, Field(ge=2)] = 4  # control points per side of a spline


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """Which towers, from which weights."""

    name: str = "ViT-B-32"  # "fashionclip", an open_clip architecture, "hf-hub:owner/name", "timm:NAME[.TAG]", a folder
    weights: str | None = None  # an open_clip tag ("laion2b_s34b_b79k") for an open_clip architecture, or a file
    allow_mismatched_weights: bool = False  # load what fits of a file or folder, and print what was left out
    image_tower: str | None = None  # timm's NAME or NAME.TAG (with its weights), in place of the image tower of `name`
    image_weights: str | None = None  # a file for the image tower alone (timm's or torchvision's key names)
    image_size: Size | None = None  # (height, width) in pixels; None: the architecture's own
    resize_mode: Literal["shortest", "squash", "longest"] | None = None  # None: the weights' own
    mean: tuple[float, float, float] | None = None  # of the pixels, 0..1; None: the weights' own
    std: tuple[float, float, float] | None = None  # of the pixels, 0..1; None: the weights' own
    tokenizer: Literal["own", "trained"] = "own"  # own: the architecture's; trained: on the captions
    # The rest is for timm: towers, which bring neither projection nor text tower.
    embed_dim: PositiveInt = 256  # of the shared space
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0  # stochastic depth of the timm tower
    text_width: PositiveInt = 256  # of the text tower
    text_layers: PositiveInt = 2  # of the text tower
    text_heads: PositiveInt = 4  # of the text tower
    context_length: PositiveInt = 32  # tokens per caption
    vocab_size: PositiveInt = 1024  # of a trained tokenizer
    stn: StnConfig = dataclasses.field(default_factory=StnConfig)  # in front of the image tower


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which pictures, and how they vary in training."""

    catalogue: Paths = ()  # paths, or "drawn:ITEMS:SEED"; several are joined
    format: str | None = None  # of the catalogue, when it cannot be told from the path
    stream: bool = False  # leave the pictures of shards (WebDataset, Parquet) where they are, instead of copying them
    # Streamed pictures are shuffled in windows of so many, made of sixteen runs of neighbours from all over the shards:
    # larger mixes better, smaller reads more in one place. A training split that fits in one is shuffled as ever.
    shuffle_window: PositiveInt = 10_000
    # Folder on a fast local disk that keeps decoded, resized pictures (8 bits a channel, about 1.9 times the area of
    # the tower's input). None: none.
    cache: str | None = None
    train_split: str = "train"  # what is learned from
    val_split: str = "val"  # what the best checkpoint is chosen on
    crop: PositiveShare = 0.8  # smallest share of the picture's area that a training crop keeps; 1: no cropping
    aspect: Annotated[float, Field(ge=1)] = 1.1  # largest change of the aspect ratio by a crop
    flip: Share = 0.5  # chance of mirroring
    brightness: Share = 0.1  # largest relative change
    contrast: Share = 0.1  # largest relative change (hue is left alone: colour is an attribute)
    erase: Share = 0.0  # chance that a rectangle is greyed out
    # A random pose: the whole picture moved, made smaller and turned, the rest filled with the padding's colour.
    shift: Share = 0.0  # largest move, as a share of the room that the smaller picture leaves
    scale: tuple[PositiveShare, PositiveShare] = (1.0, 1.0)  # smallest and largest size, as a share of the side
    turn_deg: Annotated[float, Field(ge=0, le=180)] = 0.0  # largest rotation either way
    # Where pictures are cropped, mirrored, relit and posed. cpu: by the loader's processes. device: where the model is,
    # a batch at once, for GPUs that wait for pictures; the loader decodes, and shrinks to what the smallest crop needs.
    augment_on: Literal["cpu", "device"] = "cpu"
    # Side of the training pictures in the first epoch as a share of the tower's, growing evenly to 1 in the last: early
    # epochs cost a fraction and learn the coarse things. Only for towers that take any size (convolutional ones).
    first_size: float = 1.0
    workers: NonNegativeInt = 1  # processes that decode


@dataclass(frozen=True, config=STRICT)
class CaptionConfig:
    """How attributes become sentences."""

    style: str = "auto"  # a key of fclip.captions.STYLES; auto: the one that fits the catalogue
    template: str | None = None  # instead of a style
    paraphrases: tuple[str, ...] | None = None  # None: the style's own
    drop: float = 0.3  # chance that an attribute is left out of a training caption
    whole: float = 0.5  # share of training captions that keep all attributes


@dataclass(frozen=True, config=STRICT)
class LossConfig:
    """Which pairs attract each other."""

    # softmax: CLIP's, over the whole batch. sigmoid: SigLIP's, each pair by itself; for models with a logit bias.
    kind: Literal["softmax", "sigmoid"] = "softmax"
    # clip: only the picture's own caption (CLIP, and the paper). equal: every picture with an equal caption.
    # compatible: every picture whose attributes do not contradict the caption, also a shortened one. overlap: every
    # picture, as far as it has what the caption states.
    positives: Literal["clip", "equal", "compatible", "overlap"] = "compatible"
    # Weight of the surfacing loss: pictures over distinct whole captions, each counted once.
    surfacing: NonNegativeFloat = 0.0
    negatives: NonNegativeInt = 0  # captions drawn from the training split for it, besides those of the batch


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """AdamW, linear warm-up, then cosine to zero."""

    lr: NonNegativeFloat = 1e-3  # peak
    image_lr: NonNegativeFloat = 1.0  # factor for the image tower (a pretrained one wants less)
    head_lr: NonNegativeFloat = 1.0  # factor for the projection of a timm image tower
    stn_lr: NonNegativeFloat = 1.0  # factor for the spatial transformer
    text_lr: NonNegativeFloat = 1.0  # factor for the text tower
    weight_decay: NonNegativeFloat = 0.05  # not for biases, norms, and what the towers exempt
    beta1: float = 0.9  # AdamW
    beta2: float = 0.98  # AdamW; CLIP's for ViTs
    warmup: Share = 0.05  # share of all steps; with head_epochs each stage has its own, and its own cosine
    clip_norm: NonNegativeFloat = 1.0  # of the gradient; 0: none
    # Factor on the rate of each layer of a tower against the layer above it (what is on top learns at the full rate).
    # 1: none.
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    # The first so many epochs (or parts of one) teach only what is new: the projection of a timm tower, the spatial
    # transformer and the logit scale. A new projection is noise at first, and its gradient would spoil the tower.
    head_epochs: NonNegativeFloat = 0.0
    ema: NonNegativeFloat = 0.0  # decay of the averaged weights, which are then what is measured and kept; 0: none
    # Share of the trained weights in what is measured and kept as best, the rest being those it started from (WiSE-FT);
    # below 1 only for a model that starts pretrained. 1: none.
    wise_ft: Share = 1.0


@dataclass(frozen=True, config=STRICT)
class LoraConfig:
    """Low-rank adapters instead of full fine-tuning; merged into the weights whenever a checkpoint is written."""

    rank: NonNegativeInt = 0  # of the adapters; 0: none, all weights learn
    alpha: float = 16.0  # the update is scaled by alpha / rank
    dropout: Share = 0.0  # before the adapters of linear layers; those of open_clip's attention have none
    # Modules by name pattern: linear layers, attentions, and what holds such (a timm block's `attn` or `mlp`).
    targets: tuple[str, ...] = ("*.attn", "*.mlp")
    # Parameters that learn besides, by name pattern; a new projection and a spatial transformer always do.
    also: tuple[str, ...] = ("logit_scale",)


@dataclass(frozen=True, config=STRICT)
class Preset:
    """A whole run."""

    out: str = "runs/model"  # folder of the run: best/, last/, logs/
    seed: int = 0  # of initialisation, order and augmentation
    epochs: PositiveFloat = 10  # passes over the training split; 2.5 stops half-way through the third
    batch_size: PositiveInt = 128  # per process
    # Pictures per forward pass: memory then grows with this and not with batch_size, for one more forward pass. The
    # gradients are those of the whole batch, but for batch norms that learn: their statistics are of each part alone
    # (and move once for each part), which freeze_batch_norm avoids. 0: the whole batch at once.
    cache_chunk: NonNegativeInt = 0
    eval_every: PositiveInt = 1  # epochs between measurements on the validation split
    eval_limit: NonNegativeInt = 2000  # pictures of the validation split that are measured in training; 0: all
    patience: NonNegativeInt = 0  # measurements without a better score after which training stops; 0: never
    save_every: NonNegativeInt = 0  # steps between further checkpoints to resume from; 0: every epoch
    freeze: tuple[str, ...] = ()  # parameters that stay as they are, by name pattern ("visual.trunk.blocks.0.*")
    # Folder for what a frozen image tower makes of unaugmented pictures: computed once, shared by runs that name the
    # same one. None: OUT/features.
    features: str | None = None
    freeze_batch_norm: bool = False  # keep the statistics that the image tower's weights came with
    channels_last: bool = False  # memory layout; faster for convolutional towers
    bf16_on_cpu: bool = False  # autocast to bfloat16 when the run is on a processor that multiplies in it
    # The same on a GPU that has it, where `accelerate launch --mixed_precision` says nothing or "no".
    bf16_on_gpu: bool = True
    compile: bool = False  # the towers by torch.compile: a minute or more at the start; for runs of an hour and more
    track: str = "tensorboard"  # "none", or any tracker that accelerate knows
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    captions: CaptionConfig = dataclasses.field(default_factory=CaptionConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)


def load_preset(file: str | Path, overrides: Sequence[str] = ()) -> Preset:
    """Reads a preset and applies `key=value` or `--key value` overrides, dots between levels.

    A preset that says `base: other.yaml` (beside it) is that one with its own keys instead.

    Raises:
        UserError: no such file, no YAML, an unknown key, a value of another type.
    """
    return load_config(Preset, file, overrides)


def load_config(kind: type[Config], file: str | Path, overrides: Sequence[str] = ()) -> Config:
    """As `load_preset`, for another frozen dataclass of settings."""
    return config_from(kind, merged(_read(Path(file)), overrides), str(file), merged({}, overrides))


def _read(file: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a preset, on top of those of its base."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        asked = f" (the base of {above[-1]})" if above else ""
        raise UserError(f"expected a preset, cannot read {file}{asked}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} should hold keys and values, e.g. 'epochs: 10', got a {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{file}: base should be one path, e.g. base: drawn.yaml, got {base!r}")
    if file.resolve() in [f.resolve() for f in above]:
        raise UserError(f"{file} is its own base; take out one `base:`")
    return _over(_read(file.parent / base, (*above, file)), values)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested values, those of `above` instead of those of `below`."""
    both = {k: _over(below[k], v) for k, v in above.items() if isinstance(v, dict) and isinstance(below.get(k), dict)}
    return {**below, **above, **both}


def preset_from(values: Mapping[str, Any], where: str = "preset") -> Preset:
    """Checks a plain dict and makes it a preset; `where` names it in errors."""
    return config_from(Preset, values, where)


def config_from(
    kind: type[Config], values: Mapping[str, Any], where: str, by_hand: Mapping[str, Any] | None = None
) -> Config:
    """As `preset_from`, for another frozen dataclass of settings; errors in what was set `by_hand` name no `where`."""
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        problem = error.errors()[0]
        named = "" if _is_in(by_hand or {}, problem["loc"]) else f"{where}: "
        raise UserError(f"{named}{_explain(problem, kind)}") from None


def _is_in(values: Any, path: Sequence[str | int]) -> bool:
    """Whether nested values have something at a path or, instead of a group, above it."""
    for part in path:
        if not isinstance(values, dict):
            return True
        if part not in values:
            return False
        values = values[part]
    return True


def dump_preset(preset: Any) -> str:
    """The resolved preset, or other settings, as YAML."""
    plain = TypeAdapter(type(preset)).dump_python(preset, mode="json")
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def merged(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Plain values with `key=value` or `--key value` overrides in them."""
    pending = list(overrides)
    while pending:
        word = pending.pop(0)
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--") or not pending:
                raise UserError(f"expected key=value or --key value, got {word!r}")
            text = pending.pop(0)
        _set(values, key.replace("-", "_").split("."), _value(text, key), key)
    return values


def _value(text: str, key: str) -> Any:
    """A value as YAML; 1e-3, which YAML 1.1 reads as text, becomes a number where the preset wants one."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"cannot read the value of {key} as YAML: {text}; put it in quotes: {key}='\"…\"'") from None


def _set(values: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UserError(f"cannot set {key}: {part} is a value, not a group of keys")
    values[path[-1]] = value


def _explain(problem: Any, kind: type) -> str:
    """One pydantic error as: where, expected, got; the nearest key for an unknown one."""
    location = [str(part) for part in problem["loc"]]
    known = _keys(location[:-1], kind) if problem["type"] in UNKNOWN_KEY else []
    return in_words(".".join(location), problem, known, repr(problem["input"]))


def _keys(path: list[str], kind: type) -> list[str]:
    group: Any = kind
    for part in path:
        group = {f.name: f.default_factory for f in dataclasses.fields(group)}.get(part, kind)
    return [f.name for f in dataclasses.fields(group)]
