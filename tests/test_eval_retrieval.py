"""The retrieval protocols with embeddings that are known, against loops and trec_eval."""

from __future__ import annotations

import io
import json

import ir_measures
import numpy as np
import pytest
from datasets import Dataset
from fakes import cosine, row
from PIL import Image

from eval.__main__ import main
from eval.baselines import by_distance, colour_histograms
from eval.retrieval import MARQO_QUERIES, run_retrieval
from eval.retrieval_tasks import marqo_tasks, own_tasks, pair_tasks, read_pictures
from eval.settings import Settings
from fclip.captions import Captions
from fclip.catalogue.schema import features

PLAIN = Settings(baselines=False, bootstrap=0)


def by_hand(queries, gallery, relevant, exclude=lambda q, g: False):
    """hit@1, recall@5, mrr@10 by loops over {name: vector}; `relevant` takes two names."""
    hits, recall, mrr = [], [], []
    for q, query in queries.items():
        names = [g for g in gallery if not exclude(q, g)]
        order = sorted(names, key=lambda g: -cosine(query, gallery[g]))
        found = [relevant(q, g) for g in order]
        if any(found):
            hits.append(found[0])
            recall.append(sum(found[:5]) / sum(found))
            mrr.append(next((1 / r for r, good in enumerate(found[:10], 1) if good), 0))
    return np.mean(hits), np.mean(recall), np.mean(mrr)


def measured(result, task):
    return [result["metrics"][f"{task}:{name}"]["value"] for name in ("hit@1", "recall@5", "mrr@10")]


def shown_by(catalogue, captions):
    """id → item, caption, category of the test pictures."""
    rows = [cell for cell in catalogue if cell["split"] == "test"]
    return {c["id"]: (c["item"], captions.render(c["attributes"]), c["category"]) for c in rows}


def test_own_tasks_agree_with_loops(world):
    model = world.models["fake"]
    result = run_retrieval("fake", "cat", "test", PLAIN, image_weight=0.7)
    about = shown_by(world.catalogue, model.captions)
    pictures = dict(zip(about, model.vectors(list(about)), strict=True))
    asked = {(item, text): model.vectors([text])[0] for item, text, _ in about.values() if text}
    found = by_hand(asked, pictures, lambda q, g: about[g][0] == q[0] or about[g][1] == q[1])
    assert measured(result, "text_to_image") == pytest.approx(found, abs=1e-6)

    captions = {text: model.vectors([text])[0] for _, text, _ in about.values() if text}
    said = {(item, text) for item, text, _ in about.values()}
    found = by_hand(pictures, captions, lambda q, g: (about[q][0], g) in said)
    assert measured(result, "image_to_text") == pytest.approx(found, abs=1e-6)

    found = by_hand(pictures, pictures, lambda q, g: about[q][0] == about[g][0], lambda q, g: q == g)
    assert measured(result, "image_to_image") == pytest.approx(found, abs=1e-6)
    alone = sum(1 for item, *_ in about.values() if sum(item == other for other, *_ in about.values()) == 1)
    assert result["counts"]["tasks"]["image_to_image"]["without_relevant"] == alone > 0

    products, kinds = {}, {}
    for name, (item, _, kind) in about.items():
        products.setdefault(item, []).append(pictures[name] / np.linalg.norm(pictures[name]))
        kinds[item] = kinds.get(item) or kind
    plain = {c["item"]: c["attributes"]["colour"] for c in reversed(world.catalogue.to_list()) if c["category"]}
    for item, vectors in products.items():
        text = model.vectors([plain[item]])[0]  # the caption of the first view without its category
        image = np.sum(vectors, 0)
        products[item] = 0.7 * image / np.linalg.norm(image) + 0.3 * text
    queries = {kind: model.vectors([kind])[0] for kind in ("dress", "shirt")}
    found = by_hand(queries, products, lambda q, g: kinds[g] == q)
    assert result["counts"]["tasks"]["category_to_product"]["queries"] == 2
    assert measured(result, "category_to_product") == pytest.approx(found, abs=1e-6)


