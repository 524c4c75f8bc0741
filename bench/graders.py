"""Counts how often graders agree with the labelled cases of tests/tasks/math: mathsft, math-verify, lm-evaluation-harness.

`python -m bench.graders [--lm-eval PYTHON]` prints the counts by category, every case that a grader gets wrong, and, as its
last line, JSON. mathsft grades the cases as they are (`python -m mathsft grade`). The other graders do not know mathsft's
response format: they compare the extracted answer with the extracted gold answer, and cases without an answer are left out.
"""

import argparse
import json
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.peer_graders import PEERS, Outcome
from bench.processes import start_bench
from mathsft.prompts.tags import parse_response
from mathsft.tasks.math.gold import extract_gold

CASES = Path(__file__).parents[1] / "tests" / "tasks" / "math"
OURS = "ours"

MAX_SECONDS = 30
"""Limit for one pair; the peers' own limits are 5 s for each expression that they parse or compare."""

START_SECONDS = 300
SHOWN_CHARACTERS = 44


@dataclass(frozen=True)
class Case:
    """One line of a file of labelled cases, with its answer and gold answer."""

    line: dict[str, Any]
    pair: tuple[str, str] | None
    """Answer and gold answer; None if the response fails the format and has no answer."""

    @property
    def id(self) -> str:
        return str(self.line["id"])

    @property
    def label(self) -> bool:
        return bool(self.line["expect_correct"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.graders", description=__doc__)
    parser.add_argument(
        "--lm-eval",
        metavar="PYTHON",
        default=sys.executable,
        help="the Python of an environment with lm-eval[math], which needs an older ANTLR than math-verify and mathsft",
    )
    arguments = parser.parse_args()
    start_bench()
    python_of = dict.fromkeys(PEERS, arguments.lm_eval) | {"math-verify": sys.executable}
    console = Console(width=180, highlight=False)
    cases = [make_case(json.loads(line)) for file in sorted(CASES.glob("*.jsonl")) for line in _lines(file)]
    pairs = {case.id: case.pair for case in cases if case.pair}
    outcomes = {OURS: grade_by_ours(cases)}
    for peer, python in python_of.items():
        try:
            outcomes[peer] = grade_by_peer(peer, python, pairs)
        except ImportError as error:
            console.print(f"{peer} is left out: {error}", markup=False)
    console.print(counts_table(cases, outcomes))
    console.print(differences_table(cases, outcomes))
    print(json.dumps({name: share_right(cases, of_grader) for name, of_grader in outcomes.items()}))


def make_case(line: dict[str, Any]) -> Case:
    """Return the case with the answer of its response and the gold answer of its solution."""
    from_solution = line.get("gold_kind", "answer") != "answer"
    gold = extract_gold(None, line["gold"]) if from_solution else line["gold"]
    answer = line["answer"] if line["kind"] == "answer" else parse_response(line["response"], line["finish_reason"]).body
    return Case(line, None if answer is None else (answer, gold))


def grade_by_ours(cases: Sequence[Case]) -> dict[str, Outcome]:
    """Return the verdicts of `python -m mathsft grade`."""
    with tempfile.TemporaryDirectory() as folder:
        cases_path, verdicts_path = Path(folder) / "cases.jsonl", Path(folder) / "verdicts.jsonl"
        cases_path.write_text("".join(json.dumps(case.line) + "\n" for case in cases), encoding="utf-8")
        command = [sys.executable, "-m", "mathsft", "grade", str(cases_path), "--out", str(verdicts_path)]
        # The exit code is not 0 if a gold answer is invalid; the other cases are graded nevertheless.
        messages = subprocess.run(command, check=False, capture_output=True, text=True).stderr
        if not verdicts_path.exists():
            raise RuntimeError(messages)
        verdicts = {verdict["id"]: verdict for verdict in map(json.loads, _lines(verdicts_path))}
    refused = {"category": "refused", "correct": None}
    by_id = {case.id: verdicts.get(case.id, refused) for case in cases}
    return {id: verdict["category"] if verdict["correct"] is None else verdict["correct"] for id, verdict in by_id.items()}


def grade_by_peer(peer: str, python: str, pairs: dict[str, tuple[str, str]]) -> dict[str, Outcome]:
    """Return a peer's verdicts; if a pair takes too long, its process is replaced. Raises ImportError without the peer."""
    outcomes: dict[str, Outcome] = {}
    process = None
    for id, pair in pairs.items():
        process = process or _Process(peer, python)
        outcomes[id] = process.ask(pair)
        if process.is_lost:
            process = None
    if process:
        process.kill()
    return outcomes


class _Process:
    """A process that runs one peer."""

    def __init__(self, peer: str, python: str) -> None:
        command = [python, "-m", "bench.peer_graders", peer]
        root = Path(__file__).parents[1]
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, stderr=none, text=True)
        self.is_lost = False
        if obstacle := self._reply(START_SECONDS):
            self.kill()
            raise ImportError(f"{obstacle} ({python})")

    def ask(self, pair: tuple[str, str]) -> Outcome:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(pair) + "\n")
        self._process.stdin.flush()
        return self._reply(MAX_SECONDS)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()
        self.is_lost = True

    def _reply(self, max_seconds: float) -> Any:
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(max_seconds) else None
        if line:
            return json.loads(line)
        self.kill()
        return "hangs" if line is None else "dies"


