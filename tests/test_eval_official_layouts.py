"""In-shop and Consumer-to-shop from trees in their official layout, against loops over the partition's own text."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import Fake, cosine
from sklearn.metrics import average_precision_score

from eval.consumer2shop import run_consumer2shop
from eval.inshop import run_inshop
from eval.settings import Settings
from fclip.embedding import ImageEmbeddings
from fclip.errors import UserError

PLAIN = Settings(baselines=False, bootstrap=0)


@pytest.fixture
def model(monkeypatch):
    """A model whose vectors are known; what `unreadable` names is not on the disk."""

    def embed(model, pictures, **_):
        names = pictures["id"][:]
        rows = [n for n, name in enumerate(names) if name not in model.unreadable]
        skipped = [(name, "no such file") for name in names if name in model.unreadable]
        return ImageEmbeddings(model.vectors([names[n] for n in rows]), np.array(rows), skipped)

    fake = Fake()
    fake.unreadable = set()
    monkeypatch.setattr("eval.image_retrieval.embed_images", embed)
    monkeypatch.setattr("fclip.pretrained.open_model", lambda source, groups: fake)
    return fake


def write_partition(root, header, rows):
    """The count, a header, columns padded with spaces, as released."""
    file = root / "Eval" / "list_eval_partition.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([str(len(rows)), header, *("   ".join(row) + "  " for row in rows)]) + "\n")


def by_loops(model, queries, gallery, ks):
    """hit@k, MAP of {picture: item}; queries whose item the gallery lacks are left out and counted."""
    hits, precision, without = [], [], 0
    for name, item in queries.items():
        scores = {other: cosine(*model.vectors([name, other])) for other in gallery}
        right = [gallery[other] == item for other in gallery]
        if not any(right):
            without += 1
            continue
        best = sorted(gallery, key=lambda other: -scores[other])
        hits.append([any(gallery[other] == item for other in best[:k]) for k in ks])
        precision.append(average_precision_score(right, list(scores.values())))
    return [*np.mean(hits, 0), np.mean(precision)], without


def scored(result, ks):
    return [result["metrics"][name]["value"] for name in (*(f"hit@{k}" for k in ks), "map")]


def inshop_rows():
    rng, rows = np.random.default_rng(0), []
    for item in range(1, 9):
        kind = ("WOMEN/Jackets_Coats", "MEN/Denim", "WOMEN/Tees_Tanks")[item % 3]
        for colourway in range(1, 3):  # another colour of a product is the product
            for pose in ("1_front", "2_side", "3_back", "4_full"):
                split = "train" if item > 6 else str(rng.choice(["query", "gallery"]))
                rows.append((f"img/{kind}/id_{item:08}/0{colourway}_{pose}.jpg", f"id_{item:08}", split))
    # A product of which the gallery has nothing, as the release's annotation errors leave some.
    return [*rows, ("img/MEN/Denim/id_00000099/01_1_front.jpg", "id_00000099", "query")]


def test_inshop_asks_every_query_of_the_whole_gallery(tmp_path, model):
    rows = inshop_rows()
    write_partition(tmp_path, "image_name item_id evaluation_status", rows)
    queries, gallery = ({name: item for name, item, split in rows if split == of} for of in ("query", "gallery"))
    result = run_inshop("fake", tmp_path, PLAIN, ks=(1, 5))
    expected, without = by_loops(model, queries, gallery, (1, 5))
    assert scored(result, (1, 5)) == pytest.approx(expected, abs=1e-6)
    assert without == result["counts"]["without_relevant"] == 1
    assert (result["counts"]["queries"], result["counts"]["gallery"]) == (len(queries), len(gallery))


def test_inshop_leaves_out_what_is_listed_and_absent(tmp_path, model):
    rows = inshop_rows()
    write_partition(tmp_path, "image_name item_id evaluation_status", rows)
    absent = {next(name for name, _, split in rows if split == of) for of in ("query", "gallery")}
    model.unreadable = absent
    result = run_inshop("fake", tmp_path, PLAIN, ks=(1,))
    queries, gallery = (
        {name: item for name, item, split in rows if split == of and name not in absent} for of in ("query", "gallery")
    )
    assert scored(result, (1,)) == pytest.approx(by_loops(model, queries, gallery, (1,))[0], abs=1e-6)
    assert {name for name, _ in result["skipped"]} == absent


def consumer_rows():
    """Pairs: every photograph with every shop picture of its product, so that both columns repeat."""
    rows = []
    for item in range(1, 13):
        split = ("train", "val", "test")[item % 3]
        folder = f"img/TOPS/T_Shirt/id_{item:08}"
        for shop in range(1, 2 + item % 3):
            for photograph in range(1, 2 + item % 2):
                pair = f"{folder}/comsumer_0{photograph}.jpg", f"{folder}/shop_0{shop}.jpg"
                rows.append((*pair, f"id_{item:08}", split))
    return rows


@pytest.mark.parametrize("split", ["test", "val"])
def test_consumer2shop_asks_a_photograph_once_of_every_shop_picture_of_val_and_test(tmp_path, model, split):
    rows = consumer_rows()
    write_partition(tmp_path, "image_pair_name_1 image_pair_name_2 item_id evaluation_status", rows)
    queries = {consumer: item for consumer, _, item, of in rows if of == split}
    gallery = {shop: item for _, shop, item, of in rows if of in ("val", "test")}
    asked = [consumer for consumer, _, _, of in rows if of == split]
    assert len(queries) < len(asked)  # pairs repeat
    result = run_consumer2shop("fake", tmp_path, split, PLAIN, ks=(1, 3))
    assert scored(result, (1, 3)) == pytest.approx(by_loops(model, queries, gallery, (1, 3))[0], abs=1e-6)
    assert (result["counts"]["queries"], result["counts"]["gallery"]) == (len(queries), len(gallery))
    assert result["queries"]["consumer2shop"]["unit"] == [f"consumer2shop/{item}" for item in queries.values()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "1" + text, r"list_eval_partition\.txt, line 1: says 136, but 36 rows follow"),
        (lambda text: text[: text.rindex("id_")], r"list_eval_partition\.txt, line 38: expected 4 fields, got 2"),
    ],
)
def test_a_cut_off_partition_is_refused_by_file_and_line(tmp_path, model, change, said):
    write_partition(tmp_path, "image_pair_name_1 image_pair_name_2 item_id evaluation_status", consumer_rows())
    file = tmp_path / "Eval" / "list_eval_partition.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=said):
        run_consumer2shop("fake", tmp_path, "test", PLAIN, ks=(1,))
