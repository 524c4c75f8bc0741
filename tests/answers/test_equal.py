"""Laws of equality on generated answers, and what hostile text may not do."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.answers.equal import decide, equal

# No deadline: the machine may be busy.
repeatable = settings(derandomize=True, deadline=None)
rationals = st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**4)
FRAGMENTS = r"""
\frac \frac{ \dfrac12 } { ( ) [ ] \{ \} , ; . = / ^ _ & \\ x \pi \sqrt \cup \in \infty \% ° \$ $ \! \text{ \text{cm} cm
\begin{pmatrix} \end{pmatrix} \boxed{ \boxed e9 ^{999} \times10^ \overline{ 1,000 ½ ² → ∞ and or
"""
fragments = st.one_of(
    st.text(max_size=4),
    st.integers(-999, 9999).map(str),
    st.sampled_from([*FRAGMENTS.split(), " ", " and ", " or ", ", "]),
)
answer_like = st.lists(fragments, max_size=25).map("".join)


def spellings(value: Fraction) -> st.SearchStrategy[str]:
    """Return ways to write the number."""
    numerator, denominator = value.numerator, value.denominator
    whole, rest = divmod(abs(numerator), denominator)
    sign = "-" if value < 0 else ""
    ways = [
        f"{numerator}/{denominator}",
        rf"\frac{{{numerator}}}{{{denominator}}}",
        rf"$-\dfrac{{{-3 * numerator}}}{{{3 * denominator}}}$",
        rf"x = \boxed{{{numerator}/{denominator}}}",
        rf"{numerator} / {denominator}\text{{ cm}}",
    ]
    if rest:
        ways.append(rf"{sign}{whole}\frac{{{rest}}}{{{denominator}}}" if whole else f"{sign}{rest}/{denominator}")
    else:
        ways += [
            str(numerator),
            f"{numerator}.0",
            f"{numerator:,}",
            rf"\${numerator:,}.00",
            rf"{numerator}e0",
            rf"{numerator}^\circ",
        ]
    return st.sampled_from(ways)


numbers = rationals.flatmap(lambda value: st.tuples(st.just(value), spellings(value)))


@repeatable
@given(numbers, numbers)
def test_numbers_are_equal_exactly_when_their_values_are(first: tuple[Fraction, str], second: tuple[Fraction, str]) -> None:
    assert decide(first[1], second[1]) is (first[0] == second[0])


@repeatable
@given(rationals.flatmap(lambda value: st.tuples(spellings(value), spellings(value))))
def test_every_spelling_of_a_number_is_equal_to_every_other(pair: tuple[str, str]) -> None:
    assert decide(*pair) is True


@repeatable
@given(st.lists(numbers, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_sets_are_unordered_and_tuples_ordered(values: list[tuple[Fraction, str]], random: object) -> None:
    plain = [str(value) for value, _ in values]
    shuffled = sorted(plain, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert equal(r"\{" + ", ".join(shuffled) + r"\}", ", ".join(plain))
    assert equal(f"({', '.join(shuffled)})", f"({', '.join(plain)})") == (shuffled == plain)


@repeatable
@given(answer_like, answer_like)
def test_decide_is_symmetric(first: str, second: str) -> None:
    assert decide(first, second) is decide(second, first)


@repeatable
@given(st.text(), st.text(min_size=1))
def test_decide_never_raises_on_arbitrary_text(answer: str, gold: str) -> None:
    assert decide(answer, gold) in (True, False, None)


@repeatable
@given(answer_like)
def test_a_readable_answer_equals_itself(text: str) -> None:
    assert decide(text, text) is True or decide(text, "1") is False


@pytest.mark.timeout(120)
def test_hostile_text_costs_no_more_than_its_length() -> None:
    # Linear, or nearly so: a power of the length would take minutes for these.
    units = [
        "(",
        "[",
        "{",
        "}",
        ")",
        r"\frac{",
        r"\frac{1}",
        "1,",
        "1, ",
        "x=",
        "1 ",
        "1/",
        ".",
        r"\{",
        " and ",
        "9e9",
        "^{",
        "a ",
        r"\\",
        "&",
    ]
    units += [
        r"\boxed{",
        r"\text{",
        r"\begin{pmatrix}",
        r"\left(",
        "((1),",
        "½",
        "ﷺ",
        "2\\frac",
        "0.",
        r"\overline{1}",
        "$",
        r"\cup ",
        "1,000",
    ]
    for unit in units:
        for tail in ("", "1", ")" * 500, "}" * 500):
            text = (unit * 2000)[: 2000 - len(tail)] + tail
            decide(text, "1")
            decide(text, text[:-1] + "2")