def test_marqo_agrees_with_trec_eval(world):
    result = run_retrieval("fake", "cat", "test", Settings(bootstrap=0), protocol="marqo", tasks=["text_to_image"])
    model = world.models["fake"]
    about = shown_by(world.catalogue, model.captions)
    texts = sorted({text for _, text, _ in about.values() if text})
    qrels = [ir_measures.Qrel(t, g, 1) for t in texts for g in about if about[g][1] == t]
    run = [
        ir_measures.ScoredDoc(t, g, float(cosine(model.vectors([t])[0], model.vectors([g])[0])))
        for t in texts
        for g in about
    ]
    wanted = {"recall@10": "R@10", "precision@10": "P@10", "ndcg@10": "nDCG@10", "map@10": "AP@10", "mrr@10": "RR@10"}
    theirs = ir_measures.calc_aggregate([ir_measures.parse_measure(m) for m in wanted.values()], qrels, run)
    theirs = {str(measure): value for measure, value in theirs.items()}
    for ours, name in wanted.items():
        assert result["metrics"][f"text_to_image:{ours}"]["value"] == pytest.approx(theirs[name], abs=1e-6)
    both = [result["metrics"][f"text_to_image:recall@{k}"]["value"] for k in (1, 10)]
    assert result["metrics"]["text_to_image:recall_avg"]["value"] == pytest.approx(np.mean(both), abs=1e-6)
    assert result["units"] == {"text_to_image": "caption"}


def test_marqo_draws_its_queries_with_the_seed(world):
    shown = read_pictures(world.catalogue, Captions("{kind} {colour} {use}"))
    task = marqo_tasks(shown)["text_to_image"]()
    drawn = task.sampled(3, seed=1)
    assert len(drawn.units) == 3 == len(drawn.queries.texts)
    assert drawn.units == task.sampled(3, seed=1).units
    assert {tuple(task.sampled(3, seed).units) for seed in range(9)} != {tuple(drawn.units)}
    for text, classes in zip(drawn.units, drawn.relevance.classes, strict=True):
        assert classes == task.relevance.classes[task.units.index(text)]
    assert task.sampled(MARQO_QUERIES, 0) is task


def test_a_document_of_marqo_is_picture_and_text(world):
    from eval.retrieval_answers import Embedded

    shown = read_pictures(world.catalogue, Captions("{kind} {colour}"))
    task = marqo_tasks(shown, 0.9)["category_to_product"]()
    rng = np.random.default_rng(0)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    pictures, names = unit(rng.normal(size=(len(shown.ids), 5))), sorted({*shown.texts} - {""})
    texts = unit(rng.normal(size=(len(names), 5)))
    found = Embedded(pictures, {name: i for i, name in enumerate(names)}, texts).of(task.gallery)
    for i, text in enumerate(shown.texts):
        expected = 0.9 * pictures[i] + 0.1 * texts[names.index(text)] if text else pictures[i]
        np.testing.assert_allclose(found[i], unit(expected), atol=1e-6)


def test_clip_benchmark_pairs_picture_and_caption(world):
    result = run_retrieval("fake", "cat", "test", Settings(bootstrap=0), protocol="clip-benchmark")
    model, tasks = world.models["fake"], result["counts"]["tasks"]
    about = {name: v for name, v in shown_by(world.catalogue, model.captions).items() if v[1]}
    scores = np.array([[cosine(*model.vectors([v[1], g])) for g in about] for v in about.values()])
    rank = (scores >= np.diag(scores)[:, None] - 1e-6).sum(1)
    assert tasks["text_to_image"]["queries"] == len(about)
    for k in (1, 5, 10):
        assert result["metrics"][f"text_to_image:hit@{k}"]["value"] == pytest.approx((rank <= k).mean(), abs=1e-6)
        back = (scores >= np.diag(scores) - 1e-6).sum(0)
        assert result["metrics"][f"image_to_text:hit@{k}"]["value"] == pytest.approx((back <= k).mean(), abs=1e-6)
    assert set(pair_tasks(read_pictures(world.catalogue, model.captions))) == {"text_to_image", "image_to_text"}


def test_a_constant_model_scores_nothing(world):
    world.models["fake"].constant = True
    result = run_retrieval("fake", "cat", "test", PLAIN)
    assert [result["metrics"][f"{task}:hit@1"]["value"] for task in ("text_to_image", "image_to_image")] == [0, 0]
    tasks = result["counts"]["tasks"]
    assert tasks["text_to_image"]["ties"] == tasks["text_to_image"]["queries"]


