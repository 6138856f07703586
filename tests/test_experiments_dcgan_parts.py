"""The parts of the DCGANs: networks, losses, augmentation, files, against independent formulas."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from test_fclip_catalogue_idx import write_idx
from torch import nn

from experiments.dcgan import config as config_module
from experiments.dcgan.augment import augmented, colour, cutout, draw, shift
from experiments.dcgan.config import Dcgan, NetConfig
from experiments.dcgan.losses import LOSSES
from experiments.dcgan.models import Discriminator, Generator, average_into, warmed, widths
from experiments.dcgan.pictures import Pictures, is_coloured, open_pictures
from fclip.catalogue import open_catalogue
from fclip.catalogue.drawn import draw_catalogue
from fclip.config import config_from, load_config
from fclip.errors import UserError
from fclip.images import decode

PRESETS = Path(__file__).parents[1] / "experiments" / "presets"
TINY = NetConfig(channels=1, latent=8, width=4, max_width=16)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("size_px", "channels", "maps"), [(28, 1, [4, 8]), (256, 3, [4, 8, 16, 16, 16, 16]), (96, 3, [4, 8, 16, 16])]
)
def test_pictures_have_the_size_that_was_asked_for(size_px, channels, maps):
    net = NetConfig(channels=channels, latent=8, width=4, max_width=16)
    assert widths(net, size_px) == maps
    pictures = Generator(net, size_px)(noise(2, 8))
    assert pictures.shape == (2, channels, size_px, size_px)
    assert pictures.abs().max() <= 1
    first, second = Discriminator(net, size_px)(pictures, pictures[:1])
    assert (first.shape, second.shape) == ((2,), (1,))


def test_the_presets_are_the_two_of_the_paper():
    small, large = (load_config(Dcgan, PRESETS / "dcgan" / f"{name}.yaml") for name in ("fashion_mnist", "catalogue"))
    assert (small.size_px, small.net.channels, small.epochs) == (28, 1, 30)
    assert (large.size_px, large.net.channels, large.epochs, large.data.flip) == (256, 3, 427, 0.5)
    with pytest.raises(UserError, match=r"unknown key 'optim\.lr'; .*discriminator_lr"):
        load_config(Dcgan, PRESETS / "dcgan" / "catalogue.yaml", ["optim.lr=1"])


@pytest.mark.parametrize("size_px", [30, 27, 3, 7, 72])
def test_a_side_that_cannot_be_doubled_to_is_refused(size_px):
    with pytest.raises(UserError, match=f"4, 5, 6 or 7 doubled some times .*, got {size_px}"):
        Generator(TINY, size_px)


def test_weights_begin_as_in_the_paper():
    torch.manual_seed(0)
    wide = NetConfig(channels=3, latent=64, width=32, norm="batch")
    for network in (Generator(wide, 32), Discriminator(wide, 32)):
        kinds = {nn.Conv2d: 0.0, nn.ConvTranspose2d: 0.0, nn.BatchNorm2d: 1.0}
        parts = [part for part in network.modules() if type(part) in kinds]
        assert len(parts) > 5
        for part in parts:
            size = part.weight.numel()
            assert abs(part.weight.mean().item() - kinds[type(part)]) < 5 * 0.02 / math.sqrt(size)
            assert abs(part.weight.std().item() / 0.02 - 1) < 5 / math.sqrt(2 * size)
            assert part.bias is None or not part.bias.any()


def test_spectral_norm_bounds_every_layer_of_the_discriminator():
    torch.manual_seed(0)
    network = Discriminator(TINY, 28)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d):
                part.parametrizations.weight.original.mul_(50)
    for _ in range(40):  # a power iteration each
        network(noise(2, 1, 28, 28))
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    assert len(layers) == 3
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0].item()
        assert largest == pytest.approx(1, abs=0.02)


def test_batches_are_normed_each_by_itself():
    torch.manual_seed(0)
    network = Discriminator(NetConfig(channels=1, width=4, norm="batch"), 28)
    real, fake = noise(4, 1, 28, 28), 3 + noise(4, 1, 28, 28, seed=1)
    together = network(real, fake)
    for alone, part in zip(together, (real, fake), strict=True):
        torch.testing.assert_close(alone, network(part)[0])


def test_the_losses_are_their_formulas():
    real, fake = [0.3, -1.2, 2.5], [-0.4, 1.7, -3.0, 0.2]
    sigmoid = [1 / (1 + math.exp(-x)) for x in real], [1 / (1 + math.exp(-x)) for x in fake]
    expected = {
        "hinge": (
            sum(max(0, 1 - x) for x in real) / 3 + sum(max(0, 1 + x) for x in fake) / 4,
            -sum(fake) / 4,
        ),
        "non_saturating": (
            -sum(map(math.log, sigmoid[0])) / 3 - sum(math.log(1 - s) for s in sigmoid[1]) / 4,
            -sum(map(math.log, sigmoid[1])) / 4,
        ),
    }
    assert LOSSES.keys() == expected.keys()
    for name, (of_d, of_g) in LOSSES.items():
        found = of_d(torch.tensor(real), torch.tensor(fake)).item(), of_g(torch.tensor(fake)).item()
        assert found == pytest.approx(expected[name], rel=1e-5)
    assert math.isfinite(LOSSES["non_saturating"][1](torch.tensor([-1e4])).item())


def test_the_average_is_its_formula():
    average, latest = (nn.BatchNorm1d(2) for _ in range(2))
    values = {"weight": (1.0, 3.0), "bias": (0.0, -1.0), "running_mean": (2.0, 6.0), "running_var": (1.0, 2.0)}
    for name, (old, new) in values.items():
        average.state_dict()[name].fill_(old)
        latest.state_dict()[name].fill_(new)
    latest.num_batches_tracked.fill_(7)
    average_into(average, latest, 0.9)
    for name, (old, new) in values.items():
        assert average.state_dict()[name].tolist() == pytest.approx([0.9 * old + 0.1 * new] * 2)
    assert average.num_batches_tracked == 7
    average_into(average, latest, 0.0)
    assert torch.equal(average.weight, latest.weight)
    assert [warmed(0.99, step) for step in (0, 8, 10**6)] == pytest.approx([0.1, 0.5, 0.99])


def test_shift_and_cutout_are_what_scipy_and_a_loop_make():
    pictures, by = noise(3, 2, 8, 8), torch.tensor([[1, -1], [0, 0], [-3, 2]])
    moved = shift(pictures, by)
    for picture, (down, right), found in zip(pictures, by.tolist(), moved, strict=True):
        torch.testing.assert_close(found, torch.from_numpy(ndimage.shift(picture.numpy(), (0, down, right), order=0)))
    corners = torch.tensor([[-2, 0], [6, 7], [2, 2]])
    cut = cutout(pictures, corners)
    for n, (top, left) in enumerate(corners.tolist()):
        for y in range(8):
            for x in range(8):
                inside = top <= y < top + 4 and left <= x < left + 4
                assert torch.equal(cut[n, :, y, x], pictures[n, :, y, x] * (not inside))


def test_colour_in_its_middle_changes_nothing_and_at_its_ends_what_it_says():
    pictures = noise(2, 3, 4, 4)
    torch.testing.assert_close(colour(pictures, torch.full((2, 3), 0.5)), pictures)
    bright = colour(pictures, torch.tensor([[1.0, 0.5, 0.5], [0.0, 0.5, 0.5]]))
    torch.testing.assert_close(bright, pictures + torch.tensor([0.5, -0.5]).view(2, 1, 1, 1))
    grey = colour(pictures, torch.tensor([[0.5, 0.0, 0.5]] * 2))
    torch.testing.assert_close(grey, pictures.mean(1, keepdim=True).expand_as(pictures))
    flat = colour(pictures, torch.tensor([[0.5, 0.5, 0.0]] * 2))
    torch.testing.assert_close(flat.std((1, 2, 3)), pictures.std((1, 2, 3)) / 2)


def test_gradients_pass_through_the_augmentation_as_finite_differences_say():
    draws = draw(("colour", "shift", "cutout"), 2, 8, torch.Generator().manual_seed(0))
    pictures = noise(2, 3, 8, 8).double().requires_grad_()
    before = pictures.detach().clone()
    assert torch.autograd.gradcheck(lambda x: augmented(x, draws), pictures)
    assert torch.equal(pictures.detach(), before)
    pictures.grad = None
    augmented(pictures, draws).square().sum().backward()
    assert (pictures.grad != 0).float().mean() > 0.3


def test_the_draws_treat_any_pictures_alike_and_stay_in_their_ranges():
    draws = draw(("colour", "shift", "cutout"), 500, 28, torch.Generator().manual_seed(0))
    assert list(draws) == ["colour", "shift", "cutout"]
    assert sorted(set(draws["shift"].flatten().tolist())) == list(range(-4, 5))
    assert (draws["cutout"].min(), draws["cutout"].max()) == (-7, 21)
    real, fake = noise(500, 1, 28, 28), noise(500, 1, 28, 28, seed=1)
    holes = [augmented(pictures, {"cutout": draws["cutout"]}) == 0 for pictures in (real, fake)]
    assert torch.equal(*holes)
    assert holes[0].any((1, 2, 3)).all()
    assert draw((), 5, 28, torch.Generator()) == {}


def grey_catalogue(folder: Path) -> Path:
    """Twelve grey pictures, stored as colour JPEGs, in an image folder."""
    (folder / "shirt").mkdir(parents=True)
    for number in range(12):
        levels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(levels).resize((32, 32)).convert("RGB").save(folder / "shirt" / f"{number}.jpg")
    return folder


def test_grey_pictures_are_for_the_grey_model_and_coloured_ones_for_the_other(tmp_path):
    idx = str(write_idx(tmp_path / "images", np.zeros((5, 28, 28))))
    grey, colours = str(grey_catalogue(tmp_path / "grey")), "drawn:12"
    split = open_catalogue(grey)["split"][0]

    def opened(channels, **data):
        return open_pictures(config_from(Dcgan, {"size_px": 28, "net": {"channels": channels}, "data": data}, "test"))

    with pytest.raises(UserError, match=r"has grey pictures and the model is for colour; set net\.channels=1"):
        opened(3, idx=idx)
    with pytest.raises(UserError, match=r"pictures looked at are grey and the model is for colour"):
        opened(3, catalogue=[grey], split=split)
    with pytest.raises(UserError, match=r"looked at have colours and the model is for grey; set net\.channels=3"):
        opened(1, catalogue=[colours])
    assert opened(1, idx=idx)[0].shape == opened(1, catalogue=[grey], split=split)[0].shape == (1, 28, 28)
    assert opened(3, catalogue=[colours])[0].shape == (3, 28, 28)
    with pytest.raises(UserError, match=r"has pictures of 28×28, the model is for 32"):
        open_pictures(config_from(Dcgan, {"size_px": 32, "net": {"channels": 1}, "data": {"idx": idx}}, "test"))
    for both in ({}, {"idx": idx, "catalogue": [grey]}):
        with pytest.raises(UserError, match=r"expected pictures from one place"):
            opened(1, **both)
    assert is_coloured(Image.new("RGB", (4, 4), (200, 0, 0)))
    assert not is_coloured(Image.new("RGB", (4, 4), (200, 198, 202)))


def test_pictures_are_mirrored_left_to_right_only_and_the_unreadable_replaced(broken):
    rows = broken(draw_catalogue(items=4, views=1, size_px=32), [1])
    values = {"size_px": 32, "net": {"channels": 3}, "data": {"catalogue": ["x"], "fit": "squash"}}
    pictures = Pictures(config_from(Dcgan, values, "test"), rows)
    plain = Pictures(config_from(Dcgan, values | {"data": values["data"] | {"flip": 0}}, "test"), rows)
    assert torch.equal(plain[1], plain[2])
    expected = np.asarray(decode(rows[0]["image"]), np.float32).transpose(2, 0, 1) / 127.5 - 1  # its size already
    assert np.abs(plain[0].numpy() - expected).max() < 1e-6
    mirrored = [bool(torch.equal(pictures[i], plain[i].flip(-1))) for i in range(0, 160, 4)]
    same = [bool(torch.equal(pictures[i], plain[i])) for i in range(0, 160, 4)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 8 < sum(mirrored) < 32
    assert torch.equal(pictures[8], pictures[8])
    nothing = broken(draw_catalogue(items=2, views=1, size_px=32), [0, 1])
    with pytest.raises(UserError, match="no readable picture among many"):
        Pictures(config_from(Dcgan, values, "test"), nothing)[0]


def test_every_key_has_a_comment():
    source = Path(config_module.__file__).read_text()
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)] if isinstance(node, ast.ClassDef) else []
        for field in fields:
            last, before = lines[field.end_lineno - 1], lines[field.lineno - 2].strip()
            explained = "  # " in last[field.end_col_offset :] or before.startswith("# ")
            assert explained or "default_factory" in last, ast.unparse(field)
