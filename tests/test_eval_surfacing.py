"""The protocol with a model that knows what it should score."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from eval.__main__ import main
from eval.surfacing import evaluate_surfacing, run_surfacing
from fclip.captions import Captions
from fclip.errors import UserError

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "black": (0, 0, 0)}
SLEEVES = ("long", "short")


@dataclass
class Oracle:
    """Knows every picture's caption, except that it takes every `wrong`-th for the next caption."""

    name: str = "oracle"
    wrong: int = 0
    collapsed: bool = False
    fingerprint: str = "f00"
    captions: Captions = field(default_factory=lambda: Captions("[{colour} ]garment[, {sleeve} sleeve]"))
    dim: int = 64

    def to(self, device=None, memory_format=None):
        return self

    def require_text(self):
        pass

    def vectors(self, texts):
        codes = [0 if self.collapsed else sum(map(ord, text)) * 7 + len(text) for text in texts]
        rows = np.array([np.random.default_rng(code).normal(size=self.dim) for code in codes], np.float32)
        rows = rows.reshape(len(codes), self.dim)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embed_catalogue(model, catalogue, batch_size=64, progress=False):
    rows, texts, skipped = [], [], []
    known = sorted({model.captions.render(cell["attributes"]) for cell in catalogue})
    for i, cell in enumerate(catalogue):
        if cell["image"]["bytes"] == b"broken":
            skipped.append((cell["id"], "cannot read picture"))
            continue
        text = model.captions.render(cell["attributes"])
        if model.wrong and i % model.wrong == 0:
            text = known[(known.index(text) + 1) % len(known)]
        rows.append(i)
        texts.append(text)
    return SimpleNamespace(vectors=model.vectors(texts), rows=np.array(rows, int), skipped=skipped)


def make_catalogue(products=24, seed=0):
    """Two pictures per product, of its colour; some attributes unknown; one broken picture, one without caption."""
    from datasets import Dataset

    from fclip.catalogue.schema import features

    rng, rows = np.random.default_rng(seed), []
    for product in range(products):
        colour, sleeve = str(rng.choice(list(COLOURS))), str(rng.choice(SLEEVES))
        for view in range(2):
            data = io.BytesIO()
            Image.new("RGB", (8, 12), COLOURS[colour]).save(data, "png")
            attributes = {"colour": colour, "sleeve": None if product % 5 == 4 else sleeve}
            rows.append(
                {
                    "id": f"{product}-{view}",
                    "item": f"product {product}",
                    "image": {"bytes": data.getvalue(), "path": None},
                    "split": "train" if product % 2 else "val",
                    "attributes": attributes,
                }
            )
    rows[0]["image"] = {"bytes": b"broken", "path": None}
    rows[1]["attributes"] = {"colour": None, "sleeve": None}
    return Dataset.from_list(rows, features=features(["colour", "sleeve"]))


@pytest.fixture
def world(monkeypatch):
    """Catalogue and models by name, in place of what reads them from disk; models are Oracles."""
    models = {"good": Oracle("good"), "poor": Oracle("poor", wrong=3), "flat": Oracle("flat", collapsed=True)}
    found = SimpleNamespace(catalogue=make_catalogue(), models=models)
    embedding = SimpleNamespace(embed_catalogue=embed_catalogue, embed_texts=lambda model, texts: model.vectors(texts))
    monkeypatch.setitem(sys.modules, "fclip.embedding", embedding)
    monkeypatch.setattr("fclip.pretrained.open_model", lambda source, groups: found.models[str(source)])
    monkeypatch.setattr("fclip.catalogue.open_catalogue", lambda paths, **_: found.catalogue, raising=False)
    return found


def test_a_perfect_model_surfaces_everything(world):
    result = evaluate_surfacing(world.models["good"], world.catalogue, bootstrap=20)
    metrics = result["metrics"]
    for name in ("cosine", "text_sfa", "attribute_sfa", "attribute_sfa_macro", "recall_at_1", "recall_at_10"):
        assert metrics[name] == {"value": 1, "low": 1, "high": 1}
    assert metrics["caption_hit_at_1"]["value"] == 1
    assert metrics["attribute_sfa_by_group"]["sleeve"]["value"] == 1


