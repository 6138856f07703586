"""Accuracy by group against scikit-learn and loops; zero-shot and probes with embeddings that are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset
from fakes import row
from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from eval.__main__ import main
from eval.attribute_groups import Group, accuracy_scores, chance_hits, confusion, hits, read_groups, vocabulary
from eval.probe import neighbour_votes, run_probe
from eval.prompts import prompts, templates_with
from eval.settings import Settings
from eval.zero_shot import nearest_of_class, run_zero_shot
from fclip.captions import Captions
from fclip.catalogue.schema import features
from fclip.errors import UserError


def group(codes, values="abcde", rows=None):
    codes = np.asarray(codes)
    return Group("g", tuple(values), np.arange(len(codes)) if rows is None else np.asarray(rows), codes)


def test_single_values_are_top_k_accuracy_as_in_scikit_learn():
    rng = np.random.default_rng(0)
    codes, scores = rng.integers(4, size=60), rng.normal(size=(60, 5))
    asked = group(codes)
    found = hits(scores, asked)
    for k in (1, 3):
        theirs = top_k_accuracy_score(codes, scores, k=k, labels=range(5))
        assert found[k].mean() == pytest.approx(theirs)
    named = accuracy_scores({"g": found}, {"g": asked}, [str(i // 2) for i in range(60)], 50)
    theirs = recall_score(codes, scores.argmax(1), labels=range(4), average="macro")
    assert named["balanced:g"]["value"] == pytest.approx(theirs, abs=1e-6)  # the empty fifth class is left out
    assert named["top1:g"] == named["top1"] == named["top1_macro"]
    assert named["top1"]["low"] < named["top1"]["value"] < named["top1"]["high"]
    np.testing.assert_array_equal(confusion(scores, asked), confusion_matrix(codes, scores.argmax(1), labels=range(5)))


def test_other_true_values_do_not_stand_against_a_value():
    scores = np.array([[0.9, 0.8, 0.7, 0.1, 0.0]])
    asked = group([0, 2, 4], rows=[0, 0, 0])
    assert hits(scores, asked)[1].tolist() == [1, 0, 0]  # b is wrong and above c
    assert hits(scores, asked)[3].tolist() == [1, 1, 1]  # above e only b and d
    assert chance_hits(asked)[1] == pytest.approx(1 / 3)


def test_ties_go_against_the_model():
    constant = np.zeros((4, 5))
    assert hits(constant, group([0, 1, 2, 3]))[1].sum() == 0
    assert np.diag(confusion(constant, group([0, 1, 2, 3]))).sum() == 0


def test_micro_weighs_pairs_and_macro_groups():
    one, two = group([0, 0, 1, 1], "ab"), group([0], "abcd")
    answers = {"one": {1: np.array([1, 1, 1, 0.0])}, "two": {1: np.zeros(1), 3: np.ones(1)}}
    found = accuracy_scores(answers, {"one": one, "two": two}, list("wxyz"), 0)
    assert (found["top1"]["value"], found["top1_macro"]["value"]) == (0.6, 0.375)
    assert (found["top3"]["value"], found["top3:two"]["value"], "top3:one" in found) == (1, 1, False)


def test_balanced_accuracy_resamples_products_as_a_loop_does():
    rng = np.random.default_rng(0)
    codes, items = rng.choice(3, 40, p=[0.7, 0.25, 0.05]), [f"p{n}" for n in rng.integers(12, size=40)]
    right = rng.integers(2, size=40).astype(float)
    found = accuracy_scores({"g": {1: right}}, {"g": group(codes, "abc")}, items, 200, seed=3)["balanced:g"]
    products, draws, means = sorted(set(items)), np.random.default_rng(3), []
    for chosen in draws.integers(len(products), size=(200, len(products))):
        rows = [n for c in chosen for n, item in enumerate(items) if item == products[c]]
        classes = [[right[n] for n in rows if codes[n] == c] for c in range(3)]
        means.append(np.mean([np.mean(of) for of in classes if of]))
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=1e-6)
    assert found["low"] < found["value"] < found["high"]
    alone = accuracy_scores({"g": {1: right}}, {"g": group(codes, "abc")}, ["one"] * 40, 200)["balanced:g"]
    assert (alone["value"], alone["low"]) == (found["value"], None)


def test_scores_are_asked_for_a_part_of_the_pictures_at_a_time():
    values, asked = np.random.default_rng(0).normal(size=(50, 4)), []

    class Lazy:
        def __getitem__(self, rows):
            asked.append(len(rows))
            return values[rows]

    of = group(np.arange(60) % 4, "abcd", rows=np.sort(np.arange(60) % 50))
    for cells in (4, 40, 1 << 20):
        asked.clear()
        assert {k: v.tolist() for k, v in hits(Lazy(), of, cells=cells).items()} == {
            k: v.tolist() for k, v in hits(values, of).items()
        }
        np.testing.assert_array_equal(confusion(Lazy(), of, cells=cells), confusion(values, of))
        assert max(asked) <= max(1, cells // 4)


def test_groups_too_large_for_a_probe_are_left_out_and_named(world, monkeypatch, capsys):
    world.catalogue = probed(world.catalogue)
    monkeypatch.setattr("eval.probe.MOST_VALUES", 4)  # there are five colours
    with pytest.raises(SystemExit) as end:
        main(["probe", "--checkpoint", "fake", "--catalogue", "cat", "--bootstrap", "0"])
    assert not end.value.code
    assert "colour was left out: its 5 values are more than 4" in capsys.readouterr().out
    with pytest.raises(UserError, match="group 'colour' cannot be probed: its 5 values are more than 4"):
        run_probe("fake", "cat", "test", groups=["colour"])


def test_groups_of_a_catalogue():
    rows = [row("a", "a", "train", colour="red"), row("b", "b", "test", colour="blue", kind="x")]
    catalogue = Dataset.from_list(rows, features=features(["colour", "kind", "use"], optional=["category"]))
    known = vocabulary(catalogue)
    assert known == {"colour": ("blue", "red")}
    train, test = (read_groups(catalogue.select([i]), known)["colour"] for i in (0, 1))
    assert test.unseen(train) == ["blue"]
    with pytest.raises(UserError, match="'kind' has fewer than two values"):
        vocabulary(catalogue, ["kind"])
    with pytest.raises(UserError, match="no attribute group 'color' in this catalogue; did you mean 'colour'"):
        vocabulary(catalogue, ["color"])


def test_prompts_are_the_models_own_and_those_of_the_group():
    captions = Captions("garment[ with [{neck} neckline]]", ("[{neck} neck ]garment",))
    found = prompts("neck", "V", captions, templates_with(["neck=a {value} thing", "neck=the {group} {value}"]))
    assert found == ["garment with v neckline", "v neck garment", "a v thing", "the neck v"]
    assert prompts("neck", "V", captions)[2:] == [
        "a photo of a garment, neck: v",
        "a v garment",
        "clothing with v neck",
        "a product photo of clothing, v",
    ]
    for wrong in ("neck", "neck=no value", "=a {value}", "neck=a {other} {value}"):
        with pytest.raises(UserError, match="expected --prompt"):
            templates_with([wrong])


def test_zero_shot_is_the_nearest_mean_of_prompts(world):
    result = run_zero_shot("fake", "cat", "test", Settings(bootstrap=0, untuned="other"))
    model, right, known = world.models["fake"], 0, 0
    cells = [cell for cell in world.catalogue if cell["split"] == "test"]
    for name in ("colour", "kind"):
        classes = {}
        for value in {cell["attributes"][name] for cell in world.catalogue} - {None}:
            mean = model.vectors(result["prompts"][name][value]).astype(float).mean(0)
            classes[value] = mean / np.linalg.norm(mean)
        of_group = [
            max(classes, key=lambda v: classes[v] @ model.vectors([cell["id"]])[0]) == cell["attributes"][name]
            for cell in cells
            if cell["attributes"][name]
        ]
        assert result["metrics"][f"top1:{name}"]["value"] == pytest.approx(np.mean(of_group), abs=1e-6)
        right, known = right + sum(of_group), known + len(of_group)
    assert result["metrics"]["top1"]["value"] == pytest.approx(right / known, abs=1e-6)
    assert result["groups"] == ["colour", "kind"]  # use has one value
    assert set(result["baselines"]["untuned"]) == set(result["metrics"])
    assert result["baselines"]["untuned"] != result["metrics"]
    seen = [c["attributes"]["colour"] not in result["unseen"]["colour"] for c in cells if c["attributes"]["colour"]]
    # Pixels know every colour but those that train lacks.
    assert result["baselines"]["pixels"]["top1:colour"]["value"] == pytest.approx(np.mean(seen), abs=1e-6)


def test_the_nearest_picture_of_each_class():
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(5, 3)), rng.normal(size=(8, 3))
    pairs = group([0, 1, 1, 3, 0, 3, 1, 0, 1], rows=[0, 0, 1, 2, 3, 4, 5, 6, 7])
    found = nearest_of_class(queries, gallery, pairs, cells=18)
    for q, query in enumerate(queries):
        for c in (0, 1, 3):
            members = pairs.row[pairs.code == c]
            assert found[q, c] == pytest.approx(max(query @ gallery[m] for m in members), abs=1e-6)
    assert (found[:, [2, 4]] < found[:, [0, 1, 3]].min()).all()


def test_neighbours_vote_as_in_scikit_learn():
    rng = np.random.default_rng(0)
    known, new, codes = rng.normal(size=(40, 4)), rng.normal(size=(15, 4)), rng.integers(3, size=40)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    for k, votes in zip((1, 5, 20), neighbour_votes(known, new, group(codes, "abc")), strict=True):
        theirs = (
            KNeighborsClassifier(k, weights=lambda distance: 1 + (1 - distance) / 80, metric="cosine")
            .fit(known, codes)
            .predict(new)
        )
        assert (votes.argmax(1) == theirs).all()
        assert (np.floor(votes.sum(1) + 0.5) == k).all()


def probed(catalogue):
    """Enough train pictures for 20 neighbours."""
    rows = [dict(cell) for cell in catalogue]
    rows += [r | {"id": f"{r['id']}+{n}", "item": f"{r['item']}+", "split": "train"} for r in rows[:20] for n in (1, 2)]
    return Dataset.from_list(rows, features=catalogue.features)


def test_probes_have_baselines_and_intervals(world, tmp_path):
    world.catalogue = probed(world.catalogue)
    out = tmp_path / "probe.json"
    result = run_probe("fake", "cat", "test", Settings(out, bootstrap=20), groups=["kind"])
    assert json.loads(out.read_text()) == result
    assert {name.split(":")[0] for name in result["metrics"]} == {"linear", "knn@1", "knn@5", "knn@20"}
    assert set(result["baselines"]["chance"]) == set(result["metrics"])
    assert result["baselines"]["chance"]["linear:top1"]["value"] == 0.5
    score = result["metrics"]["knn@5:top1:kind"]
    assert score["low"] <= score["value"] <= score["high"]
    assert result["products_in_train"] == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("zero-shot", "--split", "tes"), "split 'tes' is empty"),
        (("zero-shot", "--group", "color"), "no attribute group 'color'"),
        (("probe", "--split", "train"), "expected a split to test that is not trained on"),
        (("probe",), "train pictures, fewer than k = 20 neighbours"),
    ],
)
def test_mistakes_are_one_line(world, capsys, argv, said):
    with pytest.raises(SystemExit) as end:
        main([argv[0], "--checkpoint", "fake", "--catalogue", "cat", *argv[1:]])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_value_never_seen_in_training_is_named(world, capsys):
    with pytest.raises(SystemExit) as end:
        main(["zero-shot", "--checkpoint", "fake", "--catalogue", "cat", "--bootstrap", "5"])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert "colour: never in the train split: " in shown
    assert "one prompt" in shown
