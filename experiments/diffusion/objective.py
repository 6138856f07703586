"""The loss of a diffusion model: how well it tells the noise in a picture, by level of noise.

    denoiser = Denoiser(pipe.unet, pipe.text_encoder, scheduler, NoiseConfig(min_snr=5))
    losses = denoiser(latents, tokens, noise, levels)          # (B,)

Sources: Ho et al. 2020 (the loss), Salimans & Ho 2022 (v-prediction), Hang et al. 2023 (min-SNR), Ruiz et al. 2023
(prior preservation: two sets of pictures, two weights).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from experiments.diffusion.config import NoiseConfig


class Denoiser(nn.Module):
    """UNet and text encoder as one module, which accelerate wraps; forward gives each picture's loss."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, scheduler: Any, config: NoiseConfig) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self._scheduler, self._config = scheduler, config

    def forward(self, latents: Tensor, tokens: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Losses (B,) of latents (B, C, h, w) with prompts (B, L), noise as large, and levels of noise (B,)."""
        words = self.text_encoder(tokens)[0]
        noisy = self._scheduler.add_noise(latents, noise, levels)
        guess = self.unet(noisy, levels, encoder_hidden_states=words.to(noisy.dtype)).sample
        squared = (guess.float() - self._target(latents, noise, levels).float()) ** 2
        return squared.mean(dim=(1, 2, 3)) * self.level_weights(levels)

    def _target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        if self._scheduler.config.prediction_type == "v_prediction":
            return self._scheduler.get_velocity(latents, noise, levels)
        return noise

    def level_weights(self, levels: Tensor) -> Tensor:
        """(B,) min(SNR, γ) / SNR for a model that tells noise; / (SNR + 1) for one that tells velocity."""
        if not self._config.min_snr:
            return torch.ones(len(levels), device=levels.device)
        kept = self._scheduler.alphas_cumprod.to(levels.device)[levels].double()
        ratio = kept / (1 - kept)
        divisor = ratio + 1 if self._scheduler.config.prediction_type == "v_prediction" else ratio
        return (ratio.clamp(max=self._config.min_snr) / divisor).float()


def draw_noise(shape: torch.Size, offset: float, generator: torch.Generator) -> Tensor:
    """(B, C, h, w) normal noise; `offset` of it is one number for each channel."""
    noise = torch.randn(shape, generator=generator)
    if offset:
        noise = noise + offset * torch.randn((*shape[:2], 1, 1), generator=generator)
    return noise