def test_counts_tell_what_was_left_out(world):
    result = evaluate_surfacing(world.models["good"], world.catalogue, bootstrap=0)
    counts = result["counts"]
    assert counts["pictures"] == 46  # 48, one without caption, one broken
    assert counts["without_caption"] == counts["unreadable"] == 1
    assert counts["products"] == 23
    assert counts["ties"] == counts["mixed_captions"] == 0
    assert counts["known"] == {"colour": 46, "sleeve": 38}
    assert result["skipped"] == [["0-0", "cannot read picture"]]
    assert "0-0" not in result["pictures"]["id"]


def test_scores_are_those_of_the_answers_in_the_file(world):
    result = evaluate_surfacing(world.models["poor"], world.catalogue, bootstrap=200)
    pictures, metrics = result["pictures"], result["metrics"]
    correct = [rank == 1 for rank in pictures["rank"]]
    assert metrics["text_sfa"]["value"] == pytest.approx(np.mean(correct), abs=1e-6)
    marks = "".join(pictures["attributes"].values())
    assert metrics["attribute_sfa"]["value"] == pytest.approx(
        marks.count("1") / (len(marks) - marks.count("-")), abs=1e-6
    )
    assert metrics["text_sfa"]["low"] < metrics["text_sfa"]["value"] < metrics["text_sfa"]["high"]
    assert [rank == 1 for rank in pictures["rank"]] == [abs(c - 1) < 1e-4 for c in pictures["cosine"]]


def test_a_collapsed_model_scores_zero(world):
    result = evaluate_surfacing(world.models["flat"], world.catalogue, bootstrap=0)
    assert result["metrics"]["text_sfa"] == {"value": 0, "low": None, "high": None}
    assert result["metrics"]["recall_at_1"]["value"] == 0
    assert result["counts"]["ties"] == result["counts"]["pictures"]


def test_first_fifty_embeddings_are_pairs_of_picture_and_own_caption(world):
    first = evaluate_surfacing(world.models["good"], world.catalogue, bootstrap=0)["first"]
    assert np.shape(first["image"]) == np.shape(first["text"]) == (46, 64)
    np.testing.assert_allclose(first["image"], first["text"], atol=1e-5)


def test_the_same_seed_gives_the_same_json(world):
    runs = [json.dumps(evaluate_surfacing(world.models["poor"], world.catalogue, bootstrap=50)) for _ in range(2)]
    assert runs[0] == runs[1]


def test_embeddings_that_are_not_finite_name_the_model(world):
    model = world.models["good"]
    model.vectors = lambda texts: np.full((len(texts), 8), np.nan, np.float32)
    with pytest.raises(UserError, match=r"model good: expected finite image embeddings"):
        evaluate_surfacing(model, world.catalogue)


def test_a_catalogue_without_the_models_attributes_is_refused(world):
    world.models["good"].captions = Captions("[{fabric}]")
    with pytest.raises(UserError, match="name fabric, the catalogue has colour, sleeve"):
        evaluate_surfacing(world.models["good"], world.catalogue)


def test_no_readable_picture_is_refused(world):
    broken = world.catalogue.select([0])
    with pytest.raises(UserError, match="none of 1 pictures could be read"):
        evaluate_surfacing(world.models["good"], broken)


def test_baselines_are_measured_on_the_same_pictures(world, tmp_path):
    result = run_surfacing("good", "cat", "val", tmp_path / "new" / "out.json", bootstrap=50, progress=False)
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == result
    found, n_captions = result["baselines"], result["counts"]["captions"]
    assert found["chance"]["text_sfa"]["value"] == pytest.approx(1 / n_captions, abs=1e-6)
    assert found["pixels"]["attribute_sfa_by_group"]["colour"]["value"] == 1  # pictures are of one colour: pixels know
    assert found["pixels"]["attribute_sfa_by_group"]["sleeve"]["value"] < 1
    assert 0 < found["most_frequent"]["attribute_sfa_by_group"]["colour"]["value"] < 1
    assert all("cosine" not in scores for scores in found.values())
    assert result["products_in_train"] == 0


