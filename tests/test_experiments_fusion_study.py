"""The fusion study: questions whose answers are known, weights chosen on one half and reported on the other."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from experiments.fusion_study import (
    SHARES,
    Gallery,
    answer,
    answer_all,
    best_pictures,
    chosen_shares,
    main,
    make_questions,
    tuning_half,
)
from experiments.fusion_study_report import scores_of
from fclip.catalogue import save_catalogue
from fclip.catalogue.drawn import draw_catalogue
from fclip.checkpoint import save_checkpoint
from fclip.errors import UserError
from fclip.files import read_json
from fclip.queries.defaults import DEFAULT_FUSION, TEXT_SHARE
from fclip.queries.fusion import Background, Parts, fuse, units

COLOURS, KINDS = ["red", "blue", "green"], ["dress", "shirt", "shoes"]
GROUPS = ["colour", "kind"]


def axis(*values) -> np.ndarray:
    return units(np.eye(6)[[[*COLOURS, *KINDS].index(value) for value in values]].sum(0))


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    """Three products of each colour and kind, in two pictures; vectors that say what they are, nearly."""
    rng, rows = np.random.default_rng(0), [(c, k) for c in COLOURS for k in KINDS] * 3
    vectors = [axis(c, k) + rng.normal(size=6) * 0.1 for c, k in rows for _ in range(2)]
    values = [row for row in rows for _ in range(2)]
    names = [f"product {n}" for n in range(len(rows))]
    return Gallery(units(np.array(vectors)), np.arange(len(rows)).repeat(2), names, np.array(values))


@pytest.fixture(scope="module")
def asked(gallery):
    return make_questions(gallery, GROUPS, 20, seed=0)


def test_a_question_changes_one_attribute_and_keeps_the_others(gallery, asked) -> None:
    assert (asked.group == "colour").sum() == (asked.group == "kind").sum() == 20
    assert len({(photo, group) for photo, group in zip(gallery.products[asked.photo], asked.group, strict=True)}) == 40
    for photo, group, value, relevant in zip(asked.photo, asked.group, asked.value, asked.relevant, strict=True):
        own = dict(zip(GROUPS, gallery.values[photo], strict=True))
        assert own[group] != value
        wanted = list((own | {group: value}).values())
        assert {tuple(row) for row in gallery.values[relevant]} == {tuple(wanted)}
        assert relevant.sum() == 6


def test_unknown_attributes_ask_nothing_and_answer_nothing(gallery) -> None:
    values = gallery.values.copy()
    values[gallery.products % 3 == 0, 0] = ""
    asked = make_questions(Gallery(gallery.vectors, gallery.products, gallery.names, values), GROUPS, 50, 0)
    assert "" not in asked.value
    assert (values[asked.photo] != "").all()
    assert (values[asked.relevant.any(0)] != "").all()


def test_too_few_questions_are_refused(gallery) -> None:
    alone = Gallery(gallery.vectors[:2], gallery.products[:2], gallery.names[:1], gallery.values[:2])
    with pytest.raises(UserError, match="differ in one of colour, kind alone, found 0 questions"):
        make_questions(alone, GROUPS, 5, 0)


def test_the_best_picture_of_every_other_product_in_order(gallery) -> None:
    scores = np.random.default_rng(1).random(len(gallery.products))
    best = {p: max(np.flatnonzero(gallery.products == p), key=lambda i: scores[i]) for p in set(gallery.products) - {4}}
    assert best_pictures(scores, gallery.products, 4).tolist() == sorted(best.values(), key=lambda i: -scores[i])


@pytest.mark.parametrize("fusion", TEXT_SHARE)
def test_hits_and_precisions_are_their_definitions(gallery, asked, fusion) -> None:
    background = Background(gallery.vectors.mean(0), gallery.vectors)
    words = np.array([axis(value) for value in asked.value])
    found = answer(gallery, asked, words, background, fusion, 0.6, k=4)
    for place, (photo, relevant) in enumerate(zip(asked.photo, asked.relevant, strict=True)):
        parts = Parts(np.stack([words[place], gallery.vectors[photo]]), ("text", "image"), {"text": 0.6, "image": 0.4})
        shown = best_pictures(
            fuse(fusion, parts, gallery.vectors, background).scores, gallery.products, gallery.products[photo]
        )
        flags = [bool(relevant[picture]) for picture in shown[:4]]
        precisions = [sum(flags[: rank + 1]) / (rank + 1) for rank, flag in enumerate(flags) if flag]
        assert found.hit[place] == any(flags)
        assert found.ap[place] == pytest.approx(sum(precisions) / 3)


@pytest.fixture(scope="module")
def results(gallery, asked):
    words = np.array([axis(value) for value in asked.value])
    return answer_all(gallery, asked, words, Background(gallery.vectors.mean(0), gallery.vectors), 4)


def test_both_together_find_what_neither_finds_alone(results) -> None:
    means = {name: max(found.ap.mean() for found in by.values()) for name, by in results.items()}
    assert means["late"] > 0.8
    assert max(means["words alone"], means["photograph alone"]) < 0.5
    assert all(tuple(results[name]) == SHARES for name in TEXT_SHARE)


def test_a_weight_is_chosen_on_one_half_of_the_products_and_reported_on_the_other(gallery, asked, results) -> None:
    tuning = tuning_half(gallery, asked)
    products = gallery.products[asked.photo]
    assert not set(products[tuning]) & set(products[~tuning])
    assert 0.2 < tuning.mean() < 0.8
    shares = chosen_shares(results, tuning)
    for name, by in results.items():
        assert by[shares[name]].ap[tuning].mean() == max(found.ap[tuning].mean() for found in by.values())
    rows = scores_of(results, shares, ~tuning, [gallery.names[p] for p in products], 50, 0)
    for name, row in rows.items():
        assert row["map"]["value"] == pytest.approx(results[name][shares[name]].ap[~tuning].mean(), abs=1e-5)
        assert row["map"]["low"] <= row["map"]["value"] <= row["map"]["high"]
        if name != DEFAULT_FUSION:
            difference = row["map"]["value"] - rows[DEFAULT_FUSION]["map"]["value"]
            assert row["map_difference"]["value"] == pytest.approx(difference, abs=1e-5)


def test_it_leaves_a_table_numbers_and_a_picture(tmp_path, model, capsys, monkeypatch) -> None:
    monkeypatch.setattr("fclip.machine.tune_cpu", lambda: None)
    monkeypatch.setattr("experiments.fusion_study.SHARES", (0.4, 0.6))
    save_checkpoint(model, tmp_path / "model")
    save_catalogue(draw_catalogue(items=40, views=1, size_px=32), tmp_path / "garments")
    words = ["--checkpoint", tmp_path / "model", "--catalogue", tmp_path / "garments", "--split", "all"]
    with pytest.raises(SystemExit, match="0"):
        main(
            [
                str(word)
                for word in [
                    *words,
                    "--groups",
                    "category,sleeve",
                    "--k",
                    3,
                    "--questions",
                    20,
                    "--out",
                    tmp_path / "out",
                ]
            ]
        )
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:7] == [
        *TEXT_SHARE,
        "photograph alone",
        "words alone",
    ]
    found = read_json(tmp_path / "out" / "results.json", "numbers")
    assert found["grid"]["late"].keys() == {"0.4", "0.6"}
    assert np.asarray(Image.open(tmp_path / "out" / "weights.png").convert("L")).std() > 5


def test_an_unknown_group_names_the_nearest(tmp_path, model, catalogue, capsys, monkeypatch) -> None:
    monkeypatch.setattr("fclip.machine.tune_cpu", lambda: None)
    save_checkpoint(model, tmp_path / "model")
    save_catalogue(catalogue, tmp_path / "garments")
    words = ["--checkpoint", tmp_path / "model", "--catalogue", tmp_path / "garments", "--groups", "color"]
    with pytest.raises(SystemExit, match="2"):
        main([str(word) for word in words])
    assert "did you mean 'colour'" in capsys.readouterr().err
