"""The paper's figures 5 and 6: the first 50 text and image embeddings of each model in two dimensions.

    python -m eval compare plain.json stn.json --figure pca.png

One panel for texts, one for images; one colour and marker per model, the same axes for all. The legend tells the mean
embedding radius: the mean distance to the model's own centroid, in the full space, not in the plane.

PCA is fitted once on all models' embeddings together when they have the same number of dimensions, so that also the
distance between models is drawn. When dimensions differ there is no common space: PCA is fitted per model, every
cloud is centred on the origin, and only their extents can be compared; the panel's title says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fclip.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
)  # Okabe & Ito: colour-blind safe
MARKERS = "osD^vPX*"


def radius(vectors: NDArray[Any]) -> float:
    """Mean distance of (n, D) vectors to their centroid."""
    return float(np.linalg.norm(vectors - vectors.mean(0), axis=1).mean())


def project(clouds: Sequence[NDArray[Any]]) -> tuple[list[NDArray[np.float64]], bool]:
    """Two dimensions per cloud by PCA.

    Args:
        clouds: one (n, D) per model; n may differ, D too.

    Returns: one (n, 2) per model, and whether they share one PCA.
    """
    from sklearn.decomposition import PCA

    if len({cloud.shape[1] for cloud in clouds}) > 1:
        return [PCA(2, svd_solver="full").fit_transform(cloud) for cloud in clouds], False
    together = PCA(2, svd_solver="full").fit(np.concatenate(clouds))
    return [together.transform(cloud) for cloud in clouds], True


def draw(named: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Writes the picture of the embeddings of several models.

    Args:
        named: model's name → a result's `first`: image and text embeddings, each (n, D).
        path: the picture; its ending chooses the format (png, pdf, svg).

    Raises:
        UserError: fewer than two datapoints, or a format that cannot be written.
    """
    figure = embeddings_figure(named)
    if (ending := Path(path).suffix.lstrip(".").lower()) not in figure.canvas.get_supported_filetypes():
        raise UserError(f"cannot draw a {ending or 'nameless'!r} picture: {path}; name it .png, .pdf or .svg")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from None


def embeddings_figure(named: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The figure itself; argument and error as `draw`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if any(len(first["text"]) < 2 for first in named.values()):
        raise UserError("a figure needs two datapoints of every model, got fewer; evaluate more pictures")
    figure = Figure(figsize=(12, 5.6 + 0.25 * len(named)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, 2), ("text", "image"), strict=True):
        _panel(axes, {name: np.asarray(first[kind], np.float64) for name, first in named.items()}, kind)
    return figure


def _panel(axes: Any, clouds: Mapping[str, NDArray[np.float64]], kind: str) -> None:
    points, shared = project(list(clouds.values()))
    for i, (name, flat) in enumerate(zip(clouds, points, strict=True)):
        text = f"{name} (radius {radius(clouds[name]):.3f})"
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axes.scatter(*flat.T, s=34, alpha=0.75, linewidths=0.4, edgecolors="white", label=text, **look)
    axes.set_title(f"{kind} embeddings, first {max(map(len, points))}" + ("" if shared else ": one PCA per model"))
    axes.set_xlabel("principal component 1")
    axes.set_ylabel("principal component 2")
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)
