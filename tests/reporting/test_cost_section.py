"""The report's tables of who was busy, who waited, and what the workers used."""

import io
import re

import pytest
from rich.console import Console

from mathsft.costs import Memory
from mathsft.reporting.cost_section import cost_section, two_devices_section, workers_section
from mathsft.reporting.score_tables import progression_table
from mathsft.store.study_store import StudyStore
from tests.build import GIB, make_checkpoint, make_final, make_score, make_session, make_worker_call

FINAL = make_final(value=0.5)


def write_final(
    store: StudyStore, visible: tuple[str | None, str | None] = (None, None), watts: float | None = None
) -> None:
    """Record a final run whose checkpoints take 10 s to train and 15 s to score."""
    store.write(FINAL)
    store.write(make_session(1000, 60.0))
    for number, (step, num_correct) in enumerate(((0, 10), (2, 60), (4, 50))):
        trained, scored = 1000.0 + 10 * number, 1010.0 + 15 * number
        predicted = Memory(weights=GIB, gradients=GIB, optimizer=GIB, activations=GIB, logits=GIB)
        store.write(make_checkpoint(FINAL.name, step, train_seconds=10.0, predicted_memory=predicted))
        store.write(make_score(FINAL.name, step, "validation", num_correct, 100, generate_seconds=15.0))
        used = {"cpu_seconds": 8.0, "resident_bytes": GIB}
        if watts is not None:
            utilization = 0.25 * (number + 1)
            used |= {"device_utilization": utilization, "energy_joules": 10 * watts, "device_bytes": 40 * GIB}
        for pool, began, ended, seen in (
            ("", trained, trained + 10, visible[0]),
            ("validation", scored, scored + 15, visible[1]),
        ):
            store.write(make_worker_call(FINAL.name, step, began, ended, pool, cuda_visible_devices=seen, **used))


def row(section: str, first: str, second: str = "") -> list[str]:
    """Return the cells of the table's row that begins so."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()]
    [found] = [cells for cells in lines if cells[0] == first and (not second or cells[1:2] == [second])]
    return found


def test_the_report_says_how_much_both_were_busy_and_how_long_checkpoints_waited(store: StudyStore) -> None:
    assert two_devices_section(store) == ""
    write_final(store)
    # Training from 0 to 30 s, scoring from 10 to 55 s; checkpoints are published at 10, 20 and 30 s, begun at 10, 25, 40 s.
    assert row(two_devices_section(store), "final-x") == [
        *("final-x", "55.0 s", "54.5%", "81.8%", "36.4%"),
        *("3", "5.0 s", "10.0 s"),
    ]


def test_on_a_cpu_cores_and_memory_are_shown_and_nothing_of_devices(store: StudyStore) -> None:
    assert workers_section(store) == ""
    write_final(store)
    assert row(workers_section(store), "final-x", "trainer-0") == [
        *("final-x", "trainer-0", "core 0", "30.0 s", "0.80", "1.00 GiB", "", "", "")
    ]


def test_cuda_workers_show_what_they_could_see_and_what_nvml_told(store: StudyStore) -> None:
    write_final(store, visible=("0", "GPU-a|b"), watts=360.0)
    section = workers_section(store)
    assert row(section, "final-x", "trainer-0") == [
        *("final-x", "trainer-0", "CUDA_VISIBLE_DEVICES=0", "30.0 s", "0.80", "1.00 GiB", "50.0%", "3.0 Wh", "40.00 GiB")
    ]
    assert r"CUDA_VISIBLE_DEVICES=GPU-a\|b" in section


def test_predicted_memory_is_shown_by_component_in_the_cost_section(store: StudyStore) -> None:
    write_final(store)
    section = cost_section(store)
    assert row(section, "predicted memory") == [
        "predicted memory",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "logits",
    ]
    assert ["final-x", *["1.00 GiB"] * 5] in [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()
    ]
    assert section.count("### Concurrency of trainer and evaluator") == section.count("### Resources that the workers") == 1


@pytest.mark.parametrize(("last_correct", "marks"), [(50, {2: "best", 4: "last"}), (70, {4: "best, last"})])
def test_the_table_after_a_final_run_marks_the_best_and_the_last(
    store: StudyStore, last_correct: int, marks: dict[int, str]
) -> None:
    write_final(store)
    for pool in ("validation", "test"):
        store.write(make_score(FINAL.name, 4, pool, last_correct, 100))
    output = io.StringIO()
    Console(file=output, width=150).print(progression_table(store, FINAL).terminal())
    found = re.findall(r"final-x +(validation|test) +100 +(\d+) .*?(best, last|best|last)? *\n", output.getvalue())
    assert [(pool, int(step), mark) for pool, step, mark in found] == [
        *(("validation", step, marks.get(step, "")) for step in (0, 2, 4)),
        ("test", 4, marks[4]),
    ]
