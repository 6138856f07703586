"""`python -m eval backbones` measures towers as the definitions say, and tells differences, costs and baselines."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import timm
import torch
from conftest import shake
from safetensors.torch import save_file

from eval.__main__ import main
from eval.backbone_tables import notes_of, tables_of
from eval.backbones import images_per_second, named_models, run_backbones
from eval.inshop import run_inshop
from eval.leaks import run_leaks
from eval.metrics.uncertainty import paired_interval
from eval.neighbours import neighbours, read_labels
from eval.retrieval import run_retrieval
from eval.settings import Settings
from eval.surfacing import run_surfacing
from eval.zero_shot import run_zero_shot
from fclip.checkpoint import save_checkpoint
from fclip.embedding import embed_catalogue
from fclip.errors import UserError
from fclip.image_only import image_model
from fclip.pretrained import open_model
from fclip.recommend import Recommender

PLAIN = Settings(baselines=False, bootstrap=0)


@pytest.fixture(scope="module")
def towers(tmp_path_factory, build):
    """A tower with two poolings, and a CLIP."""
    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    save_file(shake(timm.create_model("test_resnet")).state_dict(), folder / "weights.safetensors")
    save_checkpoint(image_model(f"image:test_resnet@64+max:{folder}/weights.safetensors"), folder / "max")
    save_checkpoint(build(), folder / "clip")
    return {"avg": f"image:test_resnet@64+avg:{folder}/weights.safetensors", "max": str(folder / "max"),
            "clip": str(folder / "clip")}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A catalogue on the disk."""
    from fclip.catalogue import save_catalogue
    from fclip.catalogue.drawn import draw_catalogue

    folder = tmp_path_factory.mktemp("catalogue") / "drawn"
    save_catalogue(draw_catalogue(items=14, views=2, size_px=48), folder)
    return str(folder)


def measured(towers, saved, **options):
    models = [f"{name}={source}" for name, source in towers.items()]
    return run_backbones(models, saved, "all", Settings(bootstrap=50), ks=[3], speed=False, **options)


def test_scores_and_differences_are_those_of_the_embeddings(towers, saved) -> None:
    from fclip.catalogue import open_catalogue

    result, catalogue = measured(towers, saved, against="max"), open_catalogue(saved)
    shown = read_labels(catalogue)
    values = {}
    for name, source in towers.items():
        vectors = embed_catalogue(open_model(source, []), catalogue).vectors
        values[name] = neighbours(vectors, vectors, shown, [3])
        for score, of in values[name].items():
            assert result["metrics"][name][score]["value"] == pytest.approx(np.nanmean(of), abs=1e-6)
    score = "attributes:agreement@3"
    ours, theirs = (values[name][score][:, None] for name in ("avg", "max"))
    low, high = paired_interval(ours, theirs, np.ones_like(ours), shown.items.tolist(), 50)
    apart = result["differences"]["avg"][score]
    assert (apart["low"], apart["high"]) == (pytest.approx(low[0], abs=1e-6), pytest.approx(high[0], abs=1e-6))
    assert set(result["differences"]) == {"avg", "clip"}
    assert 0 < apart["p"] <= 1
    assert set(result["baselines"]) == {"chance", "pixels", "histogram"}
    assert {name: about["dimension"] for name, about in result["models"].items()} == {"avg": 96, "max": 96, "clip": 16}


def test_the_command_writes_every_form_and_says_how_to_measure_again(towers, saved, tmp_path, capsys) -> None:
    argv = [
        "--no-cache",
        "backbones",
        "--catalogue",
        saved,
        "--split",
        "all",
        "--k",
        "3",
        "--bootstrap",
        "20",
        "--no-speed",
    ]
    for name, source in towers.items():
        argv += ["--model", f"{name}={source}"]
    for form in ("json", "markdown", "csv", "latex"):
        argv += [f"--{form}", str(tmp_path / form)]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(argv)
    result = json.loads((tmp_path / "json").read_text())
    assert "Neighbours: 28 pictures of 14 products" in capsys.readouterr().out
    assert (tmp_path / "markdown").read_text().count("### ") == 4
    assert r"\toprule" in (tmp_path / "latex").read_text()
    with (tmp_path / "csv").open() as stream:
        [cell] = [row for row in csv.DictReader(stream) if (row["row"], row["column"]) == ("clip", "product MAP@3")]
    assert float(cell["value"]) == result["metrics"]["clip"]["product:map@3"]["value"]
    assert result["command"].startswith("python -m eval backbones --catalogue")
    assert "--no-speed" in result["command"]


