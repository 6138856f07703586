"""Generator and discriminator of a DCGAN (Radford, Metz & Chintala 2016), for any side that is 4 to 7 doubled.

    generator, discriminator = Generator(net, 28), Discriminator(net, 28)
    [logits] = discriminator(generator(torch.randn(8, net.latent)))

28 is made from 7×7 maps, 256 from 4×4 ones. As in the paper (section 3): strided convolutions in place of pooling, no
hidden fully connected layer, batch norm and ReLU in the generator with tanh at its end, leaky ReLU in the
discriminator, and all weights drawn from N(0, 0.02²). Spectral norm (Miyato et al. 2018) takes the place of the
discriminator's batch norm unless the preset says otherwise.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from experiments.dcgan.config import NetConfig
from fclip.errors import UserError

STD = 0.02  # of all weights, section 4
SLOPE = 0.2  # of leaky ReLU, section 4
SMALLEST = range(4, 8)  # sides of the first maps


def doublings(size_px: int) -> int:
    """How often the first maps' side is doubled.

    Raises:
        UserError: no such number.
    """
    for times in range(1, 12):
        if size_px % 2**times == 0 and size_px // 2**times in SMALLEST:
            return times
    raise UserError(f"expected size_px of 4, 5, 6 or 7 doubled some times (28, 64, 96, 256 …), got {size_px}")


def widths(net: NetConfig, size_px: int) -> list[int]:
    """Maps of each hidden layer, from the largest side to the smallest."""
    return [min(net.width * 2**layer, net.max_width) for layer in range(doublings(size_px))]


class Generator(nn.Module):
    """Noise (B, latent) → pictures (B, C, S, S) in -1 … 1."""

    def __init__(self, net: NetConfig, size_px: int) -> None:
        super().__init__()
        maps = widths(net, size_px)[::-1]
        layers: list[nn.Module] = []
        layers += [nn.ConvTranspose2d(net.latent, maps[0], size_px >> len(maps), bias=False), *_norm_relu(maps[0])]
        for below, above in pairwise(maps):
            layers += [nn.ConvTranspose2d(below, above, 4, 2, 1, bias=False), *_norm_relu(above)]
        layers += [nn.ConvTranspose2d(maps[-1], net.channels, 4, 2, 1), nn.Tanh()]
        self.body = nn.Sequential(*layers)
        initialise(self)

    def forward(self, noise: Tensor) -> Tensor:
        """Makes pictures."""
        return self.body(noise[:, :, None, None])


class Discriminator(nn.Module):
    """Pictures (B, C, S, S) → logits (B,), above 0: real. Several batches at once are normed each by itself."""

    def __init__(self, net: NetConfig, size_px: int) -> None:
        super().__init__()
        maps = widths(net, size_px)
        layers: list[nn.Module] = [nn.Conv2d(net.channels, maps[0], 4, 2, 1), nn.LeakyReLU(SLOPE)]
        for above, below in pairwise(maps):
            layers += [nn.Conv2d(above, below, 4, 2, 1, bias=net.norm != "batch")]
            layers += [nn.BatchNorm2d(below)] if net.norm == "batch" else []
            layers += [nn.LeakyReLU(SLOPE)]
        layers += [nn.Conv2d(maps[-1], 1, size_px >> len(maps))]
        self.body = nn.Sequential(*layers)
        initialise(self)
        if net.norm == "spectral":
            for layer in self.body:
                if isinstance(layer, nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, *batches: Tensor) -> list[Tensor]:
        """Judges each batch."""
        return [self.body(pictures).flatten() for pictures in batches]


def _norm_relu(maps: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(maps), nn.ReLU(inplace=True)]


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Draws weights from N(0, 0.02²), scales of batch norm from N(1, 0.02²); biases become 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            part.weight.normal_(float(isinstance(part, nn.BatchNorm2d)), STD)
            if part.bias is not None:
                part.bias.zero_()


@torch.no_grad()
def average_into(average: nn.Module, latest: nn.Module, decay: float) -> None:
    """average ← decay · average + (1 - decay) · latest, for weights and running statistics; counts are copied."""
    states = average.state_dict(), latest.state_dict()
    for mean, value in zip(*(state.values() for state in states), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def warmed(decay: float, step: int) -> float:
    """The decay after so many steps: short at first, that the random start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))
