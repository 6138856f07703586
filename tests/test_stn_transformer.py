"""The whole transformer: nothing at the start, where it should look after training, and the same in ONNX."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn import SpatialTransformer, identity_grid

TRANSFORMS = ("affine", "similarity", "scale_translation", "tps")
EVERY = pytest.mark.parametrize(("transform", "localisation"), [*itertools.product(TRANSFORMS, ("paper", "residual"))])


def shaken(stn: SpatialTransformer, by: float = 0.3) -> SpatialTransformer:
    """As if it had learned to look elsewhere in every image."""
    generator = torch.Generator().manual_seed(0)
    for parameter in stn.localisation.regress[-1].parameters():
        parameter.data.normal_(0, by, generator=generator)
    return stn


@EVERY
@pytest.mark.parametrize("antialias", [True, False])
def test_at_the_start_it_gives_the_image(transform, localisation, antialias):
    image = torch.rand(3, 3, 40, 36)
    stn = SpatialTransformer(transform, (40, 36), None, localisation, look_at=32, antialias=antialias)
    torch.testing.assert_close(stn(image), image, rtol=0, atol=1e-5)


@EVERY
def test_at_the_start_it_gives_the_resized_image_when_sizes_differ(transform, localisation):
    image = torch.rand(3, 3, 64, 96)
    stn = SpatialTransformer(transform, (64, 96), (32, 48), localisation, look_at=32)
    expected = F.interpolate(image, (32, 48), mode="bilinear", antialias=True)
    torch.testing.assert_close(stn(image), expected, rtol=0, atol=1e-5)
    larger = SpatialTransformer(transform, (64, 96), (128, 96), localisation, look_at=32)
    expected = F.interpolate(image, (128, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(larger(image), expected, rtol=0, atol=1e-5)


@EVERY
def test_its_state_comes_back(transform, localisation):
    options = {"in_size": (48, 48), "out_size": (24, 24), "localisation": localisation, "look_at": 32}
    first, second = shaken(SpatialTransformer(transform, **options)), SpatialTransformer(transform, **options)
    image = torch.rand(2, 3, 48, 48)
    assert not torch.equal(first(image), second(image))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(image), second(image))


@EVERY
def test_gradients_are_finite_and_reach_the_whole_net_and_the_image(transform, localisation):
    stn = shaken(SpatialTransformer(transform, (48, 48), (24, 24), localisation, look_at=32))
    image = torch.rand(2, 3, 48, 48, requires_grad=True)
    stn(image).square().sum().backward()
    gradients = [p.grad for p in stn.parameters()] + [image.grad]
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_under_autocast_the_grid_is_float32_and_the_output_is_of_the_images_type(transform):
    stn = SpatialTransformer(transform, (64, 64), (64, 64), look_at=32)
    image = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        grid = stn.grid(image)
        assert torch.equal(grid, identity_grid((64, 64)).expand(2, -1, -1, -1))
        assert stn(image).dtype == torch.float32
        assert stn(image.bfloat16()).dtype == torch.bfloat16
    moved = shaken(stn)
    with torch.autocast("cpu", torch.bfloat16):
        close = moved.grid(image)
    assert close.dtype == torch.float32
    torch.testing.assert_close(close, moved.grid(image), rtol=0, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_it_works_in_other_types_as_a_whole(transform, dtype):
    stn = SpatialTransformer(transform, (64, 64), (32, 32), look_at=32).to(dtype)
    image = torch.rand(2, 3, 64, 64).to(dtype)
    found = stn(image)
    assert found.dtype == dtype
    expected = F.interpolate(image.double(), (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=4e-3)


@pytest.mark.parametrize("size", [(40, 80), (64, 64), (33, 47)])
def test_images_of_other_sizes_than_it_was_made_for_are_looked_at_too(size):
    """Training pictures grow from epoch to epoch."""
    image = torch.rand(2, 3, *size)
    assert SpatialTransformer("tps", (64, 64), (24, 24), look_at=32)(image).shape == (2, 3, 24, 24)


def test_a_turn_is_of_the_images_own_pixels():
    """A square stays a square in an image that is twice as wide as high."""
    stn = SpatialTransformer("similarity", (64, 128), look_at=32, angle_deg=90.0)
    stn.localisation.regress[-1].bias.data[3] = 20.0  # tanh is 1: a quarter turn
    image = torch.zeros(1, 3, 64, 128)
    image[..., 28:36, 64:80] = 1  # 8 high, 16 wide, left edge in the middle
    turned = stn(image)[0, 0]
    rows, columns = (turned > 0.5).nonzero().T
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (16, 8)


def test_looking_closer_keeps_the_detail_of_the_larger_image():
    """Stripes of two pixels, invisible at the output's size, are seen when the view is a quarter of the image."""
    stripes = (torch.arange(128) // 2 % 2).float().expand(1, 3, 128, 128)
    stn = SpatialTransformer("scale_translation", (128, 128), (32, 32), look_at=32, zoom=4.0)
    far = stn(stripes)
    stn.localisation.regress[-1].bias.data[2] = -20.0
    near = stn(stripes)
    assert far[..., 1:-1].std() < 0.01
    assert near.std() > 0.4


# It learns


def blobs(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A soft spot somewhere, and stripes on it, upright or lying: spots and stripes (B, 3, 48, 48), class (B,)."""
    place = torch.rand(number, 1, 1, 2, generator=generator) * 0.8 - 0.4
    kind = torch.randint(0, 2, (number,), generator=generator)
    from_it = identity_grid((48, 48)) - place
    across = torch.where(kind.view(-1, 1, 1) == 0, from_it[..., 0], from_it[..., 1])
    spot = (-from_it.square().sum(-1) / 0.06).exp()
    striped = spot * (1 + torch.cos(across * 4 * math.pi)) / 2
    return spot[:, None].expand(-1, 3, -1, -1), striped[:, None].expand(-1, 3, -1, -1), kind


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_it_learns_a_shift_through_the_sampler(transform):
    """From nothing but the image that it should have shown: the spot in the middle."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    stn = SpatialTransformer(transform, (48, 48), (24, 24), look_at=24)
    optimizer = torch.optim.Adam(stn.parameters(), lr=3e-3)
    middle = (-identity_grid((24, 24)).square().sum(-1) / 0.06).exp()
    errors = []
    for _ in range(120):
        error = (stn(blobs(32, generator)[0]) - middle).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert np.mean(errors[-5:]) < 0.15 * errors[0]


@pytest.mark.parametrize("learns", [True, False], ids=["with a transformer", "without"])
def test_it_makes_a_class_visible_by_the_classifiers_loss_alone(learns):
    """A linear classifier of the middle of the view cannot tell stripes whose place changes; behind an STN it can."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    stn, classifier = SpatialTransformer("affine", (48, 48), look_at=24), nn.Linear(3 * 16 * 16, 2)
    stn.requires_grad_(learns)
    optimizer = torch.optim.Adam([*stn.parameters(), *classifier.parameters()], lr=3e-3)

    def scores(images: Tensor) -> Tensor:
        return classifier(stn(images)[..., 16:32, 16:32].flatten(1))

    for _ in range(120):
        _, images, kind = blobs(48, generator)
        optimizer.zero_grad()
        F.cross_entropy(scores(images), kind).backward()
        optimizer.step()
    _, images, kind = blobs(256, generator)
    right = (scores(images).argmax(1) == kind).float().mean().item()
    assert right > 0.9 if learns else right < 0.65


# ONNX


@pytest.mark.filterwarnings("ignore")  # of the exporter's own
@pytest.mark.parametrize(
    ("transform", "localisation"), [*zip(TRANSFORMS, ("paper", "residual", "paper", "residual"), strict=True)]
)
def test_it_gives_the_same_in_onnx_for_any_batch(transform, localisation, tmp_path):
    import onnxruntime

    stn = shaken(SpatialTransformer(transform, (64, 64), (32, 32), localisation, look_at=32)).eval()
    batch = ({0: torch.export.Dim("batch")},)
    exported = torch.onnx.export(stn, (torch.rand(2, 3, 64, 64),), dynamo=True, opset_version=18, dynamic_shapes=batch)
    exported.save(tmp_path / "stn.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "stn.onnx", providers=["CPUExecutionProvider"])
    for number in (1, 5):
        image = torch.rand(number, 3, 64, 64)
        (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, stn(image), rtol=0, atol=1e-4)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "afine"}, "expected transform to be one of affine, similarity, .*, got 'afine'"),
        ({"localisation": "deep"}, "expected localisation to be one of paper, residual, got 'deep'"),
        ({"padding": "white"}, "expected padding to be one of border, zeros, reflection, got 'white'"),
        ({"in_size": (63, 200)}, r"expected in_size of at least look_at \(64 pixels\) a side, got 63x200"),
        ({"in_size": (0, 0)}, r"expected in_size as \(height, width\) of at least 2 pixels each, got \(0, 0\)"),
        ({"out_size": (1, 224)}, r"expected out_size as .*, got \(1, 224\)"),
        ({"out_size": (224,)}, r"expected out_size as .*, got \(224,\)"),
        ({"look_at": 8}, "expected look_at of at least 18 pixels, got 8"),
        ({"shift": 1.5}, "expected a shift from 0 to 1 .*leaves the image.*, got 1.5"),
        ({"transform": "similarity", "zoom": 0.5}, "expected a zoom of at least 1, got 0.5"),
        ({"transform": "tps", "bend": 0.6}, "expected a bend from 0 to 0.3 .*fold.*, got 0.6"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SpatialTransformer(**options)


def test_an_image_smaller_than_what_the_net_sees_is_refused():
    stn = SpatialTransformer(in_size=(64, 64), look_at=48)
    with pytest.raises(
        ValueError, match=r"expected images of at least 48 pixels a side \(look_at\), got 64x40; enlarge"
    ):
        stn(torch.rand(1, 3, 64, 40))


def test_a_transform_that_is_not_finite_is_refused_when_evaluating():
    stn = SpatialTransformer(in_size=(64, 64), look_at=32).eval()
    stn.localisation.regress[-1].bias.data[0] = math.nan
    with pytest.raises(
        ValueError, match=r"expected a finite grid, got NaN or infinity: are the weights and the pixels f"
    ):
        stn(torch.rand(1, 3, 64, 64))
