"""Localisation nets: nothing at the start, something after a step, and one line for a side that does not fit."""

from __future__ import annotations

import pytest
import torch

from stn import PaperLocalisation, ResidualLocalisation

NETS = pytest.mark.parametrize("net", [PaperLocalisation, ResidualLocalisation])


@NETS
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (64, 1)])
def test_a_net_starts_at_zero_whatever_it_sees(net, side, channels):
    torch.manual_seed(0)
    raw = net(side, 6, channels)(100 * torch.randn(4, channels, side, side))
    assert torch.equal(raw, torch.zeros(4, 6))


@NETS
def test_the_last_layer_learns_at_once_and_the_others_from_the_second_step(net):
    torch.manual_seed(0)
    net = net(32, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    image, target = torch.rand(8, 3, 32, 32), torch.randn(8, 4)
    moving = []
    for _ in range(2):
        optimizer.zero_grad()
        (net(image) - target).square().mean().backward()
        moving.append({n for n, p in net.named_parameters() if p.grad.abs().max() > 0})
        optimizer.step()
    last = {n for n, _ in net.named_parameters() if n.startswith("regress.2.")}
    assert moving[0] == last
    assert moving[1] == {n for n, _ in net.named_parameters()}


@NETS
def test_images_of_a_batch_do_not_see_each_other(net):
    """Nor do they share statistics: an image looks at the same place alone, and in training as in evaluation."""
    torch.manual_seed(0)
    net = net(32, 4)
    torch.nn.init.normal_(net.regress[-1].weight)
    images = torch.rand(3, 3, 32, 32)
    together = net.train()(images)
    torch.testing.assert_close(torch.cat([net.eval()(image[None]) for image in images]), together)


@NETS
def test_its_smallest_side_works_and_a_smaller_one_is_refused(net):
    side = net.smallest
    assert net(side, 6)(torch.rand(1, 3, side, side)).shape == (1, 6)
    with pytest.raises(ValueError, match=rf"expected look_at of at least {side} pixels, got {side - 1}"):
        net(side - 1, 6)


@pytest.mark.parametrize("side", [*range(18, 30), 97, 224])
def test_the_papers_net_takes_any_side(side):
    assert PaperLocalisation(side, 6)(torch.rand(1, 3, side, side)).shape == (1, 6)


def test_the_residual_net_halves_four_times_evenly():
    with pytest.raises(ValueError, match="expected look_at to be a multiple of 16, got 40"):
        ResidualLocalisation(40, 6)
