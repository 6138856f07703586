"""torchvision's image towers: the part up to the last feature map, their preprocessing, their published weights.

    tower = torchvision_trunk("resnet50", own_pooling=False)
    tower(pixels)["map"]                                              # (B, 3, H, W) → (B, 2048, H / 32, W / 32)

Maps are cut out by torchvision's own feature extraction, so weights keep their names and what comes behind is gone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fclip.errors import UserError, nearest
from fclip.model import Preprocess
from fclip.timm_tower import near

MAPS = {  # class → the node whose output is the last map, or the tokens
    "AlexNet": "features",
    "ConvNeXt": "features",
    "DenseNet": "relu",
    "EfficientNet": "features",
    "GoogLeNet": "inception5b",
    "Inception3": "Mixed_7c",
    "MNASNet": "layers",
    "MobileNetV2": "features",
    "MobileNetV3": "features",
    "RegNet": "trunk_output",
    "ResNet": "layer4",
    "ShuffleNetV2": "conv5",
    "SqueezeNet": "features",
    "SwinTransformer": "permute",
    "VGG": "features",
    "VisionTransformer": "encoder",
}
MAP = "map"
HEADS = ("classifier.", "fc.", "head.", "heads.", "aux1.", "aux2.", "AuxLogits.")  # what comes behind, in weights
INCEPTIONS = ("googlenet", "inception_v3")


def check_name(name: str) -> None:
    """Raises UserError where torchvision has no such classification model."""
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise UserError(f"torchvision has no model {name!r}; {near(name, names)}")


def torchvision_trunk(name: str, own_pooling: bool) -> nn.Module:
    """A tower with random weights: {"map": map or tokens}, or with `own_pooling` what its classifier takes.

    Raises:
        UserError: a model of another kind than `MAPS` knows, or one without a linear classifier.
    """
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    # The published Inceptions were trained on values of -1..1 and take ImageNet's statistics in only to change them.
    options = {"init_weights": False, "transform_input": True} if name in INCEPTIONS else {}
    whole = get_model(name, weights=None, **options)
    if own_pooling:
        return _without_classifier(whole, name)
    kind = type(whole).__name__
    if kind not in MAPS:
        raise UserError(f"the last map of torchvision's {name} is not known; leave the pooling out, or take timm's")
    return create_feature_extractor(whole, {MAPS[kind]: MAP}, suppress_diff_warning=True)


def _without_classifier(whole: nn.Module, name: str) -> nn.Module:
    """The last linear layer becomes the identity: dropout in front of it does nothing in evaluation."""
    layers = [path for path, module in whole.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise UserError(f"torchvision's {name} has no linear classifier to leave out; choose avg, max or gem")
    whole.set_submodule(layers[-1], nn.Identity())
    return whole


def published(name: str, tag: str) -> Any:
    """An entry of torchvision's weights; no tag: its default.

    Raises:
        UserError: there are no such weights.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)
    tags = [entry.name for entry in weights]
    if tag and tag not in tags:
        raise UserError(f"torchvision has no weights {tag!r} for {name}; {nearest(tag, tags)}")
    return weights[tag] if tag else weights.DEFAULT


def torchvision_weights(name: str, tag: str, hint: str) -> dict[str, Tensor]:
    """Published weights, from torch's cache or the network.

    Raises:
        UserError: they cannot be fetched; `hint` says what else can be done.
    """
    entry = published(name, tag)
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # of urllib, of the hash, of the disk
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot fetch torchvision's weights {name}.{entry.name}: {reason}; {hint}") from None


def torchvision_preprocess(name: str, tag: str, size: tuple[int, int] | None) -> Preprocess:
    """As the weights' own transforms; another size keeps the share that the crop leaves."""
    own = published(name, tag).transforms()
    [crop], [resized] = own.crop_size, own.resize_size
    height, width = size or (crop, crop)
    shorter = resized if size is None else round(resized * min(size) / crop)
    statistics: dict[str, Any] = {"mean": tuple(own.mean), "std": tuple(own.std)}
    return Preprocess((height, width), interpolation=own.interpolation.value, resize=(shorter, shorter), **statistics)