def test_baselines_stand_beside_and_the_json_is_what_was_returned(world, tmp_path):
    out = tmp_path / "r.json"
    result = run_retrieval("fake", "cat", "test", Settings(out, untuned="fake", bootstrap=20))
    assert json.loads(out.read_text()) == result
    beside = result["baselines"]
    assert beside["untuned"] == result["metrics"]
    assert {name.split(":")[0] for name in beside["pixels"]} == {"image_to_image"}
    assert beside["pixels"]["image_to_image:hit@1"]["value"] > 0.5  # views of a product differ by a level or two
    assert set(beside["chance"]) == set(result["metrics"])
    assert "image_to_image:hit@1" not in beside["most_frequent"]
    score = result["metrics"]["text_to_image:hit@10"]
    assert score["low"] <= score["value"] <= score["high"]
    first = result["queries"]["text_to_image"]["first"]
    assert np.mean([0 < rank <= 10 for rank in first]) == pytest.approx(score["value"], abs=1e-6)
    assert result["command"].startswith("python -m eval retrieval --checkpoint fake --catalogue cat --split test")


def test_what_cannot_be_read_is_left_out_and_counted(world):
    world.broken = ("1-0", "3-0")
    result = run_retrieval("fake", "cat", "test", Settings(bootstrap=0))
    assert (result["counts"]["unreadable"], len(result["skipped"])) == (2, 2)
    assert result["counts"]["tasks"]["image_to_image"]["queries"] == result["counts"]["pictures"]


def test_mistakes_are_one_clear_line(world, capsys):
    def fails(*argv):
        with pytest.raises(SystemExit) as end:
            main(["retrieval", "--checkpoint", "fake", "--catalogue", "cat", *argv])
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "split 'tset' is empty; did you mean 'test'?" in fails("--split", "tset")
    assert "no retrieval protocol 'marko'; did you mean 'marqo'?" in fails("--protocol", "marko")
    assert "no retrieval task 'image'" in fails("--task", "image")
    assert "has no task image_to_image" in fails("--protocol", "marqo", "--task", "image_to_image")
    assert "candidates are fewer than k = 99; pass --k" in fails("--k", "99")
    assert "no category 'kid'" in fails("--category", "kid")
    single = [i for i, c in enumerate(world.catalogue) if c["id"].endswith("-0")]
    world.catalogue = world.catalogue.select(single)
    assert "image_to_image: none of 18 queries has a relevant item" in fails("--task", "image_to_image")
    world.models["fake"].vectors = lambda names: np.full((len(names), 6), np.nan, np.float32)
    assert "error: model fake: expected finite" in fails()


def test_command_line_prints_tables_and_what_was_left_out(world, capsys):
    single = [i for i, c in enumerate(world.catalogue) if c["id"].endswith("-0")]
    world.catalogue = world.catalogue.select(single)
    with pytest.raises(SystemExit) as end:
        main(["retrieval", "--checkpoint", "fake", "--catalogue", "cat", "--k", "1", "--bootstrap", "10"])
    assert not end.value.code
    shown = capsys.readouterr().out
    for words in ("text_to_image (own)", "hit@1", "chance", "image_to_image was not asked: no query has"):
        assert words in shown


def test_the_caption_of_a_product_does_not_name_its_category(world):
    shown = read_pictures(world.catalogue, world.models["fake"].captions)
    assert not any(kind in text for text in shown.plain for kind in ("dress", "shirt"))
    assert shown.texts[0].split()[-1] in ("dress", "shirt")
    task = own_tasks(shown)["category_to_product"]()
    assert len(task.gallery.names) == len(set(shown.items))


def test_cosines_of_lifted_pixels_order_by_distance():
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(40, 768), dtype=np.uint8)
    queries, gallery = by_distance(pixels)
    scores = queries @ gallery.T / np.linalg.norm(gallery, axis=1)
    distance = ((pixels[:, None].astype(int) - pixels[None]) ** 2).sum(2)
    assert (np.argsort(-scores, axis=1)[:, :5] == np.argsort(distance, axis=1)[:, :5]).all()


def test_colour_histograms_are_roots_of_shares():
    half = Image.new("RGB", (16, 16), (255, 0, 0))
    half.paste((0, 0, 40), (0, 0, 16, 4))
    data = io.BytesIO()
    half.save(data, "png")
    rows = [row("a", "a", "test"), row("b", "b", "test") | {"image": {"bytes": data.getvalue(), "path": None}}]
    rows.append(row("c", "c", "test") | {"image": {"bytes": b"none", "path": None}})
    catalogue = Dataset.from_list(rows, features=features(["colour", "kind", "use"], optional=["category"]))
    found, read = colour_histograms(catalogue, np.arange(3))
    assert read.tolist() == [0, 1]
    assert found.shape == (2, 512)
    assert found[1, 64 * 7] == pytest.approx(np.sqrt(0.75))
    assert found[1, 1] == pytest.approx(0.5)
    assert (found[0] @ found[1]) == 0
