"""A Stable Diffusion of every component with the real classes, small enough to draw within a tenth of a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE = 32  # pixels of its pictures
WIDTH = 16  # of its text encoder
MERGES = 2000  # of the tokenizer: the most frequent words are whole, the rest is in pieces


def make_tiny_pipeline(folder: Path, prediction_type: str = "epsilon") -> Path:
    """Writes it in diffusers' format, always with the same random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = make_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            sample_size=SIDE,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=WIDTH,
                intermediate_size=32,
                num_attention_heads=4,
                num_hidden_layers=2,
                vocab_size=len(tokenizer),
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def make_tokenizer() -> Any:
    """CLIP's own, from the byte-pair encoding in open_clip's wheel, with its most frequent merges only."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    bpe = SimpleTokenizer()
    merges = sorted(bpe.bpe_ranks, key=lambda pair: bpe.bpe_ranks[pair])[:MERGES]
    tokens = [*list(bpe.encoder)[:512], *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges, model_max_length=77)


def make_ip_adapter(pipe: Any, folder: Path) -> Path:
    """Writes a random IP-Adapter for a pipeline, with its image encoder beside it, and returns its file."""
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    draws, width, seen = torch.Generator().manual_seed(0), pipe.unet.config.cross_attention_dim, 12
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=16,
        projection_dim=seen,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    state = {"proj.weight": 0.1 * torch.randn(4 * width, seen, generator=draws), "proj.bias": torch.zeros(4 * width)}
    state |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    state = {f"image_proj.{name}": value for name, value in state.items()}
    crossing = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(crossing):
        out = pipe.unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for kind in ("k", "v"):
            state[f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight"] = torch.randn(out, width, generator=draws)
    save_file(state, folder / "ip.safetensors")
    return folder / "ip.safetensors"


def rewrite_index(folder: Path, **entries: object) -> None:
    """Changes the list of components."""
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
