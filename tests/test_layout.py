"""The house's plan: arrows point down, the wheel holds what it should, `--help` is light, nothing unsafe is loaded.

experiments → eval → fclip → stn
user_study  → eval
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BELOW = {
    "stn": set(),
    "fclip": {"stn"},
    "eval": {"fclip", "stn"},
    "experiments": {"eval", "fclip", "stn"},
    "user_study": {"eval", "fclip"},  # metrics, tables and pages have one definition
}
"""Folder → what it may import besides itself."""
NOT_OURS = (".", "runs", "build", "dist", "__pycache__")
"""How ignored folders begin: what is found there is not part of the project."""


def files(suffix: str = "") -> list[Path]:
    """The project's files, without what is ignored."""
    found = []
    for folder, inside, names in os.walk(ROOT):
        inside[:] = [name for name in inside if not name.startswith(NOT_OURS) and not name.endswith(".egg-info")]
        found += [Path(folder, name).relative_to(ROOT) for name in names if name.endswith(suffix)]
    return sorted(found)


SOURCES = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in files(".py")}


def imports(tree: ast.AST, here: Path) -> Iterator[str]:
    """Every imported module's full name; `from a import b` gives a.b, which may also be a name in a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here.parts[: -node.level]) if node.level else ""
            yield from (".".join(filter(None, (base, node.module, alias.name))) for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str | None, str]]]:
    """Every call as the text of what is called, and its keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


@pytest.mark.parametrize("folder", [folder for folder in BELOW if (ROOT / folder).is_dir()])
def test_arrows_only_point_down(folder):
    wrong = [
        f"{path} imports {name}"
        for path, tree in SOURCES.items()
        if path.parts[0] == folder
        for name in imports(tree, path)
        if (top := name.split(".")[0]) in BELOW and top != folder and top not in BELOW[folder]
    ]
    assert wrong == []


def test_the_metrics_stand_alone():
    """They can be read, copied and trusted without the rest."""
    wrong = [
        f"{path} imports {name}"
        for path, tree in SOURCES.items()
        if path.parts[:2] == ("eval", "metrics")
        for name in imports(tree, path)
        if name.split(".")[0] in BELOW and not name.startswith("eval.metrics.")
    ]
    assert wrong == []


def test_nobody_shadows_the_builtin_eval():
    """`import eval.x` would bind the name `eval`; `from eval.x import y` does not."""
    bound = [
        f"{path}:{node.lineno}"
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) and any(a.name.split(".")[0] == "eval" and not a.asname for a in node.names)
    ]
    assert bound == []


def test_no_module_hides_a_library():
    libraries = {"datasets", "accelerate", "timm", "diffusers"}
    assert [path for path in SOURCES if libraries & {path.stem, *path.parts[:-1]}] == []


def test_the_wheel_holds_the_library_and_nothing_else():
    """A wheel with a top-level `eval` or `tests` would overwrite another's."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = setup["options"]["packages"].split()
    folders = {".".join(path.parent.parts) for path in SOURCES if path.parts[0] in ("fclip", "stn")}
    assert packages == sorted(folders)
    assert all((ROOT / package.replace(".", "/") / "__init__.py").is_file() for package in packages)


def test_nothing_is_unpickled():
    """A checkpoint or catalogue from a stranger must not run code."""
    wrong = []
    for path, tree in SOURCES.items():
        names = {name.split(".")[0] for name in imports(tree, path)}
        wrong += [f"{path} imports {name}" for name in names & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}]
        for called, keywords in calls(tree):
            if called == "torch.load" and keywords.get("weights_only") != "True":
                wrong.append(f"{path}: torch.load without weights_only=True")
            if keywords.get("allow_pickle", "False") != "False" or called.endswith("read_pickle"):
                wrong.append(f"{path}: {called} unpickles")
    assert wrong == []


def test_no_file_names_a_place_on_somebodys_machine():
    homes = "|".join(("work", "root", "home", "Users", "mnt"))
    place = re.compile(rb"(?<![\w.~/-])/(" + homes.encode() + rb")/\w")
    found = [str(path) for path in files() if place.search((ROOT / path).read_bytes())]
    assert found == []


def test_help_answers_without_loading_torch():
    script = """
import contextlib, io, runpy, sys
shown = io.StringIO()
with contextlib.redirect_stdout(shown):
    import fclip
    programs = ("experiments.train", ["train", "--help"]), ("user_study", ["user_study", "--help"])
    for module, argv in (("fclip.cli", None), *programs):
        sys.argv = argv or ["fclip", "--help"]
        with contextlib.suppress(SystemExit):
            if argv:
                runpy.run_module(module, run_name="__main__")
            else:
                from fclip.cli import main
                main()
assert "catalogue" in shown.getvalue() and "--resume" in shown.getvalue(), shown.getvalue()
heavy = {"torch", "datasets", "transformers", "accelerate", "open_clip", "matplotlib", "sklearn", "pyarrow", "PIL"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
