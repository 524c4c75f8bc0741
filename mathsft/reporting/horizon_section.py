"""The report's section on the horizon: how the best learning rate moves with length, and what came of the prediction."""

from collections.abc import Sequence

from mathsft.records import Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.figures import BLUE, GREY
from mathsft.reporting.svg import Axis, Chart
from mathsft.runs.horizon_runs import recorded_horizon
from mathsft.statistics.rate_scaling import Bracket, Horizon, Tried, fit_horizon
from mathsft.store.study_store import StudyStore


def horizon_of(store: StudyStore, num_examples: int) -> Horizon | None:
    """Return what the study's runs at two lengths say of a run of num_examples; None where they do not tell."""
    tried = recorded_horizon(store)
    return fit_horizon(tried, num_examples) if len({one.num_examples for one in tried}) == 2 else None


def horizon_words(store: StudyStore, num_examples: int) -> str:
    """Return what to do about a run of that length; empty where the study did not look at the horizon."""
    tried = recorded_horizon(store)
    if not tried:
        return ""
    horizon = horizon_of(store, num_examples)
    if horizon is None:
        return (
            f"Horizon: {len(tried)} runs at two lengths show no best learning rate inside the rates tried, so there is no "
            "telling how it moves; keep the promoted one."
        )
    factor, rate = horizon.factor_per_doubling, horizon.learning_rate
    measured = (
        f"Horizon: from {horizon.optima[0][0]:,} to {horizon.optima[1][0]:,} examples the best learning rate goes from "
        f"{_bracket(horizon.optima[0][1])} to {_bracket(horizon.optima[1][1])}, {factor.middle:.2f} times per doubling "
        f"({factor.low:.2f} – {factor.high:.2f})"
    )
    ahead = f"for {num_examples:,} examples that makes {_bracket(rate)}"
    if horizon.moves:
        return f"{measured}; {ahead}: let the final run follow it with --horizon adjust."
    return f"{measured}: no proof that it moves, so keep the promoted one ({ahead})."


def horizon_section(store: StudyStore) -> str:
    """Return the section without its figure; empty where the study did not look at the horizon."""
    tried, finals = recorded_horizon(store), store.runs("final")
    if not tried:
        return ""
    # Before there is a final run, of one twice as long as a trial.
    num_examples = finals[-1].plan.num_examples if finals else 2 * max(one.num_examples for one in tried)
    headers = ("learning rate", "examples", "correct", "accuracy (95 % interval)")
    rows = [_row(one) for one in sorted(tried, key=lambda one: (one.num_examples, one.learning_rate))]
    parts = ["## Horizon", horizon_words(store, num_examples), markdown.table(headers, rows, num_left=0)]
    parts += [_reached(store, run) for run in finals]
    return "\n\n".join(part for part in parts if part)


def horizon_curves(store: StudyStore) -> str | None:
    """Return an SVG of accuracy by learning rate, a curve for each length; None where there is no curve."""
    tried = recorded_horizon(store)
    lengths = sorted({one.num_examples for one in tried})
    if len(tried) < 2:
        return None
    rates = [one.learning_rate for one in tried]
    top = max(_interval(one)[2] for one in tried)
    chart = Chart(
        "Accuracy by learning rate, for runs of different length",
        Axis("learning rate", min(rates) / 1.2, max(rates) * 1.2, log=True, form="{:.0e}".format),
        Axis("accuracy", 0.0, min(1.0, top * 1.08), form="{:.0%}".format),
        f"on {tried[0].num_problems:,} problems; bars are 95 % intervals (Wilson)",
    )
    for length, color in zip(lengths, (GREY, BLUE), strict=False):
        curve = sorted((one for one in tried if one.num_examples == length), key=lambda one: one.learning_rate)
        chart.line([(one.learning_rate, _interval(one)[0]) for one in curve], color, f"{length:,} examples")
        for one in curve:
            share, low, high = _interval(one)
            chart.line([(one.learning_rate, low), (one.learning_rate, high)], color, width=1)
            chart.dot(one.learning_rate, share, color, f"{one.learning_rate:.3g}: {share:.1%} ({low:.1%} – {high:.1%})")
    return chart.render()


def _reached(store: StudyStore, run: Run) -> str:
    """Return what was predicted for a final run of the promoted settings but for its learning rate, and what came of it."""
    scores: Sequence[Score] = store.scores(run.name, run.plan.pool)
    horizon = horizon_of(store, run.plan.num_examples)
    if run.state != "finished" or not scores or horizon is None:
        return ""
    predicted, reached = horizon.accuracy, scores[-1]
    where = "inside" if predicted.low <= reached.accuracy <= predicted.high else "outside"
    return (
        f"{run.name} ({markdown.settings(run.overrides)}): at the best learning rate {markdown.percent(predicted.middle)} "
        f"({markdown.percent(predicted.low)} – {markdown.percent(predicted.high)}) was predicted; "
        f"{markdown.accuracy(reached)} of the {reached.pool} problems was reached, {where} of that."
    )


def _row(one: Tried) -> tuple[str, ...]:
    share, low, high = _interval(one)
    accuracy = f"{markdown.percent(share)} ({markdown.percent(low)} – {markdown.percent(high)})"
    return f"{one.learning_rate:.3g}", f"{one.num_examples:,}", f"{one.num_correct:,} of {one.num_problems:,}", accuracy


def _interval(one: Tried) -> tuple[float, float, float]:
    return one.num_correct / one.num_problems, one.interval.low, one.interval.high


def _bracket(bracket: Bracket) -> str:
    return f"{bracket.middle:.3g} ({bracket.low:.3g} – {bracket.high:.3g})"
