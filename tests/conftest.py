"""What the tests share: a dozen drawn garments and a model small enough to train in a second."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: more threads sum in another order
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on a network
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # a core for each: their threads would wait for one another
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
os.environ["FCLIP_CACHE"] = ""  # nor leave embeddings in the user's folder
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the data loader forks

from collections.abc import Callable, Iterator
from io import BytesIO

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from fakes import Fake, make_catalogue
from PIL import Image

from eval.subject import Subject
from fclip.batches import TrainingPictures
from fclip.captions import Captions, captions_for
from fclip.catalogue.drawn import draw_catalogue
from fclip.catalogue.schema import groups_of, select_split
from fclip.checkpoint import save_checkpoint
from fclip.config import ModelConfig, Preset, preset_from
from fclip.embedding import ImageEmbeddings
from fclip.export import export
from fclip.export_tokenizer import write_tokenizer
from fclip.model import Model, ModelCard, Preprocess, instantiate
from fclip.pace import KEYS
from fclip.pretrained import build_model
from fclip.tokenizer import ClipTokenizer, HuggingFaceTokenizer, TrainedTokenizer
from fclip.training import Run, train

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


AUGMENTED = {"crop": 0.7, "aspect": 1.2, "flip": 0.5, "brightness": 0.1, "contrast": 0.1}

EVERYTHING = {
    "save_every": 2,
    "lora": {"rank": 2, "dropout": 0.3},
    "freeze": ("text.transformer.resblocks.0.attn.*", "logit_scale"),
    "optim": {"head_epochs": 1.5, "ema": 0.9, "wise_ft": 0.5, "layer_decay": 0.5},
}
"""All that changes what learns and what is kept, at once."""


CLIP_VIT = {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 12, "mlp_ratio": 1.75}
HARD_TEXTS = ["a red dress", "Women's V-shaped shirt, long sleeve! " * 5, "x"]
STATISTICS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}


def constant(model) -> dict[str, float]:
    return {"score": 0.5}


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.model.clip.state_dict().items()}


def curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """A history without the clock."""
    return [{k: v for k, v in entry.items() if k not in ("minutes", *KEYS)} for entry in history]


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


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
    """Accelerate keeps its state for the process, `tune_cpu` sets threads and products: none may leak into a test."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.enable_flash_sdp(True)
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
        data = PLAIN | dict(keys.pop("data", {}))
        base = {"out": str(tmp_path / "run"), "epochs": 2, "batch_size": 8, "track": "none"}
        return preset_from(base | keys | {"data": data})

    return make


@pytest.fixture
def fit(build, catalogue, captions):
    """fit(preset, evaluate=…, resume=…, on=catalogue, model=…) → the finished Run of a fresh model."""

    def go(preset, evaluate=None, resume=None, on: Dataset = catalogue, model=None) -> Run:
        model = model or build(drop_path=preset.model.drop_path)
        pictures = TrainingPictures(on, captions, model.preprocess, preset.data, preset.seed, preset.epochs)
        return train(preset, model, pictures, evaluate, resume)

    return go


@pytest.fixture(scope="session")
def broken() -> Callable[[Dataset, list[int]], Dataset]:
    """broken(catalogue, rows) → the same catalogue with pictures that cannot be read in these rows."""

    def damage(catalogue: Dataset, rows: list[int]) -> Dataset:
        columns = catalogue.to_dict()
        for row in rows:
            columns["image"][row] = {"bytes": b"no picture", "path": None}
        return Dataset.from_dict(columns, features=catalogue.features)

    return damage


@pytest.fixture(scope="session")
def tokenizers(texts, tmp_path_factory):
    """One of each kind, for 20 tokens."""
    trained = TrainedTokenizer.train([*texts, *HARD_TEXTS], context_length=20)
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(trained, folder)
    return {"clip": ClipTokenizer(20), "trained": trained, "huggingface": HuggingFaceTokenizer(folder, 20)}


@pytest.fixture(scope="session")
def made(captions, tokenizers):
    """made(vision_cfg, kind of tokenizer, model_cfg=…, **of the preprocessing) → a small model, random everywhere."""

    def make(vision=CLIP_VIT, kind="trained", *, text=None, architecture=None, **preprocess) -> Model:
        tokenizer = tokenizers[kind]
        text_cfg = {"context_length": 20, "vocab_size": tokenizer.vocab_size, "width": 24, "heads": 3, "layers": 2}
        model_cfg = {"embed_dim": 16, "vision_cfg": dict(vision), "text_cfg": text_cfg | (text or {})}
        model_cfg |= {"custom_text": "timm_model_name" in vision} | (architecture or {})
        size = vision["image_size"]
        size = (size, size) if isinstance(size, int) else tuple(size)
        torch.manual_seed(0)
        card = ModelCard("small", model_cfg, Preprocess(size=size, **STATISTICS | preprocess), captions)
        return Model(shake(instantiate(model_cfg)), card, tokenizer).eval()

    return make


@pytest.fixture
def exported(tmp_path):
    """exported(model, to) → the folder."""

    def make(model: Model, to: str):
        save_checkpoint(model, tmp_path / "checkpoint", overwrite=True)
        export(tmp_path / "checkpoint", to, tmp_path / "out", overwrite=True)
        return tmp_path / "out"

    return make


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    [row] = draw_catalogue(items=1, views=1, size_px=160)
    return Image.open(BytesIO(row["image"]["bytes"])).convert("RGB").crop((0, 0, 130, 97))


@pytest.fixture
def world(monkeypatch):
    """models and catalogue in place of what reads them; pictures named in `broken` cannot be read."""

    class World:
        catalogue, models, broken = make_catalogue(), {"fake": Fake(), "other": Fake("other", skew=1)}, ()

    def open_subject(checkpoint, catalogue, split, catalogue_format=None):
        part = select_split(World.catalogue, split)
        return Subject(World.models[str(checkpoint)], World.catalogue, part, str(checkpoint), ["cat"], split)

    def embed_images(model, pictures, *, batch_size=64, progress=False):
        names = pictures["id"][:]
        rows = [i for i, name in enumerate(names) if name not in World.broken]
        skipped = [(name, "cut off") for name in names if name in World.broken]
        return ImageEmbeddings(model.vectors([names[i] for i in rows]), np.array(rows), skipped)

    for module in ("retrieval", "zero_shot", "probe", "inshop", "consumer2shop", "image_retrieval", "classes"):
        for name, fake in {
            "open_subject": open_subject,
            "embed_images": embed_images,
            "embed_texts": lambda model, texts: model.vectors(texts),
            "open_untuned": lambda name, subject: World.models[name] if name else None,
        }.items():
            monkeypatch.setattr(f"eval.{module}.{name}", fake, raising=False)
    return World


@pytest.fixture(scope="module")
def s3():
    """An S3 server on this machine, which the environment names; its bucket is called shop."""
    from object_store import ObjectStore

    store = ObjectStore()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in store.environment.items():
            patched.setenv(name, value)
        yield store
    store.close()


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory):
    """The folder of a tiny Stable Diffusion; not to be changed."""
    from tiny_diffusion import make_tiny_pipeline

    return make_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")
