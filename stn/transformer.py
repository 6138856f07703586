"""The spatial transformer: localisation net, transform, sampler (Jaderberg et al., 2015, figure 2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.localisation import PaperLocalisation, ResidualLocalisation
from stn.transforms import FreeAffine, ScaleTranslation, Similarity, ThinPlateSpline
from stn.warp import PADDINGS, Size, check_view, levels_needed, sample

LOCALISATIONS = {"paper": PaperLocalisation, "residual": ResidualLocalisation}


class SpatialTransformer(nn.Module):
    """Images (B, C, H, W) → what is worth looking at in them (B, C, h, w).

    Args:
        transform: affine, similarity, scale_translation or tps.
        in_size: (H, W) of the images; larger than the output to look closer without losing detail.
        out_size: (h, w) of what comes out; None: as in_size.
        localisation: paper or residual.
        look_at: side in pixels of the small copy that the localisation net sees.
        channels: of the images.
        shift, zoom, angle_deg, bend, points: bounds, as in `stn.transforms`.
        antialias: blur before sampling where the output is coarser than the image.
        padding: what lies outside of the image: border, zeros or reflection.

    Raises:
        ValueError: an unknown name, a bound that lets the view leave the image, or sizes that do not fit.
    """

    def __init__(
        self,
        transform: str = "affine",
        in_size: Size = (224, 224),
        out_size: Size | None = None,
        localisation: str = "paper",
        look_at: int = 64,
        *,
        channels: int = 3,
        shift: float = 0.5,
        zoom: float = 2.0,
        angle_deg: float = 45.0,
        bend: float = 0.25,
        points: int = 4,
        antialias: bool = True,
        padding: str = "border",
    ) -> None:
        super().__init__()
        in_size, out_size = _checked_size("in_size", in_size), _checked_size("out_size", out_size or in_size)
        if min(in_size) < look_at:
            raise ValueError(f"expected in_size of at least look_at ({look_at} pixels) a side, got {_by(in_size)}")
        if padding not in PADDINGS:
            raise ValueError(f"expected padding to be one of {', '.join(PADDINGS)}, got {padding!r}")
        families = {
            "affine": lambda: FreeAffine(bend, shift),
            "similarity": lambda: Similarity(shift, zoom, angle_deg),
            "scale_translation": lambda: ScaleTranslation(shift, zoom),
            "tps": lambda: ThinPlateSpline(out_size, points, bend),
        }
        self.in_size, self.out_size = in_size, out_size
        self.look_at, self.padding = look_at, padding
        self.transform = _choose(families, transform, "transform")()
        self.localisation = _choose(LOCALISATIONS, localisation, "localisation")(
            look_at, self.transform.inputs, channels
        )
        self.levels = levels_needed(self.in_size, self.out_size, self.transform.zoom_out) if antialias else 0

    def grid(self, image: Tensor) -> Tensor:
        """Where it looks: (B, h, w, 2), float32 whatever the autocast; the coordinates are in `stn.warp`.

        Raises:
            ValueError: an image smaller than what the localisation net sees.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.look_at:
            raise ValueError(
                f"expected images of at least {self.look_at} pixels a side (look_at), got {height}x{width}; "
                "enlarge them, or make the transformer with a smaller look_at"
            )
        exact = image.to(torch.promote_types(image.dtype, torch.float32))  # bfloat16 cannot be antialiased
        small = F.interpolate(exact, (self.look_at, self.look_at), mode="bilinear", align_corners=False, antialias=True)
        raw = self.localisation(small.to(image.dtype))
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return self.transform(raw, self.out_size, width / height)

    def forward(self, image: Tensor) -> Tensor:
        """Looks at each image where its localisation net says.

        Raises:
            ValueError: as `grid`; when evaluating also a grid that is not finite, which in training the loss shows.
        """
        grid = self.grid(image)
        if not (self.training or torch.compiler.is_compiling()):
            check_view(grid)
        return sample(image, grid, self.levels, self.padding)


def _checked_size(name: str, size: Size) -> Size:
    if len(size) != 2 or min(size) < 2:
        raise ValueError(f"expected {name} as (height, width) of at least 2 pixels each, got {tuple(size)}")
    return size[0], size[1]


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _choose(known: dict[str, Any], name: str, what: str) -> Any:
    if name not in known:
        raise ValueError(f"expected {what} to be one of {', '.join(known)}, got {name!r}")
    return known[name]
