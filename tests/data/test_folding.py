"""Other spellings of a problem get its keys; another problem never gets its problem key."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.data.folding import pool_key, problem_key
from mathsft.tasks.quickstart.generator import generate


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How  many\n are left?", "How many are left?"),
        ("A train leaves. How far does the train go?", "a train leaves. how far does the train go?"),
        ("What is 3 + 4? It's Ann's.", "WHAT IS 3 + 4? IT'S ANN'S."),
        (r"What is $\dfrac{1}{2} + \tfrac12$?", r"What is $\frac{1}{2} + \frac12$?"),
        (r"$\dbinom{4}{2}$", r"$\binom{4}{2}$"),
        (r"$\left(x + 1\right)^2$", "$(x + 1)^2$"),
        (r"Find \(x\) in \[x = 1\]", "Find $x$ in $$x = 1$$"),
        ("１２ ＋ ３ ＝ ？", "12 + 3 = ?"),
        ("Find 𝑥: 𝑥 − 1 = 2", "Find x: x - 1 = 2"),
        ("the ﬁrst… 2\u00a0apples", "the first... 2 apples"),
        ("caf\u00e9", "cafe\u0301"),
        ("“Hi” – it’s Tom\u200b", '"Hi" - it\'s Tom'),
    ],
)
def test_other_spellings_are_one_problem(one: str, other: str) -> None:
    assert pool_key(one) == pool_key(other)
    assert problem_key(one) == problem_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x² + 1", "x2 + 1"),
        ("3½", "31/2"),
        ("1 2", "12"),
        ("2 + 3", "2 - 3"),
        ("5 < 6", "5 > 6"),
        ("3!", "3"),
        ("1.5", "15"),
        ("x_1", "x_2"),
        ("$\\sqrt{2}$", "$\\sqrt[3]{2}$"),
        ("2\u20623", "23"),  # an invisible times sign
    ],
)
def test_different_problems_stay_apart(one: str, other: str) -> None:
    assert pool_key(one) != pool_key(other)
    assert problem_key(one) != problem_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Solve for R: r = R + 1", "Solve for r: R = r + 1"),
        ("What is the code of A?", "What is the code of a?"),
        ("Given $a = 3$, find $AB$.", "Given $a = 3$, find $ab$."),
        (r"$\Delta$", r"$\delta$"),
    ],
)
def test_symbols_that_differ_in_case_share_a_pool_but_not_an_answer(one: str, other: str) -> None:
    assert pool_key(one) == pool_key(other)
    assert problem_key(one) != problem_key(other)


@settings(derandomize=True, deadline=None)  # a busy machine is slow
@given(st.text("0123456789+-*/^=<>!.,()|%", max_size=30), st.data())
def test_no_digit_and_no_operator_is_ever_folded(text: str, data: st.DataObject) -> None:
    spaced = "".join(char + data.draw(st.sampled_from(("", " ", "\n\t"))) for char in text)
    for key in (pool_key(spaced), problem_key(spaced)):
        assert key.replace(" ", "") == text


def test_the_quickstart_has_no_two_spellings_of_one_problem() -> None:
    texts = [problem.problem for problem in generate(2000, 1000)]
    assert len({pool_key(text) for text in texts}) == len(texts)
