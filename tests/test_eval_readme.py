"""The worked examples of eval/README.md give what it says, and its tables name every metric."""

from __future__ import annotations

import ast
import doctest
from pathlib import Path

EVAL = Path(__file__).parent.parent / "eval"


def test_the_examples_give_what_they_say():
    done = doctest.testfile(str(EVAL / "README.md"), module_relative=False)
    assert (done.failed, done.attempted > 20) == (0, True)


def test_every_metric_of_retrieval_and_beside_is_in_a_table():
    said = (EVAL / "README.md").read_text()
    for module in ("retrieval", "classification", "landmarks", "clustering", "health", "significance"):
        tree = ast.parse((EVAL / f"metrics/{module}.py").read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}
        helpers = {"retrieval_values", "retrieval_scores", "per_class", "landmark_distances", "clustering_scores"}
        assert [name for name in names - helpers if f"`{name}`" not in said] == []
