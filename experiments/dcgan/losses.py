"""What the two networks of a GAN want, as functions of logits (B,): above 0 means real.

    hinge            D: mean(max(0, 1 - real)) + mean(max(0, 1 + fake))     G: -mean(fake)
    non_saturating   D: mean(-log σ(real)) + mean(-log(1 - σ(fake)))        G: mean(-log σ(fake))

Sources: Lim & Ye, Geometric GAN, 2017; Goodfellow et al., Generative adversarial nets, 2014 (section 3). -log σ(x) is
softplus(-x), which does not overflow.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator, zero where every logit is beyond its margin."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Loss of the generator."""
    return -fake.mean()


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_generator(fake: Tensor) -> Tensor:
    """Loss of the generator, whose gradient does not vanish where the discriminator is sure."""
    return F.softplus(-fake).mean()


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "hinge": (hinge_discriminator, hinge_generator),
    "non_saturating": (non_saturating_discriminator, non_saturating_generator),
}
"""Name → losses of discriminator and generator."""
