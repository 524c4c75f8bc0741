"""Grades hostile answers: none may hang, end this process, or make it or its children exceed their memory limits.

`python -m bench.fuzz_grader --count 100000 --seed 0` prints counts by family of answers and, as its last line, JSON. It
measures time and memory only; the labelled cases check that verdicts are right.
"""

import argparse
import faulthandler
import json
import os
import random
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from bench.processes import start_bench
from mathsft.prompts.tags import parse_response
from mathsft.prompts.verdicts import Completion, Graded, grade
from mathsft.tasks.math.gold import extract_gold
from mathsft.tasks.math.grader import MathGrader
from mathsft.tasks.math.sandbox import Limits

CASES = Path(__file__).parents[1] / "tests" / "tasks" / "math"
NUM_AT_ONCE = 200
LIMITS = Limits()
SLACK_SECONDS = 5
"""Time in which a busy machine notices and kills a process that exceeded its limit."""

HANG_SECONDS = 60
"""If the rules take this much longer than the sandbox may, this process hangs."""

MAX_CHARACTERS = 10_000
UNITS = r"""
{ } {} ( ) [ ] () [] ((1)) {{1}} \{ \} \left( \right) \left\{ | || < > $ $$ \( \) \frac{ \frac12 \frac{1} \sqrt{ \sqrt
\sqrt[3]{ \boxed{ \boxed{1} \text{ \text{a} \mathrm{ ^ ^{ ^2 _ _{ x^ 2^ 9** 9^9^ ! 9! !! - -- + * / // 1/ , ,1 1,000,
1. .. 0.1 ; : = x= == \pm \cup \cap \in \infty \pi e i x xy 1x \sin \log_ \log \binom{ \choose \over \sum_{ \prod_{
\int_0^ \lim_{ \begin{pmatrix} \end{pmatrix} \\ & % \% ° ^\circ \overline{ 0.\overline{9} # ~ \ \\\ ½ ² √ ∞ ﷺ ﬃ ① 𝟗 ٣ 一
é ́ <answer> <think> and or 1e9 e9 9 0 7 1:00 : 元 。 {,} ,\! != x_1= k\in\mathbb{Z} \begin{cases} \end{cases} so is it
"""
INVISIBLE = "\x00\x01\x08\x0b\x1b\x7f\x85\u200b\u200e\u200f\u202a\u202e\u2066\u2069\ufeff\ud800\udfff\U000e0041\n\r\t"
TOWERS = (
    "{a}**{b}**{c}",
    "{a}^{{{b}^{{{c}}}}}",
    "{a}^{{{b}^{{{c}^{{{n}}}}}}}",
    "{n}!",
    "({n}!)!",
    "{a}!!!!",
    "1e{n}",
    "-{a}.{b}e+{n}",
    "10^{{-{n}}}x",
    "10^{{10^{{{n}}}}}",
    r"{a} \times 10^{{{n}}}",
    r"\binom{{{n}}}{{{m}}}",
    r"\sum_{{k=1}}^{{{n}}} k^{{{b}}}",
    r"\prod_{{k=1}}^{{{n}}} k",
    r"\int_0^{{{n}}} x^{{x^x}} dx",
    "(x+y+z)^{{{n}}}",
    "((x+1)^{{{a}}}-1)^{{{n}}}=1",
    r"\sqrt[{n}]{{{m}}}",
    r"\sqrt{{{n}^{{{m}}}+1}}",
    r"\frac{{{n}!}}{{{m}!}}",
    r"\log_{{{n}}} {m}^{{{n}}}",
    r"\sin({n}^{{{m}}})",
    r"\{{1, {a}^{{{b}^{{{n}}}}}\}}",
    "x^{n}-1=0",
    "{n}_{{{a}}}",
    "0.{n}{m}{n}{m}",
    r"0.\overline{{{n}{m}}}",
)
WRAPPERS = (
    "{}",
    "({})",
    "-{}",
    r"\frac{{{}}}{{2}}",
    r"\sqrt{{{}}}",
    "{}^2",
    "x={}",
    "({}, 1)",
    r"\{{{}\}}",
    r"\boxed{{{}}}",
    r"\sin({})",
    "{}+1",
    r"{}\text{{ cm}}",
    "[1, {})",
)


@dataclass
class Summary:
    """The verdicts and times of one family of answers."""

    categories: Counter[str] = field(default_factory=Counter)
    num_hangs: int = 0
    slowest_seconds: float = 0.0
    slowest: str = ""

    def add(self, answer: str, graded: Graded) -> None:
        self.categories[graded.verdict.category] += 1
        self.num_hangs += graded.seconds > LIMITS.wall_seconds + SLACK_SECONDS
        if graded.seconds > self.slowest_seconds:
            self.slowest_seconds, self.slowest = graded.seconds, answer