def test_one_tower_without_baselines_has_no_differences(towers, saved) -> None:
    result = run_backbones([towers["max"]], saved, "all", PLAIN, ks=[2], speed=False)
    assert (result["differences"], result["baselines"], result["best"]) == ({}, {}, {})
    assert [table.title.split(":")[0] for table in tables_of(result)] == [
        "Neighbours", "Agreement of the 2 nearest by attribute", "What they cost"]  # fmt: skip
    assert len(notes_of(result)) == 1


def test_speed_is_that_of_the_fastest_batch(model) -> None:
    ticks = iter([0, 2, 2, 2, 2.5, 3, 3, 5, 5])
    assert images_per_second(model, lambda: next(ticks)) == 32


def test_mistakes_are_told_before_the_work(towers, saved) -> None:
    for models, options, said in (
        ([], {}, "expected a model"),
        (["a=x", "a=y"], {}, "stands for two models"),
        ([towers["max"]], {"against": "mux"}, "no model 'mux'"),
        ([towers["max"]], {"category": "kategory"}, "no category"),
        ([towers["max"]], {"groups": ["color"]}, "did you mean 'colour'"),
        ([towers["max"]], {"ks": [99]}, "pass --k 26 or less"),
    ):
        with pytest.raises(UserError, match=said):
            run_backbones(models, saved, "all", **{"speed": False, **options})


def test_names_are_split_from_models() -> None:
    models = ["max=image:resnet50+max", "image:resnet50:runs/a=b/w.pt", "runs/a=b", "fashionclip"]
    assert named_models(models) == {"max": "image:resnet50+max", **{model: model for model in models[1:]}}


def test_what_needs_pictures_only_works_without_a_text_tower(towers, saved, tmp_path) -> None:
    for source in (towers["avg"], towers["max"]):
        found = run_retrieval(source, saved, "all", PLAIN, ks=[1])
        assert list(found["units"]) == ["image_to_image"]
        assert run_leaks(saved, checkpoint=source, cosine=0.999)["model"]["name"].startswith("image:test_resnet@64+")
    with pytest.raises(UserError, match="query"):  # its own error, not one of words
        run_inshop(towers["max"], saved)


def test_what_needs_words_says_so_before_the_work(towers, saved, monkeypatch) -> None:
    monkeypatch.setattr("eval.encoding.embed_images", None)
    for measure in (run_surfacing, run_zero_shot):
        with pytest.raises(UserError, match="knows pictures only"):
            measure(towers["max"], saved, "all")
    with pytest.raises(UserError, match="knows pictures only"):
        run_retrieval(towers["max"], saved, "all", PLAIN, tasks=["text_to_image"], ks=[1])


def test_an_index_finds_its_tower_again_and_answers_photographs(towers, saved, tmp_path, monkeypatch) -> None:
    from fclip.catalogue import open_catalogue
    from fclip.index import build_index

    name, _, file = towers["avg"].rpartition(":")
    monkeypatch.chdir(file.rpartition("/")[0])
    catalogue, relative = open_catalogue(saved), f"{name}:weights.safetensors"
    build_index(tmp_path / "index", open_model(relative, []), catalogue, relative)
    monkeypatch.chdir(tmp_path)
    recommender = Recommender.open(tmp_path / "index")
    answers = recommender.ask(images=[catalogue[5]["image"]], k=3)
    assert (answers[0].id, answers[0].score) == (catalogue[5]["id"], pytest.approx(1, abs=1e-5))
    with pytest.raises(UserError, match="knows pictures only"):
        recommender.ask(texts=["red dress"])
    with pytest.raises(UserError, match="was built with model"):
        Recommender.open(tmp_path / "index", towers["max"])
