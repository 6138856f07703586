"""Networks whose features FID and KID compare: any of timm or torchvision with weights from a file.

    network = open_network("torchvision:inception_v3", "inception_v3.safetensors")
    images = network.embed(pictures)     # vectors (N, D), rows (N,), skipped

The features are what the classifier would have seen. Published FIDs are of one certain Inception-v3, with its own way
of resizing; numbers of another network are to be compared among themselves only, so a result tells its fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.embedding import ImageEmbeddings
    from fclip.model import Preprocess

HEADS = ("fc", "classifier", "head", "heads")  # torchvision's names for the classifier
SIZES = {"inception_v3": 299}  # pixels; others: 224
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class Network:
    """Something that gives pictures features."""

    name: str
    fingerprint: str
    module: Any
    preprocess: Preprocess

    def embed(self, pictures: Dataset, batch_size: int = 64, progress: bool = False) -> ImageEmbeddings:
        """Features of the pictures that can be read, not normalised.

        Raises:
            UserError: not one can be read.
        """
        import torch
        from tqdm.auto import tqdm

        from fclip.embedding import ImageEmbeddings, collect
        from fclip.images import UnreadableImageError, decode

        device, parts = next(self.module.parameters()).device, []
        cells = pictures.select_columns(["id", "image"])
        for first in tqdm(range(0, len(cells), batch_size), desc=self.name, disable=not progress):
            good, rows, bad = [], [], []
            for row in range(first, min(first + batch_size, len(cells))):
                cell = cells[row]
                try:
                    good.append(self.preprocess(decode(cell["image"], min(self.preprocess.size))))
                    rows.append(row)
                except UnreadableImageError as error:
                    bad.append((cell["id"], str(error)))
            vectors = np.zeros((0, 0), np.float32)
            if good:
                with torch.inference_mode():
                    pixels = self.preprocess.normalise(torch.stack(good).to(device))
                    vectors = self.module(pixels).flatten(1).float().cpu().numpy()
            parts.append(ImageEmbeddings(vectors, np.array(rows, int), bad))
        return collect(parts, len(cells))


def open_network(name: str, weights: str | Path) -> Network:
    """A network with weights from a file, on the device that there is.

    Args:
        name: timm:NAME or torchvision:NAME.
        weights: .safetensors, or .pth with tensors only.

    Raises:
        UserError: an unknown name, or weights that do not fit.
    """
    from fclip.files import expand, sha256
    from fclip.processes import on_device
    from fclip.weights import load_state, read_weights

    library, _, architecture = name.partition(":")
    makers = {"timm": _timm, "torchvision": _torchvision}
    if library not in makers or not architecture:
        raise UserError(f"expected a network timm:NAME or torchvision:NAME, got {name!r}")
    module, preprocess = makers[library](architecture)
    file = Path(expand(weights))
    state = read_weights(file)
    wanted = module.state_dict()
    load_state(module, {key: value for key, value in state.items() if key in wanted}, str(file))
    return Network(name, sha256(file)[:16], on_device(module.eval()), preprocess)


def _timm(name: str) -> tuple[Any, Preprocess]:
    import timm

    from fclip.model import Preprocess
    from fclip.timm_tower import near

    if name not in timm.list_models():
        raise UserError(f"timm has no model {name!r}; {near(name, timm.list_models())}")
    own = timm.get_pretrained_cfg(name)
    about = {"size": own.input_size[1:], "mean": own.mean, "std": own.std} if own else {"size": (224, 224)}
    return timm.create_model(name, num_classes=0), Preprocess(resize_mode="squash", **about)


def _torchvision(name: str) -> tuple[Any, Preprocess]:
    import torch
    from torchvision.models import get_model, list_models

    from fclip.model import Preprocess
    from fclip.timm_tower import near

    if name not in list_models():
        raise UserError(f"torchvision has no model {name!r}; {near(name, list_models())}")
    options = {"init_weights": False, "aux_logits": True} if name in ("inception_v3", "googlenet") else {}
    module = get_model(name, weights=None, **options)
    if hasattr(module, "AuxLogits"):
        module.AuxLogits = None
    head = next((head for head in HEADS if hasattr(module, head)), None)
    if head is None:
        raise UserError(f"torchvision's {name} is no classifier; name one, e.g. torchvision:inception_v3")
    setattr(module, head, torch.nn.Identity())
    side = SIZES.get(name, 224)
    return module, Preprocess((side, side), resize_mode="squash", **IMAGENET)
