"""The heads of data sets, in their true layouts with other texts, are read as problems; other conversations are refused."""

import json
from pathlib import Path

import pytest

from mathsft.config.schema import ColumnSettings
from mathsft.data.problems import DataSetRows, load_problems
from mathsft.data.row_layouts import common_rows
from mathsft.errors import UserError
from mathsft.tasks.task import UnreadableRowError

HEADS = Path(__file__).parent / "heads"
MELONS = "A farmer fills 6 crates with 12 melons each. How many melons are that?"
BOXED = r"Each crate holds 12 melons, so there are $6 \cdot 12 = \boxed{72}$ melons."
NONE = ColumnSettings()


def head(name: str, **columns: str) -> DataSetRows:
    return load_problems(str(HEADS / f"{name}.jsonl"), "drop", "math", ColumnSettings(**columns))


@pytest.mark.parametrize(
    ("name", "solution"),
    [
        ("numina_math_cot", BOXED),
        ("numina_math_1_5", BOXED),
        ("metamath_qa", "Each crate holds 12 melons.\nThere are 6 crates, so there are 6 * 12 = 72 melons."),
        ("open_orca", "Six crates of 12 melons are 72 melons."),
        ("open_r1_math", "6 * 12"),
        ("share_gpt", BOXED),
        ("chat_with_system", BOXED),
        ("prompt_completion", BOXED),
        ("prompt_completion_chat", BOXED),
    ],
)
def test_known_layouts(name: str, solution: str) -> None:
    first = head(name).problems[0]
    assert (first.problem, first.solution, first.answer) == (MELONS, solution, "72")


def test_what_a_layout_has_besides() -> None:
    assert head("metamath_qa").problems[1].answer == "81", "from the last sentence"
    assert head("numina_math_1_5").num_unreadable == 1, "a proof has no gold answer"
    assert [problem.problem for problem in head("alpaca").problems] == [
        "Compute the number of melons.\n\n6 crates with 12 melons each",
        MELONS,
    ]
    system = head("chat_with_system")
    assert (system.num_system_turns, system.system_turns[0].partition(":1: ")[2]) == (1, "'Put the answer in a box.'")


def test_columns_of_other_names_and_lists_of_solutions() -> None:
    (only,) = head("open_math_instruct_2", solution="generated_solution", answer="expected_answer").problems
    assert (only.problem, only.solution, only.answer) == (MELONS, BOXED, "72")
    several = head("open_r1_math", solution="generations")
    assert [problem.solution for problem in several.problems] == [
        BOXED,
        r"First 6 times 10 is 60, then 6 times 2 is 12: $\boxed{72}$.",
    ]
    assert [str(place).rpartition(":")[2] for place in several.rows] == ["1", "1"], "both solutions are of row 1"
    with pytest.raises(UserError, match=r"no column 'gold', which data\.columns\.answer names; its columns are \['exp"):
        head("open_math_instruct_2", answer="gold")


def test_a_solution_that_cannot_be_read_leaves_the_others_of_its_row(tmp_path: Path) -> None:
    row = {"problem": "What is 1 + 1?", "solution": [BOXED, "So it is two.", BOXED, None]}
    (path := tmp_path / "rows.jsonl").write_text(json.dumps(row))
    rows = load_problems(str(path), "drop")
    assert [place.solution for place in rows.rows] == [0, 2]
    assert (rows.num_unreadable, len(rows.unreadable)) == (2, 2)
    with pytest.raises(UserError, match=r"2 of 4 rows cannot be read, also 1; data\.unreadable"):
        load_problems(str(path))


def test_prose_without_a_marked_answer_has_no_gold() -> None:
    with pytest.raises(UserError, match=r"orca_math\.jsonl:1: no gold answer can be read .*has 72 melons"):
        head("orca_math")


def test_a_conversation_of_more_turns_is_refused() -> None:
    rows = head("share_gpt")
    assert (len(rows.rows), rows.num_unreadable) == (1, 1)
    assert "conversations has the turns user, assistant, user, assistant; one user and one assistant" in rows.unreadable[0]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user", "content": "q"}], "has the turns user; one user"),
        ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}], "turns assistant, user;"),
        ([{"role": "system", "content": "s"}] * 3, "turns system, system;"),
        ([{"role": "user", "content": "q"}, {"role": "tool", "content": "a"}], "turns user, tool;"),
        ([{"role": "user", "content": [{"type": "text"}]}, {"role": "assistant", "content": "a"}], r"content \[\{'type'"),
        (["q", "a"], "has the turn 'q'; write an object"),
        ("q", "messages is 'q'; write a list of turns"),
    ],
)
def test_other_conversations_are_refused(messages: object, words: str) -> None:
    with pytest.raises(UnreadableRowError, match=words):
        common_rows({"messages": messages}, NONE)
