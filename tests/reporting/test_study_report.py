import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from mathsft.costs import Memory
from mathsft.layout import StudyLayout
from mathsft.records import Finalist, Finding, Quality, Run
from mathsft.reporting.study_report import write_report
from mathsft.store.study_store import StudyStore
from tests.build import (
    GIB,
    make_baseline,
    make_categories,
    make_checkpoint,
    make_final,
    make_metrics,
    make_plan,
    make_promotion,
    make_response,
    make_session,
    make_trial,
    score_of,
)

PLAN = make_plan(640, (0.0, 0.5, 1.0), "validation", keep="best_and_last")
SETTINGS = {"training.learning_rate": 1e-3, "training.batch_size": 16}
FINAL = make_final(SETTINGS, PLAN, name="final-0123abcd", value=0.6)
REASONS = ("missing_think_close", "incomplete_generation")


def trial(number: int, **changes: object) -> Run:
    overrides = {"training.learning_rate": 10.0 ** (-3 - number), "training.batch_size": 8 * 2**number}
    return make_trial(number, overrides, make_plan(64, (0.5, 1.0)), **changes)


def write_score(store: StudyStore, run: str, step: int, pool: str, num_correct: int, num_failed: int) -> None:
    """Record a score on 200 problems; correct responses are 10 tokens long, the others 30."""
    responses = []
    for index, category in enumerate(make_categories(num_correct, 200, num_failed)):
        given = {"text": "SECRET <b>text</b>", "num_tokens": 10 if category == "correct" else 30}
        if category == "format_failure":
            given |= {"reason": REASONS[index % 2], "tag_flags": ("no_think_close", "no_answer_open")}
            given["finish_reason"] = "length" if index % 2 else "stop"
        responses.append(make_response(f"p{index:04}", category, **given))
    costs = {"generate_seconds": 2.0, "grade_seconds": 0.5, "peak_memory_bytes": GIB}
    store.write(score_of(responses, run, step, pool, **costs), responses)


