"""Self-contained pages: templates, and pictures that are inside the page.

    page = render("report.html.j2", title="…", tables=tables)

`templates/base.html.j2` has the style, light and dark; a page extends it. `templates/macros.html.j2` shows a
`eval.report.Table`. Nothing is loaded from anywhere when the page is opened.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

TEMPLATES = Path(__file__).parent / "templates"
THEMES = {"light": ("#ffffff", "#1b1b1e", "#dcdce1"), "dark": ("#17171a", "#ececf0", "#3d3d45")}  # ground, ink, lines


def render(template: str, *folders: Path, **values: Any) -> str:
    """A page from a template of ours, or of further folders; what it names must be given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader([*folders, TEMPLATES])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def data_uri(data: bytes, kind: str = "png") -> str:
    """A picture's bytes as the address of itself."""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def png_uri(picture: Image) -> str:
    """A picture, without loss."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return data_uri(stream.getvalue())


def small_jpeg_uri(source: Any, side_px: int = 200) -> str:
    """A catalogue's picture, its longer side at most `side_px`.

    Raises:
        UnreadableImageError: it cannot be decoded.
    """
    from fclip.images import decode

    picture = decode(source, side_px)
    picture.thumbnail((side_px, side_px))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80, optimize=True)
    return data_uri(stream.getvalue(), "jpeg")


def figure_uris(draw: Callable[[], Figure], dpi: int = 110) -> Mapping[str, str]:
    """A figure for light and for dark pages: {"light": address, "dark": address}.

    Args:
        draw: makes the figure; called once for each, with matplotlib's colours set.
    """
    from matplotlib import rc_context

    made = {}
    for theme, (ground, ink, lines) in THEMES.items():
        colours: dict[Any, str] = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
        colours |= dict.fromkeys(
            ("axes.facecolor", "figure.facecolor", "savefig.facecolor", "legend.facecolor"), ground
        )
        colours |= dict.fromkeys(("axes.edgecolor", "grid.color"), lines)
        with rc_context(colours):
            stream = io.BytesIO()
            draw().savefig(stream, format="png", dpi=dpi)
        made[theme] = data_uri(stream.getvalue())
    return made
