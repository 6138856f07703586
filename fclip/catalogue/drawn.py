"""The embedded data set: drawn garments with exact attributes, boxes and landmarks; nothing to download.

Every picture is a flat illustration of one garment in a random pose before a random background. It is meant for tries,
tests and controlled experiments (a known pose, a known attribute), not as a stand-in for photographs.

    draw_catalogue(items=1000, views=2)[0]["attributes"]
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fclip.catalogue import fabrics
from fclip.catalogue.garments import shape
from fclip.catalogue.outlines import Garment
from fclip.catalogue.schema import features, split_of
from fclip.catalogue.tailor import Place, light, sew, texture
from fclip.errors import UserError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

GROUPS: dict[str, tuple[str, ...]] = {
    "category": ("t-shirt", "shirt", "sweater", "jacket", "dress", "skirt", "trousers", "shorts"),
    "colour": tuple(fabrics.COLOURS),
    "pattern": ("solid", "striped", "checked", "dotted", "floral", "graphic"),
    "sleeve": ("long sleeve", "short sleeve", "sleeveless"),
    "neckline": ("crew", "v-shaped", "square", "high", "collared"),
    "length": ("mini", "midi", "maxi"),
    "fabric": ("cotton", "denim", "knit", "leather", "chiffon"),
    "fit": ("tight", "conventional", "loose"),
}
OPTIONAL = ("category", "bbox", "landmarks", "view")
VIEWS = ("front", "styled")
"""Names of the first views; further ones are styled2, styled3, …"""

_UPPER = ("t-shirt", "shirt", "sweater", "jacket", "dress")
_ONLY_FOR = {"sleeve": _UPPER, "neckline": _UPPER, "length": ("dress", "skirt")}
# Weights in the order of GROUPS. A catalogue is skewed (many t-shirts) and correlated (denim is mostly trousers).
_CATEGORY = (17, 14, 13, 12, 17, 11, 9, 7)
_COLOUR = (14, 12, 8, 10, 6, 7, 8, 13, 7, 8, 7)
_PATTERN = (30, 16, 13, 12, 14, 12)
_SLEEVE = {"t-shirt": (12, 68, 20), "shirt": (60, 30, 10), "jacket": (86, 7, 7), "dress": (28, 36, 36)}
_NECKLINE = {"t-shirt": (42, 28, 18, 0, 12), "shirt": (0, 18, 0, 17, 65), "sweater": (34, 28, 5, 28, 5)}
_NECKLINE |= {"jacket": (18, 14, 0, 26, 42), "dress": (26, 27, 26, 9, 12)}
_LENGTH = (36, 34, 30)
_FIT = (29, 42, 29)
_FABRIC = {"t-shirt": (66, 0, 17, 0, 17), "shirt": (46, 18, 0, 4, 32), "sweater": (18, 0, 82, 0, 0)}
_FABRIC |= {"jacket": (16, 36, 9, 39, 0), "dress": (33, 9, 17, 9, 32), "skirt": (18, 29, 10, 22, 21)}
_FABRIC |= {"trousers": (30, 40, 6, 20, 4), "shorts": (35, 43, 3, 12, 7)}
_LIKES = {  # how much more often than by chance
    ("denim", "blue"): 3.5, ("denim", "black"): 1.4, ("leather", "black"): 2.5, ("leather", "brown"): 2.5,
    ("denim", "solid"): 1.6, ("leather", "solid"): 2.0, ("chiffon", "floral"): 2.0, ("chiffon", "dotted"): 1.5,
    ("t-shirt", "graphic"): 2.2, ("shirt", "checked"): 1.8, ("shirt", "striped"): 1.5, ("dress", "floral"): 1.5,
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A picture and what is known of it.

    Attributes:
        image: RGB.
        bbox: x1, y1, x2, y2 in pixels, tight on the garment (x2 and y2 exclusive).
        landmarks: (name, x, y, visible) in pixels, DeepFashion's names; visible is False outside the picture.
    """

    image: Image.Image
    bbox: tuple[int, int, int, int]
    landmarks: tuple[tuple[str, float, float, bool], ...]


def applies(group: str, category: str) -> bool:
    """Whether a category has this attribute at all: skirts have no sleeve, tops no length."""
    return category in _ONLY_FOR.get(group, GROUPS["category"])


