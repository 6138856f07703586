"""Cells of several values: one mark parts those of a whole column."""

import pyarrow as pa
import pytest

from fclip.catalogue.lists import read_lists, said_of_lists


@pytest.mark.parametrize(
    ("cells", "values", "said"),
    [
        (["red|blue", "red"], [["red", "blue"], ["red"]], "lists of up to 2 values, parted by '|'"),
        (["red;blue", "red"], [["red", "blue"], ["red"]], "lists of up to 2 values, parted by ';'"),
        (["red, blue", "red"], [["red", "blue"], ["red"]], "lists of up to 2 values, parted by ','"),
        (["red", "blue"], [["red"], ["blue"]], "lists of up to 1 values"),
        (
            ["a;b", "wool, 80 %|silk", "c"],
            [["a;b"], ["wool, 80 %", "silk"], ["c"]],
            "lists of up to 2 values, parted by '|'",
        ),
        (
            [" M | | S|M |", "|", " ", "", None],
            [["M", "S"], None, None, None, None],
            "lists of up to 2 values, parted by '|'",
        ),
        ([None, None], [None, None], "lists of up to 0 values"),
    ],
)
def test_the_first_mark_that_occurs_parts_all_cells(cells, values, said) -> None:
    lists = read_lists(pa.array(cells, pa.string()))
    assert lists.values.to_pylist() == values
    assert said_of_lists("colour", lists) == f"colour: {said}"


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([["a|b", "c"], None], pa.list_(pa.string())), [["a|b", "c"], None]),
        (pa.array([["a"], []], pa.large_list(pa.string())), [["a"], None]),
        (pa.array([["red", " red", "", None, "blue"]]), [["red", "blue"]]),
        (pa.array([[36, 38]], pa.list_(pa.int64(), 2)), [["36", "38"]]),
        (pa.chunked_array([["a|b"], ["c"]]), [["a", "b"], ["c"]]),
        (pa.array([36, None]), [["36"], None]),
    ],
)
def test_columns_of_lists_stay_lists_without_what_is_empty_or_double(column, values) -> None:
    lists = read_lists(column)
    assert lists.values.type == pa.list_(pa.string())
    assert lists.values.to_pylist() == values
