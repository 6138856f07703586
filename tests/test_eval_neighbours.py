"""Agreement of neighbours equals loops over all pictures; chance equals the mean over random orders."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import make_catalogue

from eval.neighbours import Labels, chance, check, neighbours, read_labels
from fclip.errors import UserError

RNG = np.random.default_rng(0)
N = 40
SHOWN = Labels(
    np.array([f"p{i // 2 if i < 30 else i}" for i in range(N)]),
    {"category": RNG.choice(["dress", "shirt", "coat"], N), "colour": RNG.choice(["red", "blue", ""], N)},
)
VECTORS = RNG.normal(size=(N, 5)).astype(np.float32)
KS = (2, 4)


def by_hand(vectors: np.ndarray, shown: Labels, k: int) -> dict[str, list[float]]:
    """The definitions, picture by picture."""
    unit = vectors.astype(float) / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    found: dict[str, list[float]] = {}
    for q in range(len(vectors)):
        order = sorted((i for i in range(len(vectors)) if i != q), key=lambda i: -cosine[q, i])
        same = [shown.items[i] == shown.items[q] for i in order]
        values = {"product:hit": np.nan, "product:map": np.nan}
        if any(same):
            precisions = [sum(same[: r + 1]) / (r + 1) for r in range(k) if same[r]]
            values = {"product:hit": float(any(same[:k])), "product:map": sum(precisions) / sum(same)}
        for group, labels in shown.groups.items():
            others = [i for i in order if shown.items[i] != shown.items[q] and labels[i]]
            agrees = [labels[i] == labels[q] for i in others]
            possible = labels[q] != "" and any(agrees)
            values[f"{group}:agreement"] = np.mean(agrees[:k]) if possible else np.nan
            if group == "category":
                values["category:map"] = np.mean([np.mean(agrees[: i + 1]) for i in range(k)]) if possible else np.nan
        values["attributes:agreement"] = values["colour:agreement"]
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {f"{name}@{k}": of for name, of in found.items()}


def test_every_score_is_that_of_loops() -> None:
    expected = by_hand(VECTORS, SHOWN, 2) | by_hand(VECTORS, SHOWN, 4)
    found = neighbours(VECTORS, VECTORS, SHOWN, KS)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, err_msg=name)


def test_a_model_that_gives_all_pictures_one_vector_agrees_by_no_tie() -> None:
    values = neighbours(np.ones((N, 5)), np.ones((N, 5)), SHOWN, KS)
    assert {name: np.nanmax(of) for name, of in values.items()} == dict.fromkeys(values, 0)


def test_chance_is_the_mean_over_random_orders() -> None:
    expected, sums = chance(SHOWN, KS), {}
    for _ in range(100):
        vectors = RNG.normal(size=(N, 30))
        for name, of in neighbours(vectors, vectors, SHOWN, KS).items():
            sums[name] = sums.get(name, 0) + np.nanmean(of) / 100
    assert expected.keys() == sums.keys()
    for name, mean in sums.items():
        assert np.nanmean(expected[name]) == pytest.approx(mean, abs=0.03), name
        asks = ~np.isnan(neighbours(VECTORS, VECTORS, SHOWN, KS)[name])
        assert np.array_equal(~np.isnan(expected[name]), asks), name


def test_labels_come_from_the_catalogue() -> None:
    catalogue = make_catalogue()
    labels = read_labels(catalogue)
    assert list(labels.groups) == ["category", "colour", "kind", "use"]
    assert list(read_labels(catalogue, "kind", ["colour"]).groups) == ["category", "colour"]
    assert list(read_labels(catalogue, "kind").groups) == ["category", "colour", "use"]
    kinds = [attributes["kind"] or "" for attributes in catalogue["attributes"][:]]
    assert read_labels(catalogue, "kind").groups["category"].tolist() == kinds
    for wrong in ({"category": "kin"}, {"groups": ["kin"]}):
        with pytest.raises(UserError, match="did you mean 'kind'"):
            read_labels(catalogue, **wrong)


def test_several_values_agree_when_all_do() -> None:
    from datasets import Dataset

    from fclip.catalogue.schema import features

    rows = [{"id": str(i), "item": str(i), "split": "val", "image": {"bytes": b"", "path": None},
             "attributes": {"look": look}} for i, look in enumerate([["a", "b"], ["b", "a"], ["a"], None])]  # fmt: skip
    [labels] = read_labels(Dataset.from_list(rows, features=features(["look"], ["look"]))).groups.values()
    assert (labels[0] == labels[1], labels[0] == labels[2], labels[3]) == (True, False, "")


def test_too_few_candidates_are_told_with_the_k_that_is_possible() -> None:
    few = Labels(np.array(["a", "a", "b", "c"]), {})
    check(few, (2,))
    with pytest.raises(UserError, match="pass --k 2 or less"):
        check(few, (3,))
    with pytest.raises(UserError, match="that have colour"):
        check(Labels(few.items, {"colour": np.array(["red", "red", "", "red"])}), (2,))
    with pytest.raises(UserError, match="at least 1"):
        check(few, (0, 1))
