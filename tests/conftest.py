"""What the tests share: a dozen drawn garments and a model small enough to train in a second."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: more threads sum in another order
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on a network
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the data loader forks

from collections.abc import Callable, Iterator

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset

from fclip.captions import Captions, captions_for
from fclip.catalogue.drawn import draw_catalogue
from fclip.catalogue.schema import groups_of
from fclip.config import ModelConfig, Preset, preset_from
from fclip.model import Model, ModelCard, Preprocess, instantiate
from fclip.pretrained import build_model
from fclip.tokenizer import ClipTokenizer

TINY = {
    "name": "timm:test_resnet",
    "image_size": (32, 32),
    "tokenizer": "trained",
    "embed_dim": 16,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
}
PLAIN = {"crop": 1, "aspect": 1, "flip": 0, "brightness": 0, "contrast": 0, "workers": 0}
"""Training pictures as they are evaluated."""


def shake(module: torch.nn.Module) -> torch.nn.Module:
    """Random values everywhere: a bias of zero or a norm of one would hide that it went to the wrong place."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = 0.05 * torch.randn(value.shape, generator=generator)
            value += noise.abs() if name.endswith("running_var") else noise
    return module.eval()


@pytest.fixture(autouse=True)
def one_thread_and_no_accelerator() -> Iterator[None]:
    """Accelerate keeps its state for the process, and `tune_cpu` sets the threads: neither may leak into a test."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def catalogue() -> Dataset:
    """Twelve products, two pictures of each, 32 pixels wide; all splits."""
    return draw_catalogue(items=12, views=2, size_px=32)


@pytest.fixture(scope="session")
def captions(catalogue: Dataset) -> Captions:
    return captions_for(groups_of(catalogue))


@pytest.fixture(scope="session")
def texts(catalogue: Dataset, captions: Captions) -> list[str]:
    """The canonical caption of every picture."""
    return [captions.render(attributes) for attributes in catalogue["attributes"][:]]


@pytest.fixture(scope="session")
def build(captions: Captions, texts: list[str]) -> Callable[..., Model]:
    """build(**options of ModelConfig) → the same small random model each time, in evaluation mode."""

    def make(**options: object) -> Model:
        torch.manual_seed(0)
        return build_model(ModelConfig(**{**TINY, **options}), captions, texts).eval()

    return make


@pytest.fixture
def model(build: Callable[..., Model]) -> Model:
    return build()


@pytest.fixture
def vit(captions: Captions) -> Model:
    """A random ViT-CLIP as open_clip publishes them: no new projection, both towers' parameters side by side."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
    architecture = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    card = ModelCard("small", architecture, Preprocess(size=(32, 32)), captions)
    return Model(instantiate(architecture), card, ClipTokenizer(16)).eval()


@pytest.fixture
def preset(tmp_path) -> Callable[..., Preset]:
    """preset(epochs=3, optim={"lr": 1e-3}) → a small run under the test's own folder, unaugmented."""

    def make(**keys: object) -> Preset:
        data = PLAIN | dict(keys.pop("data", {}))  # type: ignore[call-overload]
        base = {"out": str(tmp_path / "run"), "epochs": 2, "batch_size": 8, "track": "none"}
        return preset_from(base | keys | {"data": data})

    return make


@pytest.fixture(scope="session")
def broken() -> Callable[[Dataset, list[int]], Dataset]:
    """broken(catalogue, rows) → the same catalogue with pictures that cannot be read in these rows."""

    def damage(catalogue: Dataset, rows: list[int]) -> Dataset:
        columns = catalogue.to_dict()
        for row in rows:
            columns["image"][row] = {"bytes": b"no picture", "path": None}
        return Dataset.from_dict(columns, features=catalogue.features)

    return damage
