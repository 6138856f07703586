"""Towers without text give timm's and torchvision's own embeddings of pictures prepared as these libraries do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import timm
import torch
from conftest import shake
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torchvision.models import get_model, get_model_weights

from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.cli import main
from fclip.config import ModelConfig
from fclip.embedding import embed_pictures, embed_texts
from fclip.errors import UserError
from fclip.image_only import ImageOnly, image_model, parse_tower
from fclip.model import Preprocess, cropped
from fclip.pooling import pool
from fclip.pretrained import build_model, open_model
from fclip.timm_tower import timm_data_preprocess
from fclip.torchvision_tower import INCEPTIONS, MAPS, torchvision_preprocess

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (157, 203, 3), dtype=np.uint8))


def pixels(size: int, number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """timm's tower with its classifier, random everywhere, and its weights in a file."""
    torch.manual_seed(0)
    whole = shake(timm.create_model("test_resnet"))
    file = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_file(whole.state_dict(), file)
    return whole, file


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    torch.manual_seed(0)
    whole = shake(timm.create_model("test_vit"))
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(whole.state_dict(), file)
    return whole, file


@pytest.mark.parametrize(
    "name", ["resnet50", "vgg16", "inception_v4", "vit_small_patch14_dinov2", "swin_tiny_patch4_window7_224.ms_in1k",
             "vit_base_patch16_siglip_224", "test_resnet"]
)  # fmt: skip
@pytest.mark.parametrize("size", [None, (96, 96)])
def test_pictures_enter_as_timm_says(name, size) -> None:
    own = timm.get_pretrained_cfg(name).to_dict()
    config = resolve_data_config({"input_size": (3, *size)} if size else {}, own)
    theirs = create_transform(**config, is_training=False)(PICTURE)
    ours = timm_data_preprocess(name, size)
    torch.testing.assert_close(ours.normalise(ours(PICTURE)[None])[0], theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_every_way_of_timm_to_crop_is_known(monkeypatch, mode, size) -> None:
    own = timm.get_pretrained_cfg("test_resnet")
    own.crop_mode, own.crop_pct, own.mean = mode, 0.9, (0.5, 0.5, 0.5)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: own)
    config = resolve_data_config({"input_size": (3, *size)}, own.to_dict())
    theirs = create_transform(**config, is_training=False)(PICTURE)
    ours = timm_data_preprocess("test_resnet", size)
    torch.testing.assert_close(ours.normalise(ours(PICTURE)[None])[0], theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "inception_v3", "efficientnet_b0", "vit_b_16"])
def test_pictures_enter_as_torchvision_says(name) -> None:
    theirs = get_model_weights(name).DEFAULT.transforms()(PICTURE)
    ours = torchvision_preprocess(name, "", None)
    torch.testing.assert_close(ours.normalise(ours(PICTURE)[None])[0], theirs, rtol=0, atol=1e-6)


def test_a_jpeg_is_not_decoded_below_what_the_crop_is_cut_from() -> None:
    own = Preprocess((224, 224), resize=(256, 256))
    assert (own.shorter_px, Preprocess((224, 200)).shorter_px) == (256, 200)
    assert cropped(own)(PICTURE).size == (224, 224)


