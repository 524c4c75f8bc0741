from mathsft.records import Category, Problem, Response, Score, Verdict
from mathsft.reporting.analysis import Count, analyse

PROBLEMS = {
    name: Problem(name, f"what is {name}?", "", "1", level=level, subject="Algebra")
    for name, level in (("a", 1), ("b", 1), ("c", 5))
}


def response(problem_id: str, category: Category, num_tokens: int, **fields: object) -> Response:
    reason = {"format_failure": "missing_think_close"}.get(category, "")
    return Response(problem_id, 0, "text", "stop", num_tokens, Verdict(category, reason), **fields)  # type: ignore[arg-type]


def score(step: int, responses: list[Response]) -> Score:
    categories = ("correct", "wrong_answer", "format_failure", "ungraded")
    counts = {name: sum(one.verdict.category == name for one in responses) for name in categories}
    return Score("trial-0", step, "search", len(responses), counts, "f", "r.jsonl")


def test_counts_lengths_and_shares() -> None:
    responses = [
        response("a", "correct", 10, is_strict=True, entropy=0.5, gold_nll=1.0),
        response("b", "wrong_answer", 20, entropy=1.5),
        response("c", "format_failure", 40, tag_flags=("missing_think_close", "missing_answer_open")),
    ]
    found = analyse(score(8, responses), responses, PROBLEMS, None)
    assert found.categories["correct"] == Count(1, 3)
    assert found.format_ok == Count(2, 3)
    assert found.strictly_correct == Count(1, 3)
    assert found.reasons == {"missing_think_close": 1}
    assert found.tag_flags == {"missing_think_close": 1, "missing_answer_open": 1}
    assert (found.mean_tokens, found.mean_tokens_correct, found.mean_tokens_incorrect) == (70 / 3, 10, 30)
    assert (found.mean_entropy, found.gold_nll) == (1.0, 1.0)
    assert found.by_level == {"1": Count(1, 2), "5": Count(0, 1)}
    assert found.by_subject == {"Algebra": Count(1, 3)}
    assert (found.gained, found.lost) == ((), ())


def test_gained_and_lost_count_problems_not_samples() -> None:
    before = [response("a", "correct", 1), response("a", "wrong_answer", 1), response("b", "wrong_answer", 1)]
    now = [response("a", "wrong_answer", 1), response("b", "correct", 1), response("b", "wrong_answer", 1)]
    found = analyse(score(8, now), now, {}, before)
    assert (found.gained, found.lost) == (("b",), ("a",))
    assert found.by_subject == {}