def counts_table(cases: Sequence[Case], outcomes: dict[str, dict[str, Outcome]]) -> Table:
    """Return how many labels each grader agrees with, by category, of the cases that it graded."""
    table = Table("category", "cases", *outcomes, box=box.SIMPLE)
    for category in _categories(cases):
        members = [case for case in cases if case.line["cat"] == category]
        table.add_row(category, str(len(members)), *(_agreement(members, of_grader) for of_grader in outcomes.values()))
    table.add_section()
    table.add_row("all", str(len(cases)), *(_agreement(cases, of_grader) for of_grader in outcomes.values()))
    for name, is_meant in (
        ("wrong called right", lambda label, outcome: outcome is True and not label),
        ("right called wrong", lambda label, outcome: outcome is False and label),
        ("no verdict", lambda label, outcome: isinstance(outcome, str)),
    ):
        counts = (
            sum(case.id in of_grader and is_meant(case.label, of_grader[case.id]) for case in cases)
            for of_grader in outcomes.values()
        )
        table.add_row(name, "", *map(str, counts))
    return table


def differences_table(cases: Sequence[Case], outcomes: dict[str, dict[str, Outcome]]) -> Table:
    """Return the cases in which a grader differs from the label, by category, with these graders and the label's reason."""
    title = "Graders that differ from a label, and the reason of the label"
    table = Table("case", "answer", "gold", "label", "graders", "reason", box=box.SIMPLE, title=title)
    for category in _categories(cases):
        for case in cases:
            differing = [_differing(name, case, of_grader) for name, of_grader in outcomes.items()]
            if case.line["cat"] == category and any(differing):
                answer, gold = (_short(text) for text in case.pair or (case.line["response"], case.line["gold"]))
                label = "right" if case.label else "wrong"
                table.add_row(case.id, answer, gold, label, "; ".join(filter(None, differing)), escape(case.line["note"]))
        table.add_section()
    return table


def share_right(cases: Iterable[Case], outcomes: dict[str, Outcome]) -> float:
    """Return the share of labels that a grader agrees with, of the cases that it graded."""
    agreeing = [outcomes[case.id] is case.label for case in cases if case.id in outcomes]
    return round(sum(agreeing) / len(agreeing), 4)


def _agreement(cases: Sequence[Case], outcomes: dict[str, Outcome]) -> str:
    graded = [case for case in cases if case.id in outcomes]
    agreeing = sum(outcomes[case.id] is case.label for case in graded)
    return f"{agreeing} of {len(graded)}" if graded else ""


def _differing(name: str, case: Case, outcomes: dict[str, Outcome]) -> str:
    outcome = outcomes.get(case.id, case.label)
    if outcome is case.label:
        return ""
    return f"{name} ({outcome})" if isinstance(outcome, str) else name


def _categories(cases: Iterable[Case]) -> list[str]:
    return list(dict.fromkeys(case.line["cat"] for case in cases))


def _short(text: str) -> str:
    shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return escape(shown.encode("unicode_escape").decode().replace("\\\\", "\\"))


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    main()