def test_the_towers_own_pooling_is_what_its_classifier_takes(resnet, vit) -> None:
    for name, (whole, file) in (("test_resnet", resnet), ("test_vit", vit)):
        model = open_model(f"image:{name}:{file}", [])
        seen = pixels(160)
        with torch.no_grad():
            theirs = whole.forward_head(whole.forward_features(seen), pre_logits=True)
            torch.testing.assert_close(model.clip.encode_image(seen), theirs)
            torch.testing.assert_close(model.encode_image(seen).norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(("kind", "naive"), [
    ("avg", lambda tokens: tokens.mean(1)),
    ("max", lambda tokens: tokens.max(1).values),
    ("gem", lambda tokens: (tokens.clamp(min=1e-6) ** 3).mean(1) ** (1 / 3)),
])  # fmt: skip
def test_pooled_features_are_those_of_timm(resnet, vit, kind, naive) -> None:
    with torch.no_grad():
        seen = pixels(160)
        ours = open_model(f"image:test_resnet+{kind}:{resnet[1]}", []).clip.encode_image(seen)
        torch.testing.assert_close(ours, naive(resnet[0].forward_features(seen).flatten(2).transpose(1, 2)))
        ours = open_model(f"image:test_vit+{kind}:{vit[1]}", []).clip.encode_image(seen)
        torch.testing.assert_close(ours, naive(vit[0].forward_features(seen)[:, 1:]))
        ours = open_model(f"image:test_vit+cls:{vit[1]}", []).clip.encode_image(seen)
        torch.testing.assert_close(ours, vit[0].forward_features(seen)[:, 0])


def test_a_tower_of_channels_last_is_pooled_over_places() -> None:
    model = ImageOnly("timm", "swin_pico_patch4_window7_112", ("max",), (112, 112)).eval()
    with torch.no_grad():
        features = model.trunk.forward_features(pixels(112))
        torch.testing.assert_close(model.encode_image(pixels(112)), features.flatten(1, 2).max(1).values)


HOOKED = {  # the module of torchvision's own class whose output, or whose input where there is a pooling, is the map
    "mobilenet_v3_small": ("avgpool", 32),
    "squeezenet1_1": ("features", 64),
    "shufflenet_v2_x0_5": ("conv5", 32),
}
SLOW = {
    "resnet18": ("avgpool", 32),
    "alexnet": ("features", 64),
    "densenet121": ("features", 32),
    "inception_v3": ("avgpool", 75),
    "googlenet": ("avgpool", 32),
    "convnext_tiny": ("avgpool", 32),
    "efficientnet_b0": ("avgpool", 32),
    "mnasnet0_5": ("layers", 32),
    "mobilenet_v2": ("features", 32),
    "regnet_y_400mf": ("avgpool", 32),
    "vgg11": ("features", 32),
    "swin_t": ("avgpool", 224),
}


@pytest.mark.parametrize("name", [*HOOKED, *[pytest.param(name, marks=pytest.mark.slow) for name in SLOW]])
def test_maps_are_those_of_torchvisions_own_classes(name) -> None:
    options = {"init_weights": False, "transform_input": True} if name in INCEPTIONS else {}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = get_model(name, weights=None, **options).eval()
    at, size = (HOOKED | SLOW)[name]
    seen = {}
    layer = whole.get_submodule(at)
    if at == "avgpool":
        layer.register_forward_pre_hook(lambda module, inputs: seen.update(map=inputs[0].clone()))
    else:
        layer.register_forward_hook(lambda module, inputs, output: seen.update(map=output.clone()))
    ours = ImageOnly("torchvision", name, ("max",), (size, size)).eval()
    ours.trunk.load_state_dict({k: v for k, v in whole.state_dict().items() if k in ours.trunk.state_dict()})
    with torch.no_grad():
        whole(pixels(size))
        found = seen["map"].relu() if name == "densenet121" else seen["map"]
        torch.testing.assert_close(ours.encode_image(pixels(size)), found.amax((2, 3)))


def test_torchvisions_own_pooling_is_what_its_classifier_takes(tmp_path) -> None:
    torch.manual_seed(0)
    whole = shake(get_model("mobilenet_v3_small", weights=None))
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    seen = {}
    whole.classifier[3].register_forward_pre_hook(lambda module, inputs: seen.update(found=inputs[0]))
    model = open_model(f"image:torchvision/mobilenet_v3_small:{tmp_path}/weights.safetensors", [])
    with torch.no_grad():
        whole(pixels(64))
        torch.testing.assert_close(model.clip.encode_image(pixels(64)), seen["found"])


def test_torchvisions_tokens_have_a_class_token_in_front() -> None:
    from torchvision.models import VisionTransformer

    assert MAPS[VisionTransformer.__name__] == "encoder"
    vit = ImageOnly.__new__(ImageOnly)
    torch.nn.Module.__init__(vit)
    small = VisionTransformer(32, 16, 1, 2, 8, 16)
    from torchvision.models.feature_extraction import create_feature_extractor

    vit.library, vit.pooling = "torchvision", ("cls",)
    vit.trunk, vit.prefix = create_feature_extractor(small, {"encoder": "map"}), 1
    with torch.no_grad():
        tokens = vit.features(pixels(32))
        assert tokens.shape == (2, 5, 8)
        assert torch.equal(pool(tokens, ("cls",), 8, 1), vit.encode_image(pixels(32)))


def test_torchvisions_weights_for_mobilenet_fit_timms(tmp_path) -> None:
    torch.manual_seed(0)
    save_file(shake(get_model("mobilenet_v2", num_classes=7)).state_dict(), tmp_path / "w.safetensors")
    models = [open_model(f"image:{name}+max:{tmp_path}/w.safetensors", []) for name in
              ("mobilenetv2_100", "torchvision/mobilenet_v2")]  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(*[model.encode_image(pixels(64)) for model in models])


def test_a_size_of_its_own_interpolates_the_positions(vit) -> None:
    model = open_model(f"image:test_vit@96+cls:{vit[1]}", [])
    native = timm.create_model("test_vit", num_classes=0).eval()
    native.load_state_dict({k: v for k, v in vit[0].state_dict().items() if not k.startswith("head.")})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        native.set_input_size((96, 96))
    assert model.preprocess.size == (96, 96)
    with torch.no_grad():
        torch.testing.assert_close(model.clip.encode_image(pixels(96)), native.forward_features(pixels(96))[:, 0])


def test_a_saved_tower_comes_back_and_its_fingerprint_counts_pooling_and_pictures(tmp_path, vit) -> None:
    source = f"image:test_vit@96+cls+avg:{vit[1]}"
    model = open_model(source, ["colour"])
    save_checkpoint(image_model(source), tmp_path / "tower")
    again = load_checkpoint(tmp_path / "tower")
    assert again.fingerprint == model.fingerprint == open_model(tmp_path / "tower", []).fingerprint
    assert (again.name, again.preprocess, again.reads_text) == ("image:test_vit@96+cls+avg", model.preprocess, False)
    assert np.array_equal(*[embed_pictures(one, [_cell()]) for one in (model, again)])
    others = [open_model(f"image:test_vit@96+avg+cls:{vit[1]}", []).fingerprint]
    for number, change in enumerate(({"mean": (0.1,) * 3}, {"resize_mode": "longest"})):
        save_checkpoint(changed := image_model(source, **change), tmp_path / str(number))
        others.append(changed.fingerprint)
    assert len({model.fingerprint, *others}) == 4


def _cell() -> dict:
    import io

    data = io.BytesIO()
    PICTURE.save(data, "png")
    return {"bytes": data.getvalue(), "path": None}


def test_options_of_timm_stay_with_the_model(tmp_path, capsys) -> None:
    torch.manual_seed(0)
    whole = shake(timm.create_model("mobilenetv2_035", pad_type="same"))
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["tower", f"image:mobilenetv2_035@64+max:{tmp_path}/w.safetensors", "--option", "pad_type=same", "--mean",
              "0.5", "--std", "0.5,0.4,0.5", "--resize-mode", "squash", "--out", str(tmp_path / "out")])  # fmt: skip
    assert "image:mobilenetv2_035@64+max" in capsys.readouterr().err
    model = load_checkpoint(tmp_path / "out")
    own = model.preprocess
    assert (own.mean, own.std, own.resize_mode, own.resize) == ((0.5,) * 3, (0.5, 0.4, 0.5), "squash", (64, 64))
    with torch.no_grad():
        torch.testing.assert_close(model.clip.encode_image(pixels(64)), whole.forward_features(pixels(64)).amax((2, 3)))


