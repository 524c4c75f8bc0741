"""What a user is told of the data before a worker starts, and what guards a study against other data."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from mathsft import cli
from mathsft.commands.common import prepare
from mathsft.commands.opening import CommandContext
from mathsft.config.load import Loaded, load_settings
from mathsft.data.pools import load_pools
from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.runs.provenance import ProvenanceRecorder
from mathsft.store.study_store import StudyStore
from mathsft.tasks.quickstart.generator import base_model_folder
from mathsft.tracking.heartbeat import Heartbeat
from tests.build import make_machine, make_trial

ROWS = [{"problem": f"What is {i} + 1?", "solution": f"It is {i + 1}.", "answer": str(i + 1)} for i in range(300)]
POOLS = [f"data.pools.{name}=25" for name in ("search", "confirm", "validation", "test")]
FAULTS = [
    {**ROWS[0], "answer": "proof"},
    {**ROWS[1], "answer": "7 [b]"},
    ROWS[2],
    {**ROWS[3], "problem": "WHAT IS 3 +  1?"},
    *({**ROWS[0], "problem": f"Which is bolder, {i}?", "answer": "see [b]"} for i in range(12)),
]


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings(folder: Path, rows: list[dict[str, str]]) -> list[str]:
    sources = (
        write(folder / "train.jsonl", rows),
        write(folder / "test.jsonl", [*ROWS[:20], {**ROWS[0], "problem": "Fresh"}]),
    )
    given = ("data.source", "data.test_source", "data.unreadable", "data.contradictions")
    return [*POOLS, *(f"{name}={value}" for name, value in zip(given, (*sources, "drop", "drop"), strict=True))]


def flags(assignments: list[str]) -> list[str]:
    return [part for assignment in assignments for part in ("--set", assignment)]


def test_faults_are_told_before_anything_starts(tmp_path: Path, measured: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "--dry-run", "--study", "quickstart", *flags(settings(tmp_path, ROWS + FAULTS))]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Data: ")]
    source = tmp_path / "train.jsonl"
    assert told == [
        f"Data: rows left out because they cannot be read (the first: {source}:301: no gold answer can be read ('proof' "
        "means that there is no answer); answer is 'proof'; correct the row: the gold answer is read from answer, or from "
        "the last \\boxed{...} or `#### ...` of solution): 1",
        "Data: frequent gold answers that are not numbers and may mean that there is no answer (the first: 'see [b]' in 12 "
        f"of 315 rows, the first in {source}:305): 1 (in 12 rows)",
        "Data: problems left out because their rows have different gold answers: 1 (in 2 rows)",
        "Data: problem texts that are another spelling of a problem and stay in its pool: 1",
        "Data: problems removed from all other pools because the test split has them: 19 (in 21 rows)",
    ]


def test_data_without_fault_are_not_talked_about(measured: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "--dry-run", "--study", "quickstart"]) == 0
    assert "Data:" not in capsys.readouterr().out


def loaded_with(tmp_path: Path, rows: list[dict[str, str]]) -> Loaded:
    return load_settings("quickstart", None, settings(tmp_path, rows))


def place(tmp_path: Path, loaded: Loaded, store: StudyStore) -> str:
    """Return what is printed when it is decided who works where."""
    console = Console(soft_wrap=True, width=500)
    with console.capture() as captured:
        prepare(CommandContext(make_machine(), loaded, StudyLayout(tmp_path), Heartbeat(console)), store, "study")
    return captured.get()


def test_what_was_found_is_in_the_book_and_on_the_terminal(tmp_path: Path, store: StudyStore) -> None:
    printed = place(tmp_path, loaded_with(tmp_path, ROWS + FAULTS), store)
    quality = store.quality()
    assert quality is not None
    assert [(finding.kind, finding.count, finding.num_rows) for finding in quality.findings] == [
        ("unreadable", 1, 1),
        ("frequent", 1, 12),
        ("contradictory", 1, 2),
        ("variant", 1, 1),
        ("in_test", 19, 21),
    ]
    assert "Data: problems removed from all other pools because the test split has them: 19 (in 21 rows)\n" in printed


def test_a_study_does_not_go_on_with_other_problems(tmp_path: Path, store: StudyStore) -> None:
    loaded = loaded_with(tmp_path, ROWS)
    place(tmp_path, loaded, store)
    place(tmp_path, loaded_with(tmp_path, ROWS[:290]), store)  # nothing was trained or scored yet
    place(tmp_path, loaded_with(tmp_path, ROWS), store)
    store.observers.append(ProvenanceRecorder(store, base_model_folder(), load_pools(loaded.experiment.data), "a toaster"))
    store.write(make_trial())
    place(tmp_path, loaded_with(tmp_path, list(reversed(ROWS))), store)  # the order of rows is no other data
    known, quality = store.problems(), store.quality()
    refused = r"^study demo began with other problems \(hash [0-9a-f]{8}\) than data\.source "
    for changed in (ROWS[:-1], [*ROWS[:-1], {**ROWS[-1], "answer": "300.0"}], [*ROWS, *FAULTS]):
        with pytest.raises(UserError, match=refused) as caught:
            place(tmp_path, loaded_with(tmp_path, changed), store)
        assert "\n" not in str(caught.value)
    assert (store.problems(), store.quality()) == (known, quality)
