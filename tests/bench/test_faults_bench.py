from dataclasses import replace

from bench.ends import Differences, End, compare
from tests.build import make_metrics, make_trial

SAME = Differences(lost=0, doubled=0, curves_differ=0, results_differ=0)


def end() -> End:
    """Two trials of two steps, the second of which was pruned, each scored at both."""
    runs = [make_trial(0, {"lr": 1.0}, value=0.5), make_trial(1, {"lr": 2.0}, state="pruned")]
    return End(
        runs={run.name: run for run in runs},
        promotion=None,
        trials={number: run.value for number, run in enumerate(runs)},
        scores={(run.name, step, "search"): step / 2 for run in runs for step in (1, 2)},
        curves={run.name: [make_metrics(run.name, step, loss=1 / step) for step in (1, 2)] for run in runs},
        num_repeated_steps=0,
        num_half_files=0,
    )


def test_ends_that_differ_in_what_was_only_speculative_are_the_same() -> None:
    actual = end()
    del actual.scores["trial-1", 2, "search"]
    del actual.curves["trial-1"][-1]
    assert compare(end(), actual) == compare(actual, end()) == SAME


def test_whatever_is_missing_too_much_or_another_is_counted() -> None:
    actual = end()
    del actual.scores["trial-0", 2, "search"]
    del actual.curves["trial-0"][-1]
    assert compare(end(), actual) == replace(SAME, lost=2)
    assert compare(actual, end()) == replace(SAME, doubled=2)
    actual = end()
    actual.runs["trial-2"], actual.trials[2] = replace(actual.runs["trial-0"], name="trial-2"), 0.5
    assert compare(end(), replace(actual, num_repeated_steps=3)) == replace(SAME, doubled=5)
    actual = end()
    actual.runs["trial-0"] = replace(actual.runs["trial-0"], value=0.25)
    actual.trials[0] = 0.25
    actual.scores["trial-0", 1, "search"] = 0.25
    assert compare(end(), actual) == replace(SAME, results_differ=3)
    actual = end()
    first, last = actual.curves["trial-0"]
    actual.curves["trial-0"] = [first, replace(last, loss=last.loss * (1 + 1e-15))]
    assert compare(end(), actual) == replace(SAME, curves_differ=1)
