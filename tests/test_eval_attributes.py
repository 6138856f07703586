"""Category and attribute prediction against naive loops, from a file and from a model."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from eval.attributes import run_attributes
from eval.classes import class_vectors
from eval.prompts import sentences
from eval.settings import Settings
from fclip.catalogue.schema import features
from fclip.catalogue.storage import save_catalogue
from fclip.embedding import embed_catalogue, embed_texts
from fclip.errors import UserError

VALUES = {"texture": ["dotted", "floral", "striped", "woven"], "style": ["boho", "chic"]}
CATEGORIES = ["Blouse", "Dress", "Jeans"]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """40 pictures with lists of attributes, some without labels, some without a category; "woven" only when tested."""
    rng, rows = np.random.default_rng(0), []
    for n in range(40):
        split = "test" if n % 2 else "train"
        texture = [v for v in VALUES["texture"] if rng.random() < 0.4 and (v != "woven" or split == "test")]
        style = None if n % 5 == 1 else [v for v in VALUES["style"] if rng.random() < 0.5]
        category = None if n % 9 == 1 else CATEGORIES[int(rng.integers(3))]
        row = {"id": f"{n}.jpg", "item": f"product {n // 4}", "image": {"bytes": b"", "path": None}, "split": split}
        rows.append(row | {"attributes": {"texture": texture, "style": style}, "category": category})
    shape = features(["texture", "style"], ["texture", "style"], ["category"])
    path = tmp_path_factory.mktemp("attributes") / "catalogue"
    save_catalogue(Dataset.from_list(rows, features=shape), path)
    return str(path), rows


@pytest.fixture(scope="module")
def file(benchmark, tmp_path_factory):
    """Scores of all pictures in another order, with a category that no picture has; id → column → score."""
    path = tmp_path_factory.mktemp("predictions") / "theirs.npz"
    columns = [*(f"style:{v}" for v in VALUES["style"]), *(f"category:{v}" for v in [*CATEGORIES, "Cape"])]
    columns += [f"texture:{v}" for v in VALUES["texture"]]
    ids = [row["id"] for row in benchmark[1]][::-1]
    scores = np.random.default_rng(1).normal(size=(40, len(columns)))
    np.savez(path, id=np.array(ids), columns=np.array(columns), scores=scores)
    return path, {i: dict(zip(columns, row, strict=True)) for i, row in zip(ids, scores, strict=True)}


def naive(rows, scores, k):
    """Recalls by loops over pictures."""
    found = {}
    hits = {group: [0, 0] for group in (*VALUES, "joint")}
    right = {name: [] for name in CATEGORIES}
    for row in rows:
        own = scores[row["id"]]
        if row["category"]:
            best = sorted((c for c in own if c.startswith("category:")), key=lambda c: -own[c])[:k]
            right[row["category"]].append(f"category:{row['category']}" in best)
        positive = {f"{g}:{v}" for g in VALUES for v in row["attributes"][g] or ()}
        for group in hits:
            columns = [c for c in own if not c.startswith("category:") and group in ("joint", c.partition(":")[0])]
            best = sorted(columns, key=lambda c: -own[c])[:k]
            hits[group][0] += len(positive & set(best))
            hits[group][1] += len(positive & set(columns))
    found[f"category@{k}"] = np.mean([one for of in right.values() for one in of])
    found[f"category_macro@{k}"] = np.mean([np.mean(of) for of in right.values()])
    found |= {f"{group}@{k}": hits[group][0] / hits[group][1] for group in VALUES}
    found[f"all_joint@{k}"] = hits["joint"][0] / hits["joint"][1]
    found[f"all_pooled@{k}"] = sum(hits[g][0] for g in VALUES) / sum(hits[g][1] for g in VALUES)
    found[f"all_mean@{k}"] = np.mean([found[f"{g}@{k}"] for g in VALUES])
    return found


def test_scores_of_a_file_are_those_of_naive_loops(benchmark, file, monkeypatch):
    monkeypatch.setattr("eval.attributes.BLOCK", 7)
    path, rows = benchmark
    result = run_attributes(path, "test", predictions=file[0], ks=[1, 2], settings=Settings(bootstrap=40))
    tested = [row for row in rows if row["split"] == "test"]
    expected = naive(tested, file[1], 1) | naive(tested, file[1], 2)
    assert {name: of["value"] for name, of in result["metrics"].items()} == pytest.approx(expected, abs=1e-6)
    for name in ("category@1", "texture@1", "all_mean@1", "category_macro@1"):
        assert result["metrics"][name]["low"] < result["metrics"][name]["value"] < result["metrics"][name]["high"]
    assert result["never_seen"] == ["texture:woven"]
    assert result["counts"]["values"] == {"category": 4, "texture": 4, "style": 2}  # Cape is a candidate
    assert result["model"]["name"] == "theirs"


def test_baselines_are_chance_and_frequency_in_training(benchmark, file):
    path, rows = benchmark
    result = run_attributes(path, "test", predictions=file[0], ks=[1], settings=Settings(bootstrap=0))
    chance = {name: of["value"] for name, of in result["baselines"]["chance"].items()}
    assert chance["texture@1"] == 0.25
    assert (chance["style@1"], chance["category@1"]) == (0.5, 0.25)
    assert chance["all_joint@1"] == pytest.approx(1 / 6, abs=1e-6)
    train = [row for row in rows if row["split"] == "train"]
    counts = {v: sum(v in (row["attributes"]["texture"] or ()) for row in train) for v in VALUES["texture"]}
    top = max(sorted(counts), key=lambda v: counts[v])
    of = [set(row["attributes"]["texture"]) for row in rows if row["split"] == "test"]
    recall = sum(top in own for own in of) / sum(map(len, of))
    assert result["baselines"]["most_frequent"]["texture@1"]["value"] == pytest.approx(recall, abs=1e-6)


def test_a_group_smaller_than_k_is_left_out_and_named(benchmark, file):
    result = run_attributes(benchmark[0], "test", predictions=file[0], settings=Settings(bootstrap=0))
    assert result["too_small"] == {"@3": ["style"], "@5": ["category", "texture", "style"]}
    assert "style@3" not in result["metrics"]
    assert result["metrics"]["all_mean@3"] == result["metrics"]["texture@3"]
    assert not any(name.endswith("@5") for name in result["metrics"])


def test_mistakes_are_told_in_one_line(benchmark, file, tmp_path):
    path, _ = benchmark
    with pytest.raises(UserError, match="either --checkpoint or --predictions, got none"):
        run_attributes(path, "test")
    with pytest.raises(UserError, match=r"split 'tset' is empty; did you mean 'test'"):
        run_attributes(path, "tset", predictions=file[0])
    with pytest.raises(UserError, match=r"no attribute group 'textur' in this catalogue; did you mean 'texture'"):
        run_attributes(path, "test", predictions=file[0], groups=["textur"])
    (tmp_path / "few.csv").write_text("id,style:boho,style:chic\n1.jpg,1,2\n")
    with pytest.raises(UserError, match=r"no column for 7 values of the catalogue: category:Blouse, category:Dress"):
        run_attributes(path, "test", predictions=tmp_path / "few.csv")
    with pytest.raises(UserError, match=r"no prediction for 19 of 20 pictures: 3.jpg, 5.jpg, 7.jpg, …"):
        run_attributes(path, "test", predictions=tmp_path / "few.csv", groups=["style"])


def test_a_model_is_asked_by_the_mean_of_its_prompts(model, catalogue, monkeypatch):
    monkeypatch.setattr("fclip.pretrained.open_model", lambda source, groups: model)
    monkeypatch.setattr("fclip.catalogue.open_catalogue", lambda paths, **_: catalogue)
    prompts = ["a photo of a {}", "{}, worn"]
    result = run_attributes(
        "drawn",
        "train",
        checkpoint="tiny",
        groups=["category"],
        prompts=prompts,
        ks=[2],
        settings=Settings(bootstrap=0),
    )
    part = catalogue.select([n for n, split in enumerate(catalogue["split"]) if split == "train"])
    values = sorted(set(catalogue["category"]))
    images, right = embed_catalogue(model, part).vectors, []
    classes = []
    for value in values:
        mean = embed_texts(model, [prompt.format(value) for prompt in prompts]).mean(0)
        classes.append(mean / np.linalg.norm(mean))
    for image, own in zip(images, part["category"], strict=True):
        best = sorted(values, key=lambda v: -image @ classes[values.index(v)])[:2]
        right.append(own in best)
    assert result["metrics"]["category@2"]["value"] == pytest.approx(np.mean(right), abs=1e-6)
    assert set(result["metrics"]) == {"category@2", "category_macro@2"}
    asked = {value: sentences("category", value, model.captions, prompts) for value in values}
    np.testing.assert_allclose([*class_vectors(model, asked).values()], classes, atol=1e-6)
    plain = embed_texts(model, [model.captions.render({"category": v}) for v in values])
    asked = {value: sentences("category", value, model.captions) for value in values}
    np.testing.assert_allclose([*class_vectors(model, asked).values()], plain, atol=1e-6)


def test_a_prompt_without_a_place_is_refused(model):
    with pytest.raises(UserError, match=r"expected \{\} in a prompt"):
        sentences("category", "dress", model.captions, ["a dress"])
