"""The report's figures: embeddings in two dimensions coloured by an attribute, and accuracy by frequency in training.

    figure = scatter(clouds, "PCA")

A point's place comes from PCA, or from UMAP where `umap-learn` is installed and from scikit-learn's t-SNE where it is
not. Pictures and captions are laid out together, so that also the gap between them is drawn. In UMAP and t-SNE only
neighbourhoods mean something: not sizes, not distances between groups.

Sources: McInnes, Healy & Melville, UMAP, 2018; van der Maaten & Hinton, Visualizing data using t-SNE, 2008; Wattenberg,
Viégas & Johnson, How to use t-SNE effectively, 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.figures import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eval.insight import Bin, ValueScore

HUES = tuple(colour for colour in COLOURS if colour != "#000000")  # black is invisible on a dark page
GREY = "#8a8a94"
FEWEST = 8
"""Points that a layout of neighbourhoods needs to mean anything."""


@dataclass(frozen=True)
class Layout:
    """Two dimensions of pictures and captions."""

    method: str
    images: NDArray[Any]  # (n, 2)
    texts: NDArray[Any]  # (m, 2)


def linear_layout(images: NDArray[Any], texts: NDArray[Any]) -> Layout:
    """PCA of both together."""
    from sklearn.decomposition import PCA

    flat = PCA(2, svd_solver="full").fit_transform(np.concatenate([images, texts]).astype(np.float64))
    return Layout("PCA", flat[: len(images)], flat[len(images) :])


def neighbour_layout(images: NDArray[Any], texts: NDArray[Any], seed: int = 0) -> Layout | None:
    """UMAP of both together by cosine, t-SNE without umap-learn; None for too few points."""
    together = np.concatenate([images, texts]).astype(np.float32)
    if len(together) < FEWEST:
        return None
    try:
        from umap import UMAP
    except ImportError:
        from sklearn.manifold import TSNE

        method, perplexity = "t-SNE", min(30.0, (len(together) - 1) / 3)
        flat = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=seed).fit_transform(together)
    else:
        near = min(15, len(together) - 1)
        umap = UMAP(n_neighbors=near, metric="cosine", init="random", random_state=seed, n_jobs=1)
        method, flat = "UMAP", umap.fit_transform(together)
    return Layout(method, flat[: len(images)], flat[len(images) :])


def scatter(layout: Layout, images: Sequence[str], texts: Sequence[str], group: str) -> Figure:
    """Pictures as dots and captions as crosses, coloured by their value of a group.

    Args:
        images: (n,) values; texts: (m,). The commonest six have a colour, the others are grey.
    """
    figure, axes = _axes(5.6, 6.0)
    shown = _commonest(images, len(HUES))
    for place, value in enumerate([*shown, None]):
        colour = GREY if value is None else HUES[place]
        kinds = ((layout.images, images, "o", 14, 0.75), (layout.texts, texts, "x", 26, 0.9))
        for points, values, marker, size, alpha in kinds:
            mine = np.array([v == value if value is not None else v not in shown for v in values], bool)
            label = None if marker == "x" or not mine.any() else value or "other"
            axes.scatter(*points[mine].T, s=size, alpha=alpha, marker=marker, color=colour, linewidths=1, label=label)
    axes.set_title(f"{layout.method}, coloured by {group}: ● pictures, × captions", fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, frameon=False, fontsize=9)
    return figure


def frequency_figure(values: Sequence[ValueScore], bins: Sequence[Bin]) -> Figure:
    """Of each value how often it was found against how often training saw it; the bins' shares as lines.

    Args:
        values, bins: of `eval.insight.by_value` and `long_tail`.
    """
    figure, axes = _axes(8, 4.2)
    for place, group in enumerate(dict.fromkeys(value.group for value in values)):
        rows = [value for value in values if value.group == group]
        sizes = [12 + 6 * math.sqrt(row.known) for row in rows]
        look: dict[str, Any] = {"color": HUES[place % len(HUES)], "marker": MARKERS[place % len(MARKERS)]}
        places = [max(row.trained, 0.5) for row in rows], [row.found for row in rows]
        axes.scatter(*places, s=sizes, alpha=0.6, label=group, **look)
    lines = [(b.score["value"], max(b.low, 0.4), max(b.high, 0.6)) for b in bins if b.score["value"] is not None]
    axes.hlines(*zip(*lines, strict=True), color=GREY, linewidth=2, label="all values of\nsuch a frequency")
    axes.set(xscale="log", ylim=(-0.04, 1.04), xlabel="training pictures with the value (0 is drawn at ½)")
    axes.set_ylabel("share of its pictures\nwhose nearest caption states it")
    axes.grid(alpha=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _commonest(values: Sequence[str], number: int) -> list[str]:
    from collections import Counter

    return [value for value, _ in Counter(value for value in values if value).most_common(number)]
