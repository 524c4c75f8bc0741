from mathsft.objective import Objective, Share
from mathsft.records import Category, Problem, Response
from mathsft.reporting.analysis import analyse
from mathsft.statistics.intervals import wilson
from tests.build import make_response, score_of

PROBLEMS = {
    name: Problem(name, f"what is {name}?", "", "1", level=level, subject="Algebra")
    for name, level in (("a", 1), ("b", 1), ("c", 5))
}


def response(problem_id: str, category: Category, num_tokens: int, **fields: object) -> Response:
    reason = {"format_failure": "missing_think_close"}.get(category, "")
    return make_response(problem_id, category, reason=reason, num_tokens=num_tokens, **fields)


def counted(share: Share) -> tuple[int, int]:
    return share.num, share.of


def test_by_the_strict_rule_a_loose_format_fails_with_a_reason_of_its_own() -> None:
    responses = [response("a", "correct", 1, is_strict=True), response("b", "correct", 1), response("c", "wrong_answer", 1)]
    found = analyse(score_of(responses), responses, PROBLEMS, None, Objective("strict"))
    assert {name: share.num for name, share in found.categories.items()} == {
        "correct": 1,
        "wrong_answer": 0,
        "format_failure": 2,
        "ungraded": 0,
    }
    assert counted(found.format_ok) == (1, 3)
    assert found.reasons == {"not_strict": 2}


def test_counts_lengths_and_shares() -> None:
    responses = [
        response("a", "correct", 10, is_strict=True, entropy=0.5, gold_nll=1.0),
        response("b", "wrong_answer", 20, entropy=1.5),
        response("c", "format_failure", 40, tag_flags=("missing_think_close", "missing_answer_open")),
    ]
    found = analyse(score_of(responses), responses, PROBLEMS, None, Objective())
    assert found.categories["correct"] == Share(1, 3, wilson(1, 3))
    assert counted(found.format_ok) == (2, 3)
    assert counted(found.strictly_correct) == (1, 3)
    assert found.reasons == {"missing_think_close": 1}
    assert found.tag_flags == {"missing_think_close": 1, "missing_answer_open": 1}
    assert (found.mean_tokens, found.mean_tokens_correct, found.mean_tokens_incorrect) == (70 / 3, 10, 30)
    assert (found.mean_entropy, found.gold_nll) == (1.0, 1.0)
    assert {name: counted(share) for name, share in found.by_level.items()} == {"1": (1, 2), "5": (0, 1)}
    assert {name: counted(share) for name, share in found.by_subject.items()} == {"Algebra": (1, 3)}
    assert (found.gained, found.lost) == ((), ())


def test_gained_and_lost_count_problems_not_samples() -> None:
    before = [response("a", "correct", 1), response("a", "wrong_answer", 1), response("b", "wrong_answer", 1)]
    now = [response("a", "wrong_answer", 1), response("b", "correct", 1), response("b", "wrong_answer", 1)]
    found = analyse(score_of(now), now, {}, before, Objective(num_samples=2))
    assert (found.gained, found.lost) == (("b",), ("a",))
    assert found.by_subject == {}
