"""Localisation nets: a small copy of an image → the raw numbers of a transform.

The last layer starts at zero, so the transform starts as the identity; the layers before it learn from the second
step on.
"""

from __future__ import annotations

from torch import Tensor, nn


class PaperLocalisation(nn.Module):
    """Two convolutions with max pooling, two fully connected layers (Dress-UP, section 3.3).

    The paper gives no widths; these are those of PyTorch's tutorial on spatial transformers.

    Args:
        look_at: side of the square image that it sees.
        outputs: numbers of the transform.
        channels: of the image.
    """

    smallest = 18  # side that leaves something after both poolings

    def __init__(self, look_at: int, outputs: int, channels: int = 3) -> None:
        super().__init__()
        _check_side(look_at, self.smallest)
        left = ((look_at - 6) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 7), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 10, 5), nn.MaxPool2d(2), nn.ReLU()
        )
        self.regress = nn.Sequential(nn.Linear(10 * left**2, 32), nn.ReLU(), _zeros(32, outputs))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, look_at, look_at) → (B, outputs)."""
        return self.regress(self.features(image).flatten(1))


class ResidualLocalisation(nn.Module):
    """A stronger one: residual blocks with group norm, four halvings, no pooling over the place.

    Args:
        look_at: side of the square image that it sees, a multiple of 16.
        outputs: numbers of the transform.
        channels: of the image.
        width: channels of the first stage.
    """

    smallest = 32

    def __init__(self, look_at: int, outputs: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        _check_side(look_at, self.smallest)
        if look_at % 16:
            raise ValueError(f"expected look_at to be a multiple of 16, got {look_at}")
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2),
            _ResidualBlock(width, 2 * width),
            _ResidualBlock(2 * width, 4 * width),
            _ResidualBlock(4 * width, 4 * width),
        )
        flat = 4 * width * (look_at // 16) ** 2
        self.regress = nn.Sequential(nn.Linear(flat, 128), nn.ReLU(), _zeros(128, outputs))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, look_at, look_at) → (B, outputs)."""
        return self.regress(self.features(image).flatten(1))


class _ResidualBlock(nn.Module):
    """Halves the image; normalised before each convolution, so that small batches do as well."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, before),
            nn.ReLU(),
            nn.Conv2d(before, after, 3, stride=2, padding=1),
            nn.GroupNorm(8, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1),
        )
        self.skip = nn.Conv2d(before, after, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


def _zeros(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _check_side(look_at: int, smallest: int) -> None:
    if look_at < smallest:
        raise ValueError(f"expected look_at of at least {smallest} pixels, got {look_at}")