def test_words_are_refused_in_one_line(resnet) -> None:
    model = open_model(f"image:test_resnet+max:{resnet[1]}", [])
    with pytest.raises(UserError, match=r"image:test_resnet\+max knows pictures only") as refused:
        embed_texts(model, ["red dress"])
    assert "\n" not in str(refused.value)
    for ask in (lambda: model.tokenizer(["red dress"]), lambda: model.encode_text(torch.zeros(1, 4, dtype=torch.long))):
        with pytest.raises(UserError, match="knows pictures only"):
            ask()
    assert model.tokenizer.unknown_words("red dress") == []


def test_training_a_tower_without_text_is_refused(captions) -> None:
    with pytest.raises(UserError, match="no text tower"):
        build_model(ModelConfig(name="image:test_resnet"), captions)


@pytest.mark.parametrize(("source", "said"), [
    ("image:", "expected image:"),
    ("image:resnet 50", "expected image:"),
    ("image:resnet5O", "did you mean resnet50"),
    ("image:resnet50.a1", "no weights 'a1'"),
    ("image:resnet50+mean", "no pooling 'mean'"),
    ("image:resnet50+max+max", "every pooling once"),
    ("image:torchvision/resnet", "torchvision has no model"),
    ("image:torchvision/resnet50.V3", "torchvision has no weights 'V3'"),
    ("image:torchvision/maxvit_t+max:nothing", "leave the pooling out"),
    ("image:torchvision/squeezenet1_1:nothing", "no linear classifier"),
    ("image:test_resnet:nothing.safetensors", "no weights file"),
])  # fmt: skip
def test_a_mistaken_name_is_told_in_one_line(source, said) -> None:
    with pytest.raises(UserError, match=said) as refused:
        open_model(source, [])
    assert "\n" not in str(refused.value)


def test_what_a_tower_cannot_do_is_told_before_the_work(resnet, vit, tmp_path) -> None:
    with pytest.raises(UserError, match="class token"):
        open_model(f"image:test_resnet+cls:{resnet[1]}", [])
    with pytest.raises(UserError, match="another architecture"):
        open_model(f"image:test_vit:{resnet[1]}", [])
    with pytest.raises(UserError, match="cannot make test_resnet of the options"):
        image_model(f"image:test_resnet:{resnet[1]}", options={"nonsense": 1})
    with pytest.raises(UserError, match="cannot fetch timm's weights test_resnet"):
        open_model("image:test_resnet", [])
    assert not list(tmp_path.iterdir())


def test_a_name_is_kept_whole_but_for_its_file() -> None:
    for name in ("image:test_resnet.r160_in1k@96+avg+max", "image:torchvision/vgg16.IMAGENET1K_V1"):
        assert parse_tower(f"{name}:/x/y:z.pt").full == name
        assert parse_tower(f"{name}:/x/y:z.pt").file == "/x/y:z.pt"
    assert parse_tower("image:torchvision/vgg16").full == "image:torchvision/vgg16.IMAGENET1K_V1"
    assert parse_tower("image:resnet50").full == "image:resnet50.a1_in1k"
