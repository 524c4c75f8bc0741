"""Writes the report's section on the horizon: how the best learning rate depends on the length of a run."""

from collections.abc import Sequence

from mathsft.objective import Share
from mathsft.records import Run
from mathsft.reporting import markdown
from mathsft.reporting.figures import BLUE, GREY
from mathsft.reporting.svg import Axis, Chart
from mathsft.reporting.table import Cell, Part, Table, count, setting
from mathsft.runs.horizon_runs import recorded_horizon
from mathsft.statistics.intervals import Interval
from mathsft.statistics.rate_scaling import Bracket, Horizon, Tried, fit_horizon
from mathsft.store.study_store import StudyStore


def horizon_of(store: StudyStore, num_examples: int) -> Horizon | None:
    """Return the estimate for a run of num_examples; None if the study's runs at two lengths do not allow one."""
    tried = recorded_horizon(store)
    return fit_horizon(tried, num_examples) if len({result.num_examples for result in tried}) == 2 else None


def horizon_words(store: StudyStore, num_examples: int) -> str:
    """Return which learning rate to use for a run of num_examples; empty if the study has no horizon runs."""
    tried = recorded_horizon(store)
    if not tried:
        return ""
    horizon = horizon_of(store, num_examples)
    if horizon is None:
        return (
            "Horizon: the data do not show whether the best learning rate depends on the length of a run. The accuracies of "
            f"the {len(tried)} runs have no clear maximum between the tried learning rates. Keep the promoted learning rate."
        )
    factor, rate = horizon.factor_per_doubling, horizon.learning_rate
    (num_shorter, shorter), (num_longer, longer) = horizon.optima
    measured = (
        f"Horizon: the best learning rate is {_bracket(shorter)} for {num_shorter:,} examples and {_bracket(longer)} for "
        f"{num_longer:,} examples. Each doubling of the length multiplies it by {factor.middle:.2f} (95 % interval "
        f"{factor.low:.2f} – {factor.high:.2f}). For {num_examples:,} examples the estimate is {_bracket(rate)}."
    )
    if horizon.moves:
        return f"{measured} Use this learning rate for the final run with --horizon adjust."
    return f"{measured} The factor's interval includes 1, so keep the promoted learning rate."


def horizon_section(store: StudyStore) -> str:
    """Return the section without its figure; empty if the study has no horizon runs."""
    tried, finals = recorded_horizon(store), store.runs("final")
    if not tried:
        return ""
    # Without a final run the section is about a run that is twice as long as a trial.
    num_examples = finals[-1].plan.num_examples if finals else 2 * max(result.num_examples for result in tried)
    headers = ("learning rate", "examples", "correct", "accuracy (95 % interval)")
    rows = [_row(result) for result in _ordered(tried)]
    parts = ["## Horizon", horizon_words(store, num_examples), Table.of(headers, rows).markdown()]
    parts += [_prediction(store, run) for run in finals]
    return "\n\n".join(part for part in parts if part)


def horizon_curves(store: StudyStore) -> Chart | None:
    """Return a chart of accuracy by learning rate, a curve for each length; None for fewer than two runs."""
    tried = recorded_horizon(store)
    lengths = sorted({result.num_examples for result in tried})
    if len(tried) < 2:
        return None
    rates = [result.learning_rate for result in tried]
    top = max(result.interval.high for result in tried)
    chart = Chart(
        "Accuracy by learning rate and length of the run",
        Axis("learning rate (log scale)", min(rates) / 1.2, max(rates) * 1.2, log=True, form="{:.0e}".format),
        Axis("accuracy", 0.0, min(1.0, top * 1.08), form="{:.0%}".format),
        f"on {tried[0].num_problems:,} problems; bars are 95 % intervals (Wilson)",
    )
    for length, color in zip(lengths, (GREY, BLUE), strict=False):
        curve = [(result.learning_rate, _share(result)) for result in _ordered(tried) if result.num_examples == length]
        chart.line([(rate, solved.share) for rate, solved in curve], color, f"{length:,} examples")
        for rate, solved in curve:
            chart.interval(rate, solved.interval.low, solved.interval.high, color)
            chart.mark(rate, solved.share, color, f"{rate:.3g}: {markdown.share(solved)}")
    best = {length: max((t for t in tried if t.num_examples == length), key=lambda t: _share(t).share) for length in lengths}
    chart.caption = (
        "Most accurate: "
        + ", ".join(f"learning rate {result.learning_rate:.3g} with {length:,} examples" for length, result in best.items())
        + ". Where the intervals overlap, the order may be chance."
    )
    return chart


def _prediction(store: StudyStore, run: Run) -> str:
    """Return a final run's accuracy and the one predicted for the best learning rate; empty before the run is finished."""
    scores = store.scores(run.name, run.plan.pool)
    horizon = horizon_of(store, run.plan.num_examples)
    if run.state != "finished" or not scores or horizon is None:
        return ""
    predicted, reached = horizon.accuracy, scores[-1]
    where = "inside" if predicted.low <= reached.accuracy <= predicted.high else "outside"
    return (
        f"{run.name} ({markdown.settings(run.overrides)}) solves {markdown.accuracy(reached)} of the {reached.pool} "
        f"problems. This is {where} the interval that was predicted for the best learning rate: "
        f"{markdown.percent(predicted.middle)} ({markdown.bounds(Interval(predicted.low, predicted.high))})."
    )


def _ordered(tried: Sequence[Tried]) -> list[Tried]:
    return sorted(tried, key=lambda result: (result.num_examples, result.learning_rate))


def _row(result: Tried) -> tuple[Cell, ...]:
    counts = Part(result.num_correct, result.num_problems)
    return setting(result.learning_rate), count(result.num_examples), counts, _share(result)


def _share(result: Tried) -> Share:
    return Share(result.num_correct, result.num_problems, result.interval)


def _bracket(bracket: Bracket) -> str:
    return f"{bracket.middle:.3g} ({bracket.low:.3g} – {bracket.high:.3g})"
