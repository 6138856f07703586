"""Published models by name: what `model.name`, `--checkpoint` and `fclip models` know.

    accelerate launch -m experiments.train experiments/presets/fclip.yaml model.name=marqo-fashionsiglip
    python -m eval surfacing --checkpoint clip-vit-b-32 --catalogue garments

Licences are of the weights, as their pages state them; "see its page" where no page was read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["transformers", "open_clip tag", "open_clip hub", "file"]


@dataclass(frozen=True)
class Published:
    """One model that others published.

    Attributes:
        what: the model in a few words.
        form: transformers and open_clip hub: a folder on the hub; open_clip tag: one of its own names for weights;
            file: to be downloaded by hand and given as `model.weights`.
        architecture: open_clip's name; a file given as `model.weights` is loaded into it.
        source: owner/name on the hub, the tag, or the file's address.
        licence: of the weights.
        millions: of parameters; as float32, four bytes each.
    """

    what: str
    form: Form
    architecture: str
    source: str
    licence: str
    millions: int

    @property
    def where(self) -> str:
        """Where the weights come from, for a table."""
        return f"open_clip {self.architecture} {self.source}" if self.form == "open_clip tag" else self.source


PUBLISHED: dict[str, Published] = {
    "clip-vit-b-32": Published(
        "CLIP ViT-B/32, the paper's baseline", "open_clip tag", "ViT-B-32-quickgelu", "openai", "MIT", 151
    ),
    "clip-rn50": Published("CLIP ResNet-50", "open_clip tag", "RN50-quickgelu", "openai", "MIT", 102),
    "siglip": Published("SigLIP ViT-B/16", "open_clip tag", "ViT-B-16-SigLIP", "webli", "Apache-2.0", 203),
    "fashionclip": Published(
        "FashionCLIP 2.0, ViT-B/32", "transformers", "ViT-B-32-quickgelu", "patrickjohncyh/fashion-clip", "MIT", 151
    ),
    "marqo-fashionclip": Published(
        "Marqo-FashionCLIP, ViT-B/16", "open_clip hub", "ViT-B-16", "Marqo/marqo-fashionCLIP", "Apache-2.0", 150
    ),
    "marqo-fashionsiglip": Published(
        "Marqo-FashionSigLIP, ViT-B/16",
        "open_clip hub",
        "ViT-B-16-SigLIP",
        "Marqo/marqo-fashionSigLIP",
        "Apache-2.0",
        203,
    ),
    "openfashionclip": Published(  # its quick start loads the key "CLIP" into ViT-B-32 with plain GELU
        "OpenFashionCLIP, ViT-B/32",
        "file",
        "ViT-B-32",
        "https://github.com/aimagelab/open-fashion-clip/releases/download/open-fashion-clip/finetuned_clip.pt",
        "CC BY-NC 4.0",
        151,
    ),
    "siglip2": Published(  # Google's originals say Apache-2.0; the page of this conversion was not read
        "SigLIP 2 ViT-B/16", "open_clip tag", "ViT-B-16-SigLIP2", "webli", "see its page", 375
    ),
    "mobileclip2": Published(  # the licence in apple/MobileCLIP2-S3: scientific research only
        "MobileCLIP2-S0", "open_clip tag", "MobileCLIP2-S0", "dfndr2b", "Apple, research only; see its page", 75
    ),
}