def sample_attributes(rng: np.random.Generator) -> dict[str, str | None]:
    """Random attributes that make sense together; groups that do not apply are None."""
    category = _pick(rng, "category", _CATEGORY)
    chosen: dict[str, str | None] = dict.fromkeys(GROUPS) | {"category": category}
    fabric = _pick(rng, "fabric", _FABRIC[category])
    chosen["fabric"], likes = fabric, (category, fabric)
    chosen["colour"] = _pick(rng, "colour", _COLOUR, likes)
    chosen["pattern"] = _pick(rng, "pattern", _PATTERN, likes)
    if category in _UPPER:
        chosen["sleeve"] = _pick(rng, "sleeve", _SLEEVE.get(category, (80, 10, 10)))
        chosen["neckline"] = _pick(rng, "neckline", _NECKLINE[category])
    if applies("length", category):
        chosen["length"] = _pick(rng, "length", _LENGTH)
    return chosen | {"fit": _pick(rng, "fit", _FIT)}


def _pick(rng: np.random.Generator, group: str, weights: tuple[int, ...], likes: tuple[str, ...] = ()) -> str:
    values = GROUPS[group]
    p = np.array(
        [w * np.prod([_LIKES.get((like, v), 1.0) for like in likes]) for w, v in zip(weights, values, strict=True)]
    )
    return values[int(rng.choice(len(values), p=p / p.sum()))]


def complete(attributes: Mapping[str, str | None]) -> dict[str, str | None]:
    """All groups: what is not given takes the first value that goes with the category.

    Raises:
        UserError: no category, an unknown group or value, or a value for a group that the category does not have.
    """
    for group, value in attributes.items():
        if group not in GROUPS:
            raise UserError(f"no attribute group {group!r} on drawn garments; {nearest(group, GROUPS)}")
        if value is not None and value not in GROUPS[group]:
            raise UserError(f"no {group} {value!r} on drawn garments; {nearest(str(value), GROUPS[group])}")
    category = attributes.get("category")
    if category is None:
        raise UserError(f"expected a category to draw, got none; {nearest('', GROUPS['category'])}")
    for group, value in attributes.items():
        if value is not None and not applies(group, category):
            raise UserError(f"{category} has no {group}, got {value!r}; leave it out or set it to None")
    return {g: (attributes.get(g) or values[0]) if applies(g, category) else None for g, values in GROUPS.items()}


def draw_garment(
    attributes: Mapping[str, str | None], rng: np.random.Generator, size_px: int = 128, pose: float = 1.0
) -> Drawing:
    """Draws one garment.

    Args:
        attributes: group → value as in GROUPS; a group that is missing or None takes the first fitting value.
        rng: source of the product (exact shade, print) and of the view (pose, background, light).
        size_px: sides of the square picture.
        pose: strength of the random shift, scale, rotation, background and light; 0 is centred, upright, plain.

    Raises:
        UserError: unknown or contradictory attributes, size_px < 32, pose < 0.
    """
    _check(size_px, pose)
    product, view = rng.integers(2**63, size=2)
    return _draw(complete(attributes), np.random.default_rng(product), np.random.default_rng(view), size_px, pose)


def _check(size_px: int, pose: float) -> None:
    if size_px < 32:
        raise UserError(f"expected pictures of at least 32 px, got size_px={size_px}; use 64 to 256")
    if not 0 <= pose < float("inf"):
        raise UserError(f"expected a pose strength of 0 (none) or more, got {pose}; 1 is the default")


