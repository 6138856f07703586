"""A program's end: one line for a user's mistake, and no group of processes left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch.distributed as dist

from fclip.errors import StoreUnavailableError, UserError, nearest, run_program, shown


def program(error: Exception | None):
    def app(args: list[str] | None, prog_name: str) -> None:
        if error is not None:
            raise error

    return app


@pytest.mark.parametrize(("error", "code"), [(UserError("no such file"), 2), (StoreUnavailableError("it is away"), 1)])
def test_a_known_error_is_one_line_and_an_exit_code(error, code, capsys):
    with pytest.raises(SystemExit) as end:
        run_program(program(error), [], "fclip")
    assert end.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError):
        run_program(program(KeyError("ours")), [], "fclip")


@pytest.mark.parametrize("error", [None, UserError("no such file")])
def test_a_program_leaves_its_group_however_it_ends(error, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        run_program(program(error), [], "fclip")
    except SystemExit:
        assert error is not None
    assert not dist.is_initialized()


def test_an_unknown_name_is_told_the_nearest():
    assert nearest("colur", ["colour", "season"]) == "did you mean 'colour'? known: colour, season"
    assert nearest("price", []) == "known: (none)"


def test_of_many_names_the_closest_are_told_and_how_many_more_there_are():
    names = [f"value {number}" for number in range(5000)]
    said = nearest("valeu 4711", names)
    assert said.startswith("did you mean 'value 4711'? known: value 4711, ")
    assert said.endswith(", … and 4,980 more")
    assert said.count(", ") == 20
    assert nearest("?", names).startswith("known: value 0, value 1, value 10, value 100, ")
    assert "more" not in nearest("?", names[:20])
    assert len(nearest("?", [f"{number} {'x' * 1000}" for number in range(5000)])) < 1400


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "None"),
        ("x" * 58, f"'{'x' * 58}'"),
        (["a", {"b": 2.5}], "['a', {'b': 2.5}]"),
        ("a\nb", r"'a\nb'"),
        (np.zeros((2, 2)), "array([[0., 0.], [0., 0.]])"),
    ],
)
def test_a_value_is_shown_as_it_is_written(value, said):
    assert shown(value) == said


@pytest.mark.parametrize("value", ["x" * 10**6, b"x" * 10**6, np.zeros((640, 480)), [["x" * 99] * 99], range(10**80)])
def test_of_a_long_value_the_beginning_is_shown(value):
    assert len(shown(value)) <= 61
    assert "\n" not in shown(value)