def main() -> None:
    """Run the bench; print its table and its JSON line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz_grader", description="Grade hostile answers.")
    parser.add_argument("--count", type=int, default=100_000, help="answers to grade (default 100000)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the answers (default 0)")
    arguments = parser.parse_args()
    start_bench()
    summaries, growth_bytes = fuzz(arguments.count, arguments.seed)
    Console(highlight=False, width=140).print(_table(summaries))
    total = sum((summary.categories for summary in summaries.values()), Counter[str]())
    print(
        json.dumps(
            {
                "answers": total.total(),
                "hangs": sum(summary.num_hangs for summary in summaries.values()),
                "ungraded": total["ungraded"],
                "slowest_seconds": round(max(summary.slowest_seconds for summary in summaries.values()), 2),
                "parent_growth_mib": round(growth_bytes / 2**20),
                "child_peak_mib": round(_peak_bytes(resource.RUSAGE_CHILDREN) / 2**20),
            }
        )
    )


def fuzz(count: int, seed: int) -> tuple[dict[str, Summary], int]:
    """Grade `count` answers; return the summaries by family, and the growth in bytes of this process's peak memory."""
    chance = random.Random(seed)
    cases = list(_cases())
    answers = [answer for answer, _ in cases]
    families: dict[str, Callable[[str], str]] = {
        "towers": lambda answer: chance.choice(WRAPPERS).format(_tower(chance)),
        "repeats": lambda answer: _repeat(chance),
        "soup": lambda answer: "".join(chance.choices(UNITS.split(), k=chance.randrange(1, 60))),
        "any text": lambda answer: "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(30))),
        "matrices": lambda answer: _matrix(chance),
        "mutations": lambda answer: _mutated(answer, chance, answers),
    }
    summaries = {family: Summary() for family in families}
    before_bytes = _peak_bytes(resource.RUSAGE_SELF)
    with MathGrader(num_processes=len(os.sched_getaffinity(0)), limits=LIMITS) as grader:
        for start in track(range(0, count, NUM_AT_ONCE), "Fuzzing", console=Console(stderr=True), transient=True):
            hostile_answers, completions = [], []
            for _ in range(min(NUM_AT_ONCE, count - start)):
                family, (answer, gold) = chance.choice(list(families)), chance.choice(cases)
                hostile = families[family](answer)
                hostile_answers.append((family, hostile))
                completions.append(Completion(f"</think> <answer>{hostile}</answer>", "stop", gold))
            faulthandler.dump_traceback_later(HANG_SECONDS + NUM_AT_ONCE * LIMITS.wall_seconds, exit=True)
            for (family, hostile), graded in zip(hostile_answers, grade(completions, parse_response, grader), strict=True):
                summaries[family].add(hostile, graded)
            faulthandler.cancel_dump_traceback_later()
    return summaries, _peak_bytes(resource.RUSAGE_SELF) - before_bytes


def _tower(chance: random.Random) -> str:
    small = {name: chance.choice((2, 3, 9, 10, 12, 99)) for name in "abc"}
    large = {name: chance.randrange(10 ** chance.randrange(1, 14)) for name in "nm"}
    return chance.choice(TOWERS).format(**small, **large)


def _repeat(chance: random.Random) -> str:
    """Return one to three units, repeated up to MAX_CHARACTERS; a repeated opening bracket is closed."""
    unit = "".join(chance.choices([*UNITS.split(), *INVISIBLE], k=chance.choice((1, 1, 2, 3))))
    length = chance.choice((20, 200, 1_990, MAX_CHARACTERS))
    text = (unit * length)[:length]
    closing = {"{": "}", "(": ")", "[": "]"}.get(unit[-1])
    return text[: length // 2] + "1" + closing * text[: length // 2].count(unit[-1]) if closing else text


def _matrix(chance: random.Random) -> str:
    num_rows, num_columns = chance.choice(((1, 1), (3, 3), (30, 30), (2, 400), (900, 1), (70, 70)))
    cells = [chance.choice(("1", "x", "-2", "9^9", r"\frac12", "")) for _ in range(num_columns)]
    kind = chance.choice(("pmatrix", "bmatrix", "array", "vmatrix", "matrix"))
    body = r" \\ ".join([" & ".join(cells)] * num_rows)
    return rf"\begin{{{kind}}} {body} \end{{{kind}}}"


def _mutated(text: str, chance: random.Random, answers: list[str]) -> str:
    """Return a labelled answer with a few pieces removed, inserted, doubled, or taken from another answer."""
    for _ in range(chance.randrange(1, 5)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.randrange(6))
        other = chance.choice(answers)
        pieces = (
            "",
            text[start:end] * 2,
            chance.choice(UNITS.split()),
            chance.choice(INVISIBLE),
            other[: chance.randrange(20)],
        )
        text = text[:start] + chance.choice(pieces) + text[end:]
    return chance.choice(WRAPPERS).format(text)


def _cases() -> Iterator[tuple[str, str]]:
    """Yield (answer, gold) of the labelled cases."""
    for file in sorted(CASES.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            case: dict[str, Any] = json.loads(line)
            try:
                gold = extract_gold(case["gold"], "") if "gold_kind" not in case else extract_gold(None, case["gold"])
            except ValueError:  # a case whose gold answer is invalid on purpose
                continue
            yield case.get("answer", case.get("response", "")), gold


def _peak_bytes(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * 1024


def _table(summaries: dict[str, Summary]) -> Table:
    table = Table(title="Hostile answers", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    categories: Iterable[str] = ("correct", "wrong_answer", "format_failure", "ungraded")
    for header in (*categories, "hangs", "slowest"):
        table.add_column(header, justify="right")
    table.add_column("slowest answer")
    for family, summary in summaries.items():
        counts = (f"{summary.categories[category]:,}" for category in categories)
        table.add_row(
            family, *counts, str(summary.num_hangs), f"{summary.slowest_seconds:.2f} s", escape(ascii(summary.slowest)[:40])
        )
    return table


if __name__ == "__main__":
    main()