def _draw(
    attributes: dict[str, str | None],
    product: np.random.Generator,
    view: np.random.Generator,
    size_px: int,
    pose: float,
) -> Drawing:
    """Cuts and sews at twice the size, halves that, and adds texture, light and backdrop."""
    colours = fabrics.dye(str(attributes["colour"]), product)
    garment = shape(attributes, arm_deg=24 + pose * view.uniform(-7, 12))
    box = np.stack([f(np.concatenate([p.outline for p in garment.parts]), axis=0) for f in (np.min, np.max)])
    place = _pose(box, view, size_px, pose)
    # Pose, backdrop and lamp are drawn first, so that they are the same whatever the fabric.
    backdrop, lamp = fabrics.background(colours.base, view, size_px, pose), view.uniform(-1, 1, 6)
    double = Place(2 * place.turn, 2 * place.shift)
    cloth = fabrics.print_cloth(str(attributes["pattern"]), colours, product, double, box, garment.emblem, 2 * size_px)
    image, alpha = (picture.reduce(2) for picture in sew(garment, cloth, colours, str(attributes["fabric"]), double))
    textured = texture(image, attributes, box, place, product, view)
    picture = light(textured, alpha, backdrop, lamp, pose)
    bbox = alpha.point(lambda level: 255 * (level > 48)).getbbox() or (0, 0, 0, 0)
    return Drawing(picture, bbox, tuple(_landmarks(garment, place, size_px)))


def _pose(box: np.ndarray, view: np.random.Generator, size: int, pose: float) -> Place:
    """The garment fills 86 % of the picture; a very short one less, so that mini stays smaller than maxi."""
    extent = box[1] - box[0]
    shrink, angle, dx, dy = view.uniform(0, 0.22), view.normal(), *view.uniform(-1, 1, 2)
    scale = 0.86 * size / max(*extent, 1.15) * (1 - min(shrink * pose, 0.7))
    turn = np.radians(7.0 * pose * np.clip(angle, -2, 2))
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = size / 2 + min(0.06 * pose, 0.4) * size * np.array([dx, dy])  # never quite out of the picture
    return Place(matrix, centre - matrix @ box.mean(axis=0))


def _landmarks(garment: Garment, place: Place, size_px: int) -> Iterator[tuple[str, float, float, bool]]:
    pairs = [(f"left {part}", f"right {part}") for part in ("collar", "sleeve", "waistline", "hem")]
    for name in (name for pair in pairs for name in pair if name in garment.landmarks):
        x, y = place(np.array([garment.landmarks[name]]))[0]
        yield name, float(x), float(y), bool(0 <= x < size_px and 0 <= y < size_px)


def draw_catalogue(
    items: int = 1000, views: int = 2, size_px: int = 128, seed: int = 0, pose: float = 1.0, progress: bool = False
) -> Dataset:
    """A catalogue of drawn garments, in memory, its pictures as JPEG bytes.

    Product n is the same in every catalogue of the same seed, however many products that has. The views of a product
    share its attributes, shade and print and differ in pose, background and light; "front" is the calmest.

    Args:
        items: number of products.
        views: pictures per product.
        size_px: sides of the pictures.
        seed: of the whole catalogue, 0 or more.
        pose: as in `draw_garment`; a front view takes half of it.
        progress: shows a bar.

    Raises:
        UserError: items, views or seed too small, or as `draw_garment`.
    """
    from datasets import Dataset
    from tqdm import tqdm

    for name, value, least in (("items", items, 1), ("views", views, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"expected {name} of at least {least}, got {value}; give a larger number")
    _check(size_px, pose)
    numbers = tqdm(range(items), desc="drawing garments", unit="item", disable=not progress)
    rows = [row for n in numbers for row in _item(n, views, size_px, seed, pose)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Dataset.from_dict(columns, features=features(GROUPS, optional=OPTIONAL))


def _item(number: int, views: int, size_px: int, seed: int, pose: float) -> Iterator[dict[str, Any]]:
    """The rows of one product."""
    item = f"drawn-{number:06d}"
    attributes = sample_attributes(np.random.default_rng([seed, number, 1]))
    for n in range(views):
        view = VIEWS[n] if n < len(VIEWS) else f"{VIEWS[-1]}{n}"
        product, scene = np.random.default_rng([seed, number, 2]), np.random.default_rng([seed, number, 3 + n])
        drawing = _draw(attributes, product, scene, size_px, pose * (0.5 if view == "front" else 1.0))
        yield {
            "id": f"{item}-{view}",
            "item": item,
            "image": {"bytes": _jpeg(drawing.image), "path": None},
            "split": split_of(item),
            "attributes": attributes,
            "category": attributes["category"],
            "bbox": list(drawing.bbox),
            "landmarks": [dict(zip(("name", "x", "y", "visible"), mark, strict=True)) for mark in drawing.landmarks],
            "view": view,
        }


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()
