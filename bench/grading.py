"""Times the grading of 5,000 responses: mathsft's grader against math-verify alone.

`python -m bench.grading` prints a table, examples of different verdicts and, as its last line, JSON. math-verify is called
as its documentation says, in one process, which is killed if a pair takes too long. It has no response format, so it gets
the answers that mathsft's format extracts. The verdicts are also compared with the labels of the generated responses.
"""

import argparse
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.grading_workload import Labelled, make_responses
from bench.processes import end_with, start_bench
from mathsft.prompts.tags import parse_response
from mathsft.prompts.verdicts import grade
from mathsft.records import Category
from mathsft.tasks.math.grader import MathGrader
from mathsft.tasks.task import Pair

MAX_SECONDS = 10
"""A pair that takes longer hangs; math-verify's own limits are 5 s for each expression that it parses or compares."""

NUM_SHOWN = 12


@dataclass(frozen=True)
class Run:
    """One grader's time and verdicts."""

    seconds: float
    verdicts: list[Category]
    num_hangs: int


def main() -> None:
    """Run the bench; print its table and its JSON line."""
    parser = argparse.ArgumentParser(prog="python -m bench.grading", description="mathsft's grader against math-verify.")
    parser.add_argument("--count", type=int, default=5000, help="responses to grade (default 5000)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the responses (default 0)")
    arguments = parser.parse_args()
    start_bench()
    console = Console(highlight=False, width=140)
    responses = make_responses(arguments.count, arguments.seed)
    ours = run_ours(responses)
    console.print(f"mathsft: {ours.seconds:.1f} s; math-verify follows and takes longer")
    theirs = run_math_verify(responses)
    differing = [
        (response, our, their)
        for response, our, their in zip(responses, ours.verdicts, theirs.verdicts, strict=True)
        if our != their
    ]
    console.print(_table(responses, ours, theirs))
    console.print(_differences(differing))
    print(
        json.dumps(
            {
                "seconds": round(ours.seconds, 2),
                "hangs": ours.num_hangs,
                "ungraded": ours.verdicts.count("ungraded"),
                "math_verify_seconds": round(theirs.seconds, 2),
                "math_verify_hangs": theirs.num_hangs,
                "differ": len(differing),
            }
        )
    )


def run_ours(responses: Sequence[Labelled]) -> Run:
    """Grade with one process per core; the time includes the start of the processes."""
    started = time.perf_counter()
    with MathGrader(num_processes=len(os.sched_getaffinity(0))) as grader:
        graded = grade([response.completion for response in responses], parse_response, grader)
        seconds = time.perf_counter() - started
    num_hangs = sum(each.seconds > MAX_SECONDS for each in graded)
    return Run(seconds, [each.verdict.category for each in graded], num_hangs)


def run_math_verify(responses: Sequence[Labelled]) -> Run:
    """Compare the answers one after the other; the time does not include the start of a process."""
    process, connection = _start()
    verdicts: list[Category] = []
    seconds, num_hangs = 0.0, 0
    for response in responses:
        completion = response.completion
        body = parse_response(completion.text, completion.finish_reason).body
        if body is None:
            verdicts.append("format_failure")
            continue
        started = time.perf_counter()
        connection.send(Pair(body, completion.gold))
        has_answer = connection.poll(MAX_SECONDS)
        seconds += time.perf_counter() - started
        if has_answer:
            verdicts.append("correct" if connection.recv() else "wrong_answer")
            continue
        verdicts.append("ungraded")
        num_hangs += 1
        process.kill()
        process, connection = _start()
    process.kill()
    return Run(seconds, verdicts, num_hangs)


def _start() -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    connection, theirs = context.Pipe()
    process = context.Process(target=_serve_math_verify, args=(theirs, os.getpid()), daemon=True)
    process.start()
    theirs.close()
    connection.recv()  # the process has finished its imports
    return process, connection


def _serve_math_verify(connection: Connection, bench_pid: int) -> None:
    end_with(bench_pid)
    from math_verify import parse, verify

    logging.disable()  # math-verify logs every answer that it cannot parse
    connection.send(None)
    while True:
        pair = connection.recv()
        connection.send(verify(parse(rf"\boxed{{{pair.gold}}}"), parse(rf"\boxed{{{pair.answer}}}")))


def _table(responses: Sequence[Labelled], ours: Run, theirs: Run) -> Table:
    table = Table(title=f"{len(responses):,} responses", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for header in ("seconds", "hangs", "ungraded", "wrong called right", "right called wrong", "agree with label"):
        table.add_column(header, justify="right")
    for name, run in (("mathsft", ours), ("math-verify alone", theirs)):
        pairs = [(response.category, verdict) for response, verdict in zip(responses, run.verdicts, strict=True)]
        table.add_row(
            name,
            f"{run.seconds:.1f}",
            str(run.num_hangs),
            str(run.verdicts.count("ungraded")),
            str(sum(label != "correct" and verdict == "correct" for label, verdict in pairs)),
            str(sum(label == "correct" and verdict != "correct" for label, verdict in pairs)),
            f"{sum(label == verdict for label, verdict in pairs) / len(pairs):.2%}",
        )
    return table


def _differences(differing: Sequence[tuple[Labelled, Category, Category]]) -> Table:
    """Return one example for each kind of answer and verdict of mathsft among the differing verdicts."""
    title = "Different verdicts, one example of each kind"
    table = Table(
        "kind", "answer", "gold", "label", "mathsft", "math-verify", title=title, title_justify="left", box=box.SIMPLE_HEAD
    )
    examples = {(response.kind, our): (response, our, their) for response, our, their in differing}
    for response, our, their in list(examples.values())[:NUM_SHOWN]:
        body = parse_response(response.completion.text, response.completion.finish_reason).body or ""
        answer, gold = (escape(text[:40]) for text in (body, response.completion.gold))
        table.add_row(response.kind, answer, gold, response.category, our, their)
    return table


if __name__ == "__main__":
    main()
