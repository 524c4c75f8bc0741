"""Near copies of other pools' problems and wrong solutions are left out of train, counted and shown."""

import json
import string
from pathlib import Path

import pytest

from mathsft.config.schema import DataSettings, PoolSizes
from mathsft.data.near_copies import NearCopies
from mathsft.data.pools import load_data
from mathsft.data.train_pool import select_train
from mathsft.records import Finding, Problem
from mathsft.tasks.math.math_task import Math
from mathsft.tasks.rows import problem_id

LETTERS = " ".join(string.ascii_lowercase)


def problem(text: str, solution: str = "s", answer: str = "1") -> Problem:
    return Problem(problem_id(text), text, solution, answer)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (LETTERS.upper(), 1.0),
        (f"Tell me: {LETTERS}", 1.0),  # all 14 grams of the shorter text
        (LETTERS[: 2 * 20], 1.0),
        (LETTERS.replace("c", "7"), 11 / 14),  # the third of 26 words is in three grams
        (LETTERS.replace("b", "7"), 12 / 14),
        (" ".join(string.ascii_lowercase[:12]), None),  # a short text has one gram, all of it
        ("What is 1 + 1?", 1.0),
        ("What is 1 - 1?", None),
        ("What is 11?", None),
    ],
)
def test_the_share_of_grams_of_the_shorter_text_decides(text: str, share: float | None) -> None:
    found = NearCopies(["Another text", LETTERS, "What is 1+1 ?"]).of(text)
    assert (found and found.share) == (share if share and share >= 0.8 else None)


def test_what_is_left_out_is_counted_and_replaced() -> None:
    held_out = problem(f"{LETTERS} first")
    copies = (problem(f"{LETTERS} second", "a"), problem(f"{LETTERS} second", "b"))
    mixed = (problem("mixed", r"\boxed{7}", "8"), problem("mixed", r"\boxed{8.0}", "8"))
    wrong = (problem("wrong", "So\n#### 2", "3"),)
    fine = [(problem("fine", r"$\boxed{\frac12}$", "0.5"),), (problem("several", r"\boxed{1}, \boxed{2}", "1, 2"),)]
    train = select_train([copies, mixed, wrong, *fine, (problem("too many"),)], 3, {"test": [held_out]}, Math())
    assert [row.problem for row in train.rows] == ["mixed", "fine", "several"]
    assert (train.num_problems, train.rows[0].solution) == (3, r"\boxed{8.0}")
    assert train.findings == (
        Finding(
            "near_copy", 1, 2, (f"{copies[0].problem!r} has 93% of the 13-grams of {held_out.problem!r} in the pool test",)
        ),
        Finding(
            "wrong",
            2,
            2,
            (
                "'mixed': the solution ends with '7', the gold answer is '8'",
                "'wrong': the solution ends with '2', the gold answer is '3'",
            ),
        ),
    )


def test_no_pool_shares_a_problem_with_train(tmp_path: Path) -> None:
    def row(i: int, day: str) -> dict[str, str]:
        text = (
            f"On {day} Jo reads {i} pages, then {i} pages on the day after it, and stops for good; how many are {i} and {i}?"
        )
        return {"problem": text, "solution": f"{2 * i}", "answer": f"{2 * i}"}

    both = [row(i, day) for i in range(100, 400) for day in ("Monday", "Tuesday")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in both))
    pools = PoolSizes(search=20, confirm=20, validation=20, test=20)
    loaded = load_data(DataSettings(source=str(path), pools=pools))
    numbers = {name: {row.answer for row in pool} for name, pool in loaded.pools.items()}
    held_out = numbers["search"] | numbers["confirm"] | numbers["validation"] | numbers["test"]
    assert not numbers["train"] & held_out
    assert loaded.quality.count("near_copy") == sum(row["answer"] in held_out for row in both) - 80
    assert len(loaded.pools["train"]) == 520 - loaded.quality.count("near_copy")
