"""DeepFashion's retrieval benchmarks against loops and scikit-learn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from fakes import cosine, row
from sklearn.metrics import average_precision_score

from eval.__main__ import main
from eval.consumer2shop import run_consumer2shop
from eval.inshop import run_inshop
from eval.settings import Settings
from fclip.catalogue.schema import features

PLAIN = Settings(baselines=False, bootstrap=0)
KS = (1, 5)


def catalogue_of(rows):
    return Dataset.from_list(rows, features=features(["colour", "kind", "use"], optional=["category", "view"]))


def inshop_rows():
    rng, rows = np.random.default_rng(0), []
    for n in range(40):
        item = f"p{rng.integers(9)}"
        split = ("query", "gallery", "train")[n % 3] if n else "query"
        rows.append(row(f"i{n}", "absent" if n == 0 else item, split, (int(item[1]) * 20, n, 0)) | {"view": None})
    return rows


def by_hand(model, asked, shown, ks):
    """hit@k and mean average precision by loops; queries without an answer are left out."""
    hits, precision, without = [], [], 0
    for q in asked:
        scores = np.array([cosine(model.vectors([q["id"]])[0], model.vectors([g["id"]])[0]) for g in shown])
        right = np.array([g["item"] == q["item"] for g in shown])
        if not right.any():
            without += 1
            continue
        order = np.argsort(-scores)
        hits.append([right[order[:k]].any() for k in ks])
        precision.append(average_precision_score(right, scores))
    return np.mean(hits, 0), np.mean(precision), without


def test_inshop_agrees_with_loops_and_scikit_learn(world, tmp_path):
    rows = inshop_rows()
    world.catalogue = catalogue_of(rows)
    out = tmp_path / "inshop.json"
    result = run_inshop("fake", "cat", replace(PLAIN, out=out), ks=KS)
    asked, shown = ([r for r in rows if r["split"] == split] for split in ("query", "gallery"))
    hit, average, without = by_hand(world.models["fake"], asked, shown, (1, 5))
    assert [result["metrics"][f"hit@{k}"]["value"] for k in (1, 5)] == pytest.approx(hit, abs=1e-6)
    assert result["metrics"]["map"]["value"] == pytest.approx(average, abs=1e-6)
    assert result["counts"]["without_relevant"] == without >= 1
    assert result["counts"]["queries"] == len(asked)
    assert json.loads(out.read_text()) == result
    assert result["command"] == (
        f"python -m eval inshop --checkpoint fake --catalogue cat --k 1 --k 5 --bootstrap 0 --seed 0 --batch-size 64 "
        f"--no-baselines --json {out}"
    )


def test_a_constant_model_finds_nothing_where_copied_code_says_all(world):
    world.catalogue, world.models["fake"].constant = catalogue_of(inshop_rows()), True
    result = run_inshop("fake", "cat", PLAIN, ks=KS)
    assert result["metrics"]["hit@1"]["value"] == 0
    assert result["counts"]["ties"] == result["counts"]["queries"]


def test_baselines_stand_beside(world):
    world.catalogue, world.broken = catalogue_of(inshop_rows()), ("i3", "i4")
    result = run_inshop("fake", "cat", Settings(untuned="other", bootstrap=20), ks=KS)
    beside = result["baselines"]
    assert beside["pixels"]["hit@1"]["value"] > beside["chance"]["hit@1"]["value"]
    assert all(beside[name].keys() == result["metrics"].keys() for name in ("chance", "pixels", "histogram", "untuned"))
    assert (result["counts"]["unreadable"], result["counts"]["unreadable_queries"]) == (2, 1)
    assert result["metrics"]["map"]["low"] < result["metrics"]["map"]["high"]


def consumer_rows():
    rng, rows = np.random.default_rng(1), []
    for n in range(60):
        split, view = ("train", "val", "test")[n % 3], ("consumer", "shop")[n % 2]
        rows.append(row(f"c{n}", f"p{rng.integers(6)}", split, (n, 0, 0)) | {"view": view})
    return rows


@pytest.mark.parametrize("split", ["test", "val"])
def test_consumer2shop_searches_the_shop_pictures_of_val_and_test(world, split):
    rows = consumer_rows()
    world.catalogue = catalogue_of(rows)
    result = run_consumer2shop("fake", "cat", split, PLAIN, ks=KS)
    asked = [r for r in rows if r["split"] == split and r["view"] == "consumer"]
    shown = [r for r in rows if r["split"] != "train" and r["view"] == "shop"]
    hit, average, without = by_hand(world.models["fake"], asked, shown, (1, 5))
    assert [result["metrics"][f"hit@{k}"]["value"] for k in (1, 5)] == pytest.approx(hit, abs=1e-6)
    assert result["metrics"]["map"]["value"] == pytest.approx(average, abs=1e-6)
    counts = result["counts"]
    assert (counts["queries"], counts["gallery"], counts["without_relevant"]) == (len(asked), len(shown), without)


def test_mistakes_are_one_line(world, capsys):
    def fails(*argv):
        with pytest.raises(SystemExit) as end:
            main([argv[0], "--checkpoint", "fake", "--catalogue", "cat", *argv[1:]])
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "split 'query' is empty" in fails("inshop")
    assert "no column `view`" in fails("consumer2shop")
    world.catalogue = catalogue_of(inshop_rows())
    assert "a gallery of 13 pictures is fewer than k = 50; pass --k 13 or less" in fails("inshop")
    assert "expected --split test or val" in fails("consumer2shop", "--split", "query")
    rows = [r | {"item": r["id"]} for r in inshop_rows()]
    world.catalogue = catalogue_of(rows)
    assert "none of 14 queries has its product in the gallery" in fails("inshop", "--k", "1")


def test_command_line_prints_scores_beside_baselines(world, capsys):
    world.catalogue = catalogue_of(consumer_rows())
    with pytest.raises(SystemExit) as end:
        main(["consumer2shop", "--checkpoint", "fake", "--catalogue", "cat", "--k", "1", "--bootstrap", "5"])
    assert not end.value.code
    shown = capsys.readouterr().out
    for words in ("hit@1", "16x16", "chance", "colours", "consumer2shop: 10 queries"):
        assert words in shown
