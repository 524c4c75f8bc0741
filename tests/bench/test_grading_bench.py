"""The graders' bench and fuzzer: what they make is what they say, and a small run of each."""

from collections import Counter

import pytest

from bench.fuzz_grader import fuzz
from bench.grading import run_ours
from bench.grading_workload import FORMAT_FAILURE_SHARE, WRONG_SHARE, make_responses
from mathsft.prompts.tags import parse_response


def test_responses_are_made_in_the_shares_that_they_should_be() -> None:
    responses = make_responses(5000, seed=0)
    assert responses == make_responses(5000, seed=0)
    assert responses[:10] != make_responses(10, seed=1)
    shares = {category: count / 5000 for category, count in Counter(one.category for one in responses).items()}
    assert shares["format_failure"] == pytest.approx(FORMAT_FAILURE_SHARE, abs=0.02)
    assert shares["wrong_answer"] == pytest.approx(WRONG_SHARE, abs=0.02)
    for response in responses:
        parsed = parse_response(response.completion.text, response.completion.finish_reason)
        assert (parsed.body is not None) == (response.category != "format_failure")
    bodies = {(parse_response(one.completion.text, "stop").body, one.completion.gold) for one in responses}
    assert len(bodies) > 4000, "few pairs are judged only once for being equal"


def test_our_verdicts_on_them_are_right() -> None:
    responses = make_responses(1000, seed=2)
    run = run_ours(responses)
    wrong = [
        (one.completion.text[-60:], one.completion.gold, verdict)
        for one, verdict in zip(responses, run.verdicts, strict=True)
        if verdict not in (one.category, "ungraded")
    ]
    assert not wrong
    assert run.verdicts.count("ungraded") <= 2, "hostile answers only"
    assert run.num_hangs == 0


@pytest.mark.slow
def test_hostile_answers_neither_hang_nor_grow_the_process() -> None:
    summaries, growth_bytes = fuzz(2000, seed=1)
    assert sum(summary.categories.total() for summary in summaries.values()) == 2000
    assert all(summary.num_hangs == 0 for summary in summaries.values())
    assert growth_bytes < 200 * 2**20