def test_most_frequent_caption_is_that_of_the_train_split(world):
    result = run_surfacing("good", "cat", "val", bootstrap=0, progress=False)
    render = world.models["good"].captions.render
    train = [render(cell["attributes"]) for cell in world.catalogue if cell["split"] == "train"]
    top = max(train, key=lambda text: (train.count(text), -train.index(text)))
    rows = [cell for cell in world.catalogue if cell["id"] in set(result["pictures"]["id"])]
    share = np.mean([render(cell["attributes"]) == top for cell in rows])
    assert result["baselines"]["most_frequent"]["text_sfa"]["value"] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(
    ("split", "reason"), [("train", "find itself"), ("all", "find itself"), ("val", "no train split")]
)
def test_pixels_are_left_out_where_they_would_mean_nothing(world, split, reason):
    if split == "val":
        world.catalogue = world.catalogue.select([i for i, s in enumerate(world.catalogue["split"]) if s == "val"])
    found = run_surfacing("good", "cat", split, bootstrap=0, progress=False)["baselines"]
    assert "pixels" not in found
    assert reason in found["left_out"]["pixels"]
    assert found["most_frequent"]["text_sfa"]["value"] > 0


def test_products_that_are_in_the_train_split_too_are_counted(world):
    rows = world.catalogue.to_list()
    rows[2]["item"] = rows[-1]["item"] = "product 4"  # product 1, 23: train; product 4: val
    world.catalogue = type(world.catalogue).from_list(rows, features=world.catalogue.features)
    assert run_surfacing("good", "cat", "val", bootstrap=0, baselines=False, progress=False)["products_in_train"] == 1


def test_the_command_that_is_noted_can_be_run_again(world, tmp_path):
    out = tmp_path / "with space.json"
    result = run_surfacing("good", ["a", "b"], "val", out, False, bootstrap=0, progress=False)
    assert result["command"] == (
        "python -m eval surfacing --checkpoint good --catalogue a --catalogue b --split val --bootstrap 0 --seed 0 "
        f"--batch-size 64 --json '{out}' --no-baselines"
    )
    assert result["catalogue"] == ["a", "b"]


def run(*argv):
    """Runs the program, returns its exit code."""
    with pytest.raises(SystemExit) as end:
        main(list(argv))
    return end.value.code or 0


def test_command_line_prints_the_model_beside_the_baselines(world, tmp_path, capsys):
    out = tmp_path / "poor.json"
    assert run("surfacing", "--checkpoint", "poor", "--catalogue", "cat", "--json", str(out), "--bootstrap", "30") == 0
    shown = capsys.readouterr()
    assert not shown.err
    for word in ("poor", "chance", "most frequent", "16x16", "Text SFA", "Attr. SFA", "colour (22)", "sleeve (", "["):
        assert word in shown.out
    assert "1 pictures could not be read" in shown.out
    assert json.loads(out.read_text())["split"] == "val"


def test_command_line_needs_no_output_file_and_can_leave_out_baselines(world, capsys):
    args = ("--checkpoint", "good", "--catalogue", "a", "--catalogue", "b", "--no-baselines", "--bootstrap", "0")
    assert run("surfacing", *args) == 0
    assert "chance" not in capsys.readouterr().out


def test_a_users_mistake_is_one_line_and_exit_code_2(world, tmp_path, capsys):
    assert run("surfacing", "--checkpoint", "good", "--catalogue", "cat", "--split", "vall") == 2
    shown = capsys.readouterr()
    assert shown.err == "error: split 'vall' is empty; did you mean 'val'? known: all, train, val\n"
    assert run("surfacing", "--checkpoint", "good", "--catalogue", "cat", "--json", str(tmp_path)) == 2
    assert "expected a file to write, got a folder" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [(), ("surfacing",), ("compare",)])
def test_help_teaches_with_an_example(argv, capsys):
    assert run(*argv, "--help") == 0
    assert "python -m eval " + " ".join(argv) in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    import subprocess

    code = "import sys\nfrom eval.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'datasets', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
