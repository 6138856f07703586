"""The shapes of drawn garments: which parts, seams, buttons and landmarks a category, a cut and a sleeve have.

Coordinates are the garment's own, see `outlines`.

    shape({"category": "dress", "sleeve": "short sleeve", "neckline": "crew", "length": "midi", "fit": "tight"})
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fclip.catalogue.outlines import Garment, Part, Points, path, symmetric

WIDTH = {"tight": 0.84, "conventional": 1.0, "loose": 1.28}
PINCH = {"tight": 0.80, "conventional": 0.95, "loose": 1.06}
FULLNESS = {"tight": 0.64, "conventional": 1.0, "loose": 1.62}
NECK = {"crew": 0.19, "v-shaped": 0.20, "square": 0.25, "high": 0.15, "collared": 0.16}
TOP_LENGTH = {"t-shirt": 1.28, "shirt": 1.42, "sweater": 1.30, "jacket": 1.40}
DRESS_LENGTH = {"mini": 1.55, "midi": 2.15, "maxi": 2.90}
SKIRT_LENGTH = {"mini": 0.72, "midi": 1.30, "maxi": 2.05}
ARM_LENGTH = {"long sleeve": 1.18, "short sleeve": 0.42}


def shape(attributes: Mapping[str, str | None], arm_deg: float = 24.0) -> Garment:
    """The garment of these attributes (all that apply to its category must be set).

    Args:
        attributes: category, sleeve, neckline, length, fit.
        arm_deg: angle of the sleeves from the vertical.
    """
    a = {group: value or "" for group, value in attributes.items()}
    if a["category"] == "skirt":
        return _skirt(a["length"], a["fit"])
    if a["category"] in ("trousers", "shorts"):
        return _legs(a["category"], a["fit"])
    return _upper(a, arm_deg)


def _upper(a: dict[str, str], arm_deg: float) -> Garment:
    g, category, fit, sleeve = Garment(), a["category"], a["fit"], a["sleeve"]
    bulk = 1.1 if category in ("jacket", "sweater") else 1.0
    chest = 0.46 * WIDTH[fit] * bulk
    shoulder = 0.345 if sleeve == "sleeveless" else 0.45 * bulk * {"tight": 0.93, "loose": 1.1}.get(fit, 1.0)
    pit = 0.50 if fit == "loose" else 0.46
    neck, front = _neckline(a["neckline"], category)
    side = [(neck, 0.0), (shoulder, 0.09), (min(shoulder, chest) - 0.07, 0.3, chest, pit)]
    if category == "dress":
        bottom, hem = _dress_side(side, a["length"], fit, chest, g)
    else:
        bottom, hem = TOP_LENGTH[category] + 0.07 * (fit == "loose"), chest * {"tight": 0.9}.get(fit, 1.03)
        waist = chest * PINCH[fit]
        side += [(waist, pit + 0.12, waist, 0.85), (waist, 1.0, hem, bottom)]
    drop = 0.13 if category == "shirt" else 0.03
    tail = [(hem, bottom), (hem * 0.75, bottom + drop, 0.0, bottom + drop)]
    body = symmetric(np.concatenate([front, path(*side), path(*tail)]))
    g.parts.append(Part(symmetric(np.concatenate([path((0, 0.03), (neck * 0.7, 0.03, neck, 0)), front[::-1]])), 0.55))
    if sleeve != "sleeveless":
        _sleeves(g, category, fit, sleeve, np.array([shoulder, 0.09]), np.array([chest, pit]), arm_deg)
    else:
        g.pair("sleeve", (shoulder + chest) / 2 - 0.05, 0.32)
        g.line("stitch", (shoulder - 0.05, 0.1), (min(shoulder, chest) - 0.12, 0.31, chest - 0.03, pit + 0.05))
    g.parts.append(Part(body))
    g.pair("collar", neck, 0.0)
    g.pair("hem", hem, bottom)
    g.lining = symmetric(
        path((0, 0.42), (chest * 0.72, 0.36), (chest * 0.86, 0.8), (chest * 0.9, bottom * 0.78), (0, bottom * 0.8))
    )
    _upper_details(g, a, neck, front, hem, bottom, chest)
    g.emblem = (0.0, 0.78 if a["neckline"] == "v-shaped" else 0.66, min(0.3, chest * 0.62))
    return g


def _neckline(neckline: str, category: str) -> tuple[float, Points]:
    """Half the neck's width, and the front neckline from its middle to the right neck point."""
    neck = NECK[neckline]
    deep = {"v-shaped": 0.5, "square": 0.33, "high": 0.06, "collared": 0.66 if category == "jacket" else 0.16}
    y = deep.get(neckline, 0.19)
    if neckline == "square":
        return neck, path((0, y), (neck - 0.03, y), (neck, 0))
    if neckline in ("v-shaped", "collared"):
        return neck, path((0, y), (neck, 0))
    return neck, path((0, y), (neck * 0.9, y, neck, 0))


