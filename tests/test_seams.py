"""Knowledge that has one home: paths inside a study's folder, kinds of runs, overrides."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import mathsft
from mathsft.layout import StudyLayout

PACKAGE = Path(mathsft.__file__).parent
NAMES = re.compile(
    r"(?<![\w-])(study\.db|driver\.lock|metrics\.jsonl|full-state\.|report\.(html|md)\b|engine-check/|runs/|responses/|step-\{)"
)
"""Parts of paths inside a study's folder, as they stand in code."""
KINDS = ("baseline", "trial-", "final-", "horizon-")


@cache
def sources() -> list[tuple[str, ast.Call | ast.Constant]]:
    """Return every call and every constant of the package's code, docstrings left out, with where it stands."""
    found: list[tuple[str, ast.Call | ast.Constant]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        alone = {node.value for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
        name = path.relative_to(PACKAGE).as_posix()
        found += [
            (f"{name}:{node.lineno}", node)
            for node in nodes
            if isinstance(node, ast.Call | ast.Constant) and node not in alone
        ]
    return found


def test_paths_inside_a_studys_folder_are_joined_in_the_layout_alone() -> None:
    files = {
        where.partition(":")[0]
        for where, node in sources()
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAMES.search(node.value)
    }
    assert files == {"layout.py"}


def test_the_kind_of_a_run_is_never_read_from_its_name() -> None:
    readers = ("startswith", "removeprefix", "partition", "split", "match", "fullmatch")
    found = [
        where
        for where, node in sources()
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in readers
        and any(isinstance(given, ast.Constant) and str(given.value).startswith(KINDS) for given in node.args)
    ]
    assert found == []


def test_overrides_meet_an_experiment_in_one_place() -> None:
    callers = {
        where.partition(":")[0]
        for where, node in sources()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "apply_overrides"
    }
    # config/load.py applies those of --set, commands/precision.py resolves "auto": both before there is a run.
    assert callers == {"config/load.py", "runs/new_run.py", "commands/precision.py"}


@pytest.mark.parametrize("folder", [Path("studies/a"), Path("/x/y")])
def test_what_records_hold_comes_back_wherever_the_folder_lies(folder: Path) -> None:
    layout, moved = StudyLayout(folder), StudyLayout(Path("/elsewhere"))
    for path in (layout.checkpoint("trial-0", 12), layout.responses("final-x", 3, "confirm:0-125")):
        recorded = layout.recorded(path)
        assert layout / recorded == path
        assert (moved / recorded).is_relative_to(moved.root)
    assert layout.scoring("trial-0", 1, "search") != layout.scoring("trial-0", 2, "search")
