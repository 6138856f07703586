"""What makes a pipeline fit: the ladder of measures, and what is said when none does."""

from __future__ import annotations

import pytest
import torch

from experiments.diffusion import memory
from experiments.diffusion.memory import MODES, Plan, apply, choose, measures_of, needed, told_when_full
from experiments.diffusion.pipelines import open_pipeline
from fclip.errors import UserError

SD15 = {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
PIXELS = 512 * 512


def test_less_memory_means_slower_measures_and_never_more_need():
    plans = [choose(SD15, PIXELS, 4, "cuda", "float16", int(gb * 1e9)) for gb in (24, 4.5, 4, 3.7, 1.9)]
    assert plans[0] == Plan("cuda", "float16", ())
    assert plans[-1].measures == MODES["sequential"]
    needs = [needed(SD15, PIXELS, 4, "float16", plan.measures) for plan in plans]
    assert needs == sorted(needs, reverse=True)
    assert len({plan.measures for plan in plans}) > 2


def test_a_processor_has_nowhere_to_offload_from_and_says_what_would_help():
    assert choose(SD15, PIXELS, 4, "cpu", "float32", int(8.2e9)).measures == ("vae_slicing",)
    with pytest.raises(UserError, match=r"expected .* GB .* 2\.0 GB are free on cpu; set --batch-size 1, .* bfloat16"):
        choose(SD15, PIXELS, 4, "cpu", "float32", int(2e9))
    with pytest.raises(UserError, match="--memory offload moves weights away from a GPU, and none is here"):
        measures_of("offload", "cpu")
    with pytest.raises(UserError, match="expected --memory auto, all, slicing"):
        measures_of("some", "cpu")


def test_attention_is_sliced_on_apples_gpus_only():
    assert choose(SD15, PIXELS, 1, "mps", "float16", int(64e9)).measures == ("attention_slicing",)
    assert "attention_slicing" not in choose(SD15, PIXELS, 1, "cuda", "float16", int(4e9)).measures


def test_measures_reach_the_pipeline(tiny_sd):
    pipe = open_pipeline(str(tiny_sd))
    assert memory.parameters(pipe).keys() == {"unet", "vae", "text_encoder"}
    torch.backends.cuda.enable_flash_sdp(False)  # as where oneDNN multiplies
    apply(pipe, Plan("cpu", "float32", ("attention_slicing", "vae_slicing", "vae_tiling")))
    assert torch.backends.cuda.flash_sdp_enabled()
    assert pipe.vae.use_slicing
    assert pipe.vae.use_tiling
    assert "Sliced" in {type(p).__name__[:6] for p in pipe.unet.attn_processors.values()}


@pytest.mark.parametrize(
    ("plan", "batch", "told"),
    [
        (Plan("cuda", "float16", ()), 4, "turn on --batch-size 2 or --memory offload or a smaller --height"),
        (Plan("cuda", "float16", MODES["offload"]), 1, "turn on --memory sequential or a smaller --height"),
        (Plan("cpu", "float32", ()), 1, "turn on --memory tiling or a smaller --height"),
    ],
)
def test_running_out_of_memory_says_what_to_turn_on(plan, batch, told):
    errors = (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    for error in errors:
        with pytest.raises(UserError, match=told), told_when_full(batch, plan):
            raise error


def test_other_errors_keep_their_names():
    with pytest.raises(RuntimeError, match="shapes"), told_when_full(1, Plan("cpu", "float32", ())):
        raise RuntimeError("shapes do not fit")