def _dress_side(side: list, length: str, fit: str, chest: float, g: Garment) -> tuple[float, float]:
    """Continues the right side of a dress to its hem; returns the hem's height and half width."""
    bottom, level = DRESS_LENGTH[length], 0.92
    waist = {"tight": 0.31, "conventional": 0.37, "loose": chest * 0.98}[fit]
    flare = {"tight": 0.04, "conventional": 0.27, "loose": 0.22}[fit] * (bottom - level)
    hem = waist + flare + (0.1 if fit == "tight" else 0.06)
    side.append((waist, 0.66, waist, level))
    if fit == "tight":
        side += [(waist + 0.01, level + 0.12, 0.41, level + 0.38), (0.43, level + 0.5, hem, bottom)]
    else:
        side.append((waist + 0.04 + flare * 0.25, level + 0.35 * (bottom - level), hem, bottom))
    g.pair("waistline", waist, level)
    if fit != "loose":
        g.line("seam", (0, level + 0.03), (waist * 0.6, level + 0.03, waist, level))
        g.line("seam", (0, level + 0.10), (waist * 0.6, level + 0.10, waist + 0.01, level + 0.07))
    for part in (0.3, 0.66) if fit != "tight" else ():
        g.line("fold", (waist * part, level + 0.18), (waist * part + 0.02, level + 0.5, hem * part, bottom))
    return bottom, hem


def _sleeves(g: Garment, category: str, fit: str, sleeve: str, top: Points, pit: Points, arm_deg: float) -> None:
    angle = np.radians(arm_deg + (14 if sleeve == "short sleeve" else 0))
    along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
    width = FULLNESS[fit] * (0.23 if sleeve == "long sleeve" else 0.37)
    outer = top + along * ARM_LENGTH[sleeve] + across * 0.03
    inner = outer - across * width
    if sleeve == "short sleeve":  # never longer than the way down from the arm pit
        inner = np.maximum(inner, [pit[0] * 0.9, pit[1] + 0.06])
    bend = top + along * 0.3 + across * 0.09
    back = (inner + pit) / 2 + across * (0.03 if fit != "loose" else -0.08)
    g.twice(
        path(tuple(top - [0.1, 0.02]), tuple(top), (*bend, *outer), tuple(inner), (*back, *pit), tuple(pit - [0.12, 0]))
    )
    g.pair("sleeve", *((outer + inner) / 2))
    cuff = 0.13 if category in ("sweater", "jacket") or (category == "shirt" and sleeve == "long sleeve") else 0.05
    a = outer + (bend - outer) * cuff / np.linalg.norm(bend - outer)
    b = inner + (back - inner) * cuff / np.linalg.norm(back - inner)
    if cuff > 0.1:
        g.twice(np.array([a, outer, inner, b]), 0.84 if category != "shirt" else 1.05)
        _ribs(g, category, a, b, outer, inner)
    else:
        g.line("stitch", tuple(a), tuple(b))
    if sleeve == "long sleeve":
        elbow = (top + outer) / 2 - across * width * 0.3
        g.line("fold", tuple(elbow), tuple(elbow - across * width * 0.8 - along * 0.06))


