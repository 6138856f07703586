"""What should not be in the answers: a phrase that candidates lose score for, as far as they are like it.

    scores = fused.scores - fused.deviation * penalties(embed_texts(model, ["stripes"]), vectors, background)

A text tower hardly knows "not": "no stripes" lies beside "stripes". So the phrase is said positively, and a candidate
pays only for what it is more like the phrase than the catalogue's pictures usually are, up to a cap: what is asked for
still decides among those that pay all, and something only faintly like the phrase pays little.

Source: Alhamoud et al., Vision-language models do not understand negation, 2025.
"""

from __future__ import annotations

import numpy as np

from fclip.queries.fusion import Background, Floats, units

WEIGHT = 0.75  # standard deviations of the score for one of the likeness to the phrase
CAP = 1.5  # the most that is paid, in standard deviations of the score


def penalties(avoided: Floats, vectors: Floats, background: Background) -> Floats:
    """What candidates pay, in standard deviations of the score.

    Args:
        avoided: the phrases (A, D), unit; of several the one that a candidate is most like counts.
        vectors: of the candidates (N, D), unit.
        background: of the catalogue.

    Returns: (N,), 0 … CAP.
    """
    if not len(avoided):
        return np.zeros(len(vectors), np.float32)
    mean, deviation = background.spread(avoided)
    excess = (avoided @ vectors.T - mean[:, None]) / deviation[:, None]
    return np.clip(WEIGHT * excess.max(0), 0, CAP)


def away_from(direction: Floats, avoided: Floats, background: Background) -> Floats:
    """Unit vectors (A, D) from this direction (D,) away from each phrase: near them lie candidates that pay little."""
    phrases = avoided / background.spread(avoided)[1][:, None]
    return units(direction / background.spread(direction[None])[1] - WEIGHT * phrases)