def write_study(store: StudyStore) -> None:
    store.record_settings({"model.path": "quickstart", "data.source": "a|b"})
    store.write(make_baseline(value=0.05))
    write_score(store, "baseline", 0, "search", 10, 190)
    for number, num_correct in enumerate((60, 50, 20)):
        store.write(trial(number, state="finished", value=num_correct / 200))
        for step in (2, 4):
            costs = {
                "train_seconds": 3.0,
                "predicted_memory": Memory(GIB // 2, GIB // 2, 0, 0, 0),
                "peak_memory_bytes": 2 * GIB,
            }
            store.write(make_checkpoint(f"trial-{number}", step, **costs))
            speed = {"seconds": 0.5 * step, "flop_utilization": None if number == 2 else 0.25}
            store.write(make_metrics(f"trial-{number}", step, num_tokens=640, num_computed_tokens=320, **speed))
        write_score(store, f"trial-{number}", 4, "search", num_correct, 40)
    store.write(trial(3, state="failed", reason="three deaths | ![x](http://evil)\nTraceback"))
    evidence = {"raw_best_accuracy": 0.3, "corrected_best_accuracy": 0.28, "accuracy": 0.31, "low": 0.27, "high": 0.35}
    evidence["num_problems"] = 500
    finalists = (Finalist("trial-0", 0.3, 0.29, 155, 500, 0.2710, 0.3519), Finalist("trial-1", 0.25, 0.24, 0, 0))
    reason = "trials 0 and 1 cannot be told apart; 0 promoted: higher mean"
    store.write(make_promotion("trial-0", trial(0).overrides, reason, evidence=evidence, finalists=finalists))
    store.write(make_session(1000, 60.0))


def write_final(store: StudyStore, num_correct: int = 120) -> None:
    store.write(FINAL)
    for pool in ("validation", "test"):
        for step, correct, failed in ((0, 10, 180), (20, num_correct, 20), (40, num_correct - 5, 20)):
            write_score(store, FINAL.name, step, pool, correct, failed)


def markdown_of(store: StudyStore, folder: Path) -> str:
    return write_report(store, StudyLayout(folder)).with_suffix(".md").read_text()


def section(report: str, title: str) -> list[list[str]]:
    """Return the cells of the tables below a heading."""
    body = re.split(r"^#+ ", report.split(title, 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("|")]
    return [row for row in rows if set("".join(row)) - set("-: |")]


def test_what_was_found_in_the_data(store: StudyStore, tmp_path: Path) -> None:
    assert "## Data" not in markdown_of(store, tmp_path)
    unreadable = Finding("unreadable", 2, 2, ("train.jsonl:3: answer is 'proof'", "train.jsonl:9: no"))
    golds = Finding("frequent", 1, 31, ("'see | *b*' in 31 of 1,400 rows, the first in train.jsonl:7",))
    store.write(
        Quality(1400, (unreadable, Finding("contradictory", 133, 266, ("a",)), Finding("repeated", 5, 5, ()), golds))
    )
    store.write(trial(0))
    store.write(make_checkpoint("trial-0", 1, num_too_long=11))
    assert section(markdown_of(store, tmp_path), "## Data")[1:] == [
        ["rows read", "1,400"],
        ["rows left out because they cannot be read (the first: train.jsonl:3: answer is 'proof')", "2"],
        ["problems left out because their rows have different gold answers", "133 (in 266 rows)"],
        ["training rows that are exact copies of another row", "5"],
        [
            r"frequent gold answers that are not numbers and may mean that there is no answer (the first: 'see \| *b*' in "
            "31 of 1,400 rows, the first in train.jsonl:7)",
            "1 (in 31 rows)",
        ],
        ["training examples left out because they are longer than training.max_length_tokens", "11"],
    ]


def test_a_finished_study_and_final_run(store: StudyStore, tmp_path: Path) -> None:
    write_study(store)
    write_final(store)
    report = markdown_of(store, tmp_path)

    conclusion = report.splitlines()[2]
    assert "the model solves 60.0% (53.1% – 66.5%) of 200 test problems at step 20" in conclusion
    assert "the base model solves 5.0% (2.7% – 9.0%). On the same problems the fine-tuned model is better" in conclusion
    assert "- **Winner** batch_size 8, learning_rate 0.001 (trial-0)" in report
    gain = conclusion.rpartition("base model: ")[2].removesuffix(".**")
    assert f"- **Gain** Final run: {gain} over the base model on 200 test problems." in report
    assert (
        "- **Is it proven?** Final run: yes (e-value over 1,000,000; proof needs 20). Choice: trials 0 and 1 cannot"
        in report
    )
    assert (
        "- **Next step** Use the checkpoint of step 20, not the last one (step 40): between them the accuracy changed"
        in report
    )
    models = [(row[0], row[1], row[3]) for row in section(report, "### Base model and final run")[1:]]
    assert models[:3] == [
        ("base model", "test", "10 of 200"),
        ("best", "test", "120 of 200"),
        ("last", "test", "115 of 200"),
    ]

    progress = section(report, "## Progress on the pool validation")
    assert progress[2] == ["20", "60.0% (53.1% – 66.5%)", "90.0%", "30.0% (60)", "10.0% (20)", "0", "200"]
    failures = section(report, "## Format failures")
    assert failures[0] == ["step", "incomplete_generation", "missing_think_close", "responses"]
    assert failures[1] == ["0", "90", "90", "200"]
    assert failures[5] == ["0", "180", "180", "200"], "flags overlap: more of them than failures"
    assert section(report, "## Response lengths")[2] == ["20", "18.0", "10.0", "30.0", "10", "200"]

    assert "**trial-0** (batch_size 8, learning_rate 0.001): trials 0 and 1 cannot be told apart; 0 promoted" in report
    assert "Accuracy on 500 fresh problems: 31.0% (27.0% – 35.0%). The best search score is 30.0% as measured" in report
    finalists = section(report, "## The study: 4 trials")[:3]
    assert finalists[1] == ["trial-0", "30.0%", "29.0%", "155 of 500", "31.0% (27.1% – 35.2%)", "promoted"]
    assert finalists[2] == ["trial-1", "25.0%", "24.0%"]
    ledger = section(report, "## Cost")
    assert ["trainer", "train", "18.0 s", "30.0%"] in ledger
    assert ["evaluator", "idle", "35.0 s", "58.3%"] in ledger

    trials = section(report, "## All trials")
    assert trials[1] == ["trial-0", "8", "0.001", "30.0% (24.1% – 36.7%)", "60 of 200", "4", "finished"]
    assert trials[4][-1] == r"failed: three deaths \| \!\[x\](http://evil)"
    assert "The base model solves 5.0%" in report
    costs = section(report, "## Time and memory")
    assert costs[0] == ["trainer", "train", "peak memory", "predicted memory"]
    assert costs[1] == ["trial-0", "6.0 s", "2.00 GiB", "1.00 GiB"]
    assert ["evaluator", "generate", "grade", "peak memory"] in costs
    speed = section(report, "### Training speed")
    assert speed[:2] == [
        ["trainer", "useful tokens/s", "computed tokens/s", "FLOP utilisation"],
        ["trial-0", "427", "213", "25.0%"],
    ]
    assert speed[3] == ["trial-2", "427", "213"], "a model whose operations are not known"
    assert speed[4] == ["**all**", "427", "213", "25.0%"]
    assert ["data.source", r"a\|b"] in section(report, "## Settings of all runs")
    assert "SECRET" not in report


@pytest.mark.parametrize(
    ("num_correct", "verdict"),
    [
        (11, "is not distinguishable from the base model: +0.5 points (-"),
        (120, "is better than the base model: +55.0 points (+"),
    ],
)
def test_only_a_final_run(num_correct: int, verdict: str, store: StudyStore, tmp_path: Path) -> None:
    write_final(store, num_correct)
    report = markdown_of(store, tmp_path)
    assert verdict in report.splitlines()[2]
    assert "## The study" not in report


def test_while_the_final_run_is_watched_only_its_last_checkpoint_is_claimed(store: StudyStore, tmp_path: Path) -> None:
    store.write(replace(FINAL, state="running"))
    for step, correct in ((0, 10), (20, 120), (40, 90)):
        write_score(store, FINAL.name, step, "validation", correct, 20)
    assert "45.0% (38.3% – 51.9%) of 200 validation problems at step 40" in markdown_of(store, tmp_path).splitlines()[2]


def test_only_a_study(store: StudyStore, tmp_path: Path) -> None:
    write_study(store)
    conclusion = markdown_of(store, tmp_path).splitlines()[2]
    assert "of 3 finished trials is trial-0 (batch_size 8, learning_rate 0.001): 30.0%" in conclusion
    assert "0 of the other 2 cannot be distinguished from it on these problems" in conclusion


def test_an_empty_store(store: StudyStore, tmp_path: Path) -> None:
    assert "There is no result yet: 0 trials have begun" in markdown_of(store, tmp_path)


def test_the_figures_show_every_score_and_trial_and_are_linked(store: StudyStore, tmp_path: Path) -> None:
    write_study(store)
    write_final(store)
    report = markdown_of(store, tmp_path)
    notes = {}
    for name in re.findall(r"!\[[^]]*\]\(([^)]+\.svg)\)", report):
        root = ElementTree.parse(tmp_path / name).getroot()
        notes[name] = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert notes["accuracy-final-0123abcd.svg"] == [
        "step 0: 5.0% (2.7% – 9.0%)",
        "step 20: 60.0% (53.1% – 66.5%)",
        "step 40: 57.5% (50.6% – 64.1%)",
    ]
    assert sorted(notes["study.svg"]) == [
        "trial-0: 30.0% (24.1% – 36.7%), finished",
        "trial-1: 25.0% (19.5% – 31.4%), finished",
        "trial-2: 10.0% (6.6% – 14.9%), finished",
        "trial-3: no score, failed",
    ]


def test_the_page_holds_its_figures_and_asks_for_nothing_outside(store: StudyStore, tmp_path: Path) -> None:
    write_study(store)
    write_final(store)
    for step in range(1, 41):
        store.write(make_metrics(FINAL.name, step, loss=2.0 / step, learning_rate=1e-3 * (1 - step / 40)))
    page = write_report(store, StudyLayout(tmp_path))
    assert page.name == "report.html"
    html = page.read_text()
    titles = re.findall(r'<div class="(?:wide|narrow)"><svg [^>]*aria-label="([^"]*)"', html)
    assert titles[::2] == titles[1::2], "each is drawn for both widths"
    assert titles[::2] == [
        "final-0123abcd: accuracy by optimizer step",
        "final-0123abcd: categories of the responses",
        "Accuracy of each trial",
        "Trials by learning rate and batch size",
        "The workers' time by activity",
        "final-0123abcd: training loss by optimizer step",
        "final-0123abcd: learning rate by optimizer step",
    ]
    assert len(re.findall(r"<figcaption>[A-Z][^<]{30,}\.</figcaption>", html)) == 7, "a sentence under each"
    shown, *folded = html.split("<details>")
    assert "<h2>Cost</h2>" in shown and "<h2>All trials</h2>" not in shown
    assert len(folded) == html.count("</details>") and any("<h2>Settings of all runs</h2>" in part for part in folded)
    assert "<td>120 of 200</td>" in html.replace(' style="text-align:right"', "")
    assert not re.search(r"<(img|script|link|iframe)|\b(src|href)=", html)
    assert "default-src 'none'" in html
    assert "![x](http://evil)" in html, "shown as text"


def test_stacked_bars_add_up_to_all_responses(store: StudyStore, tmp_path: Path) -> None:
    write_final(store)
    write_report(store, StudyLayout(tmp_path))
    root = ElementTree.parse(tmp_path / f"responses-{FINAL.name}.svg").getroot()
    bars: dict[str, list[tuple[float, float]]] = {}
    for cell in root.iter("{http://www.w3.org/2000/svg}rect"):
        if (note := cell.find("{http://www.w3.org/2000/svg}title")) is not None:
            bars.setdefault(cell.attrib["x"], []).append((float(cell.attrib["y"]), float(cell.attrib["height"])))
            assert note.text is not None and note.text.startswith("step ")
    assert len(bars) == 3, "one for each score"
    for parts in bars.values():
        assert len(parts) == 3  # nothing was ungraded
        for (above, _), (below, height) in pairwise(parts):
            assert below + height == pytest.approx(above, abs=0.2), "each begins where the one below it ends"
        assert sum(height for _, height in parts) == pytest.approx(274, abs=0.3)