def _ribs(g: Garment, category: str, a: Points, b: Points, c: Points, d: Points) -> None:
    """Knitted ribs of a sweater's band, from the edge a-b to the edge c-d."""
    for t in np.linspace(0.12, 0.88, max(3, int(np.linalg.norm(a - b) / 0.055))) if category == "sweater" else ():
        g.line("rib", tuple(a + t * (b - a)), tuple(c + t * (d - c)))


def _upper_details(
    g: Garment, a: dict[str, str], neck: float, front: Points, hem: float, bottom: float, chest: float
) -> None:
    category, neckline = a["category"], a["neckline"]
    y = float(front[0, 1])
    if category == "sweater" or (category == "jacket" and neckline != "collared"):
        band = symmetric(path((0, bottom - 0.13), (hem, bottom - 0.14), (hem * 0.96, bottom), (0, bottom + 0.02)))
        g.parts.append(Part(band, 0.84))
        _ribs(
            g,
            category,
            np.array([0, bottom - 0.13]),
            np.array([hem, bottom - 0.13]),
            np.array([0, bottom]),
            np.array([hem * 0.96, bottom]),
        )
    elif category == "t-shirt":
        g.line("stitch", (0, bottom - 0.05), (hem, bottom - 0.06))
    if category == "jacket":
        g.line("zip" if neckline != "collared" else "seam", (0, y), (0, bottom + 0.02), both=False)
        g.line("seam", (chest * 0.40, 0.93), (chest * 0.72, 1.12))
        g.line("stitch", (chest * 0.46, 0.91), (chest * 0.78, 1.10))
        if neckline == "collared":
            g.buttons += [(0.05, y + 0.1), (0.05, y + 0.34)]
    if category == "shirt" or (category in ("dress", "t-shirt", "sweater") and neckline == "collared"):
        stop = {"shirt": bottom + 0.12, "dress": 0.9}.get(category, 0.48)
        g.line("seam", (0.045, y), (0.045, stop))
        g.buttons += [(0.0, b) for b in np.arange(y + 0.08, stop - 0.04, 0.17)]
    if category == "shirt":
        x = chest * 0.55
        g.line(
            "seam",
            (x - 0.1, 0.5),
            (x + 0.1, 0.5),
            (x + 0.1, 0.68),
            (x, 0.74),
            (x - 0.1, 0.68),
            (x - 0.1, 0.5),
            both=False,
        )
    _collar(g, category, neckline, neck, front)


def _collar(g: Garment, category: str, neckline: str, neck: float, front: Points) -> None:
    if neckline == "high":
        tube = path((0, -0.2), (neck * 0.9, -0.21), (neck + 0.03, 0.03), (neck * 0.7, 0.09, 0, 0.09))
        g.parts += [Part(symmetric(tube), 0.93)]
        g.line("seam", (0, -0.06), (neck * 0.7, -0.06, neck * 0.96, -0.09))
        g.pair("collar", neck * 0.9, -0.2)
        _ribs(g, category, np.array([0, -0.05]), np.array([neck, -0.08]), np.array([0, 0.08]), np.array([neck, 0.02]))
    elif neckline == "collared":
        y = float(front[0, 1])
        g.parts.append(Part(symmetric(path((0, -0.09), (0.12, -0.10), (neck, 0.0), (0, 0.06))), 0.7))
        lapel = [(0.27, 0.20), (0.20, 0.25), (0.31, 0.29)] if category == "jacket" else [(0.20, 0.27)]
        g.twice(path((0, y), (0.12, -0.10), (neck + 0.05, 0.01), *lapel), 1.1 if category != "jacket" else 0.9)
    else:
        wide = 0.06 if category in ("sweater", "t-shirt") else 0.04
        centre = np.array([0, -0.05])
        away = front - centre
        band = front + wide * away / np.linalg.norm(away, axis=1, keepdims=True)
        outline = np.concatenate([front, band[::-1]])
        g.twice(outline, 0.84 if category in ("sweater", "jacket") else 1.08)


