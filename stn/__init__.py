"""Spatial transformers (Jaderberg et al., 2015): a small net looks at an image and chooses how to warp it.

    from stn import SpatialTransformer

    look = SpatialTransformer("similarity", in_size=(448, 448), out_size=(224, 224))
    tower = torch.nn.Sequential(look, backbone)   # learns where to look by the backbone's own loss

Needs torch alone. At the start it changes nothing: its output is the resized image.
"""

from stn.localisation import PaperLocalisation, ResidualLocalisation
from stn.transformer import SpatialTransformer
from stn.transforms import FreeAffine, ScaleTranslation, Similarity, ThinPlateSpline
from stn.warp import affine_grid, check_view, coverage, identity_grid, sample

__all__ = [
    "FreeAffine",
    "PaperLocalisation",
    "ResidualLocalisation",
    "ScaleTranslation",
    "Similarity",
    "SpatialTransformer",
    "ThinPlateSpline",
    "affine_grid",
    "check_view",
    "coverage",
    "identity_grid",
    "sample",
]
