"""What FSDP2 cannot do is refused, and what is whole passes unchanged; real pieces: tests/test_fclip_distributed.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from fclip.errors import UserError
from fclip.sharding import divisible, gather_into, load_optimizer_state, optimizer_state, scatter_into, shards


def launch(kind: DistributedType, is_fsdp2: bool = False) -> SimpleNamespace:
    return SimpleNamespace(distributed_type=kind, is_fsdp2=is_fsdp2)


def test_only_fsdp_of_the_second_version_splits(preset):
    assert shards(launch(DistributedType.FSDP, is_fsdp2=True), preset())
    assert not shards(launch(DistributedType.MULTI_GPU), preset(lora={"rank": 2}))
    with pytest.raises(UserError, match=r"^expected FSDP2, got the first FSDP; launch with --fsdp_version 2$"):
        shards(launch(DistributedType.FSDP), preset())


@pytest.mark.parametrize("keys", [{"lora": {"rank": 2}}, {"optim": {"ema": 0.9}}], ids=["lora.rank", "optim.ema"])
def test_adapters_and_averages_are_refused(preset, request, keys):
    name = request.node.callspec.id
    with pytest.raises(UserError, match=rf"^{name} does not go with FSDP; set {name}=0, or launch without --use_fsdp$"):
        shards(launch(DistributedType.FSDP, is_fsdp2=True), preset(**keys))


def test_scalars_become_vectors_and_scalars_again(build):
    clip = build().clip
    before = divisible(clip)
    assert (before.logit_scale.shape, clip.logit_scale.shape) == ((), (1,))
    with torch.no_grad():
        clip.logit_scale += 1
    gather_into(before, clip)
    assert before.logit_scale.item() == clip.logit_scale.item()
    with torch.no_grad():
        before.logit_scale -= 3
    scatter_into(clip, before)
    assert clip.logit_scale.tolist() == [before.logit_scale.item()]


def test_moments_move_between_a_scalar_and_a_vector():
    """A run that was saved in pieces goes on whole, and the other way round."""
    optimizers = []
    for shape in ((), (1,)):
        parameter = torch.nn.Parameter(torch.ones(shape))
        optimizers.append(torch.optim.AdamW([parameter]))
        (3 * parameter.sum()).backward()
        optimizers[-1].step()
    scalar, vector = optimizers
    for a, b in ((scalar, vector), (vector, scalar)):
        load_optimizer_state(b, optimizer_state(a))
        [moments] = b.state.values()
        assert moments["exp_avg"].shape == b.param_groups[0]["params"][0].shape
        assert moments["step"].item() == 1