def _skirt(length: str, fit: str) -> Garment:
    g, bottom, waist = Garment(), SKIRT_LENGTH[length], 0.34
    hip = {"tight": 0.42, "conventional": 0.44, "loose": 0.50}[fit]
    hem = {"tight": 0.40 - 0.03 * bottom, "conventional": 0.46 + 0.14 * bottom, "loose": 0.60 + 0.30 * bottom}[fit]
    right = path((0, 0.02), (waist, 0), (hip * 0.98, 0.14, hip, 0.36), (hip + (hem - hip) * 0.3, 0.5, hem, bottom))
    g.parts.append(
        Part(symmetric(np.concatenate([right, path((hem, bottom), (hem * 0.6, bottom + 0.06, 0, bottom + 0.06))])))
    )
    g.parts.append(Part(symmetric(path((0, 0.02), (waist, 0), (waist + 0.035, 0.12), (0, 0.15))), 1.07))
    folds = {"tight": (), "conventional": (0.33, 0.72), "loose": (0.0, 0.25, 0.5, 0.78)}[fit]
    for part in folds:
        g.line("fold", (waist * part, 0.2), (hip * part, 0.4, hem * part, bottom + 0.03), both=part > 0)
    if fit == "tight":
        g.line("seam", (0.13, 0.14), (0.15, 0.34))
    g.line("stitch", (0, bottom), (hem * 0.6, bottom - 0.0, hem - 0.01, bottom - 0.06))
    g.buttons.append((0.0, 0.085))
    g.lining = symmetric(
        path((0, 0.05), (waist, 0.1), (hip * 0.9, 0.3), (hip * 0.88, bottom * 0.62), (0, bottom * 0.65))
    )
    g.pair("waistline", waist, 0.0)
    g.pair("hem", hem, bottom)
    g.emblem = (0.0, max(0.42, bottom * 0.52), 0.22)
    return g


def _legs(category: str, fit: str) -> Garment:
    g, waist, crotch = Garment(), 0.35, 0.72
    bottom = 2.15 if category == "trousers" else 1.10
    hip = {"tight": 0.41, "conventional": 0.45, "loose": 0.53}[fit]
    knee = {"tight": 0.24, "conventional": 0.32, "loose": 0.46}[fit]  # the leg's width at the hem of the shorts
    ankle = {"tight": 0.16, "conventional": 0.27, "loose": 0.48}[fit] if category == "trousers" else knee
    spread = {"tight": 0.09, "conventional": 0.07, "loose": 0.04}[fit]
    inner, outer = spread, spread + ankle
    if category == "shorts":
        inner, outer = 0.05, max(0.05 + knee, hip + 0.02)
    right = path((0, 0.02), (waist, 0), (hip, 0.15, hip, 0.45), (max(hip, outer) - 0.03, 1.0, outer, bottom))
    leg = path((outer, bottom), (inner, bottom + 0.02), (0.05, 1.1, 0.0, crotch))
    g.parts.append(Part(symmetric(np.concatenate([right, leg]))))
    g.parts.append(Part(symmetric(path((0, 0.02), (waist, 0), (waist + 0.02, 0.11), (0, 0.14))), 1.07))
    for x in (0.12, 0.26):
        g.line("seam", (x, 0.0), (x, 0.15))
    g.line("seam", (0, 0.13), (0, crotch), both=False)
    g.line("stitch", (0.07, 0.14), (0.08, 0.42, 0.0, 0.46), both=False)
    g.line("stitch", (waist * 0.55, 0.13), (waist * 0.62, 0.3, hip - 0.02, 0.34))
    g.line("stitch", (inner + 0.01, bottom - 0.07), (outer - 0.01, bottom - 0.09))
    if category == "trousers":
        g.line("fold", (hip * 0.55, 0.55), (hip * 0.56, 1.2, (inner + outer) / 2, bottom - 0.12))
    g.line("fold", (0.04, crotch - 0.02), (0.12, crotch - 0.05, 0.22, crotch - 0.14))
    g.buttons.append((0.0, 0.08))
    g.lining = symmetric(path((0, 0.05), (waist, 0.1), (hip * 0.9, 0.4), (hip * 0.85, crotch + 0.16), (0, crotch)))
    g.pair("waistline", waist, 0.0)
    g.pair("hem", (inner + outer) / 2, bottom)
    g.emblem = (hip * 0.52, 0.62, 0.15)
    return g
