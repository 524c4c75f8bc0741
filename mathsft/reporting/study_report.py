"""Writes a study's report, report.md and report.html, from its store."""

from pathlib import Path

from mathsft import formats
from mathsft.accounting.ledger import cost_ledger
from mathsft.layout import StudyLayout
from mathsft.objective import Objective, Share
from mathsft.records import Finalist, Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.characteristics import characteristics_section
from mathsft.reporting.cost_section import cost_section, ledger_section
from mathsft.reporting.figures import (
    accuracy_curve,
    category_shares,
    learning_rate_curve,
    ledger_bars,
    loss_curve,
    study_map,
)
from mathsft.reporting.findings import findings_section, paired, points
from mathsft.reporting.horizon_section import horizon_curves, horizon_section
from mathsft.reporting.html import render_html
from mathsft.reporting.origin import architecture_section, settings_section
from mathsft.reporting.quality_section import data_section
from mathsft.reporting.responses import failure_section, length_section
from mathsft.reporting.surface_figures import importance_bars, surface_map
from mathsft.runs.contest import recorded_observations
from mathsft.runs.pool_names import TEST_POOL
from mathsft.runs.retention import best_step
from mathsft.runs.weak_signal import weak_signal
from mathsft.statistics.intervals import Interval
from mathsft.statistics.paired import compare
from mathsft.store.study_store import StudyStore

INTERVALS = (
    "In brackets: the 95 % interval of the value before it. A score has Wilson's interval, clustered by problem if a "
    "problem has several responses. Do not compare two scores by their intervals: scores on the same problems are compared "
    "problem by problem."
)


def write_report(store: StudyStore, layout: StudyLayout) -> Path:
    """Write report.md, its figures, and report.html, which contains the figures; return the path of report.html.

    The store may be incomplete: sections without records are left out.
    """
    sections = [f"# {markdown.cell(store.study)}", f"**{conclusion(store)}**", INTERVALS, findings_section(store)]
    for run in reversed(store.runs("final")):  # the latest first
        sections += _final_sections(store, run, layout)
    sections += _study_sections(store, layout)
    sections += [horizon_section(store), _figure(layout, "horizon", horizon_curves(store))]
    sections += [ledger_section(store), _figure(layout, "ledger", ledger_bars(cost_ledger(store)))]
    sections += [data_section(store), cost_section(store), _settings_section(store)]
    report = "\n\n".join(section for section in sections if section) + "\n"
    layout.report_markdown.write_text(report, encoding="utf-8")
    layout.report_page.write_text(render_html(f"{store.study}: report", report, layout.root), encoding="utf-8")
    return layout.report_page


# ---- the conclusion


def conclusion(store: StudyStore) -> str:
    """Return the main result: the latest final run's test scores, else its validation scores, else the best trial."""
    for run in reversed(store.runs("final")):
        for pool in (TEST_POOL, run.plan.pool):
            scores = store.scores(run.name, pool)
            if len(scores) > 1 and scores[0].step == 0:
                return _conclude_final(store, run, scores[0], _chosen(store, run, scores))
    return _conclude_study(store)


def _chosen(store: StudyStore, run: Run, scores: list[Score]) -> Score:
    """Return the score of the checkpoint that was best on the run's own pool; on that pool itself, the last score."""
    if scores[-1].pool == run.plan.pool:
        return scores[-1]  # the best score would be biased: it selected the checkpoint
    best = best_step(store.scores(run.name, run.plan.pool))
    return next((score for score in scores if score.step == best), scores[-1])


def _conclude_final(store: StudyStore, run: Run, base: Score, chosen: Score) -> str:
    sentences = (
        f"Fine-tuned with {markdown.settings(run.overrides)}, the model solves {markdown.accuracy(chosen)} of "
        f"{chosen.num_problems:,} {chosen.pool} problems at step {chosen.step}; the base model solves "
        f"{markdown.accuracy(base)}."
    )
    gains = paired(store, run, chosen.pool, chosen.step)
    if gains is None:
        return sentences
    gain, _ = gains
    verdict = "better than" if gain.low > 0 else "worse than" if gain.high < 0 else "not distinguishable from"
    return f"{sentences} On the same problems the fine-tuned model is {verdict} the base model: {points(gain)}."


def _conclude_study(store: StudyStore) -> str:
    trials = store.runs("trial")
    scored = [
        (run, scores[-1]) for run in trials if run.state == "finished" and (scores := store.scores(run.name, run.plan.pool))
    ]
    if not scored:
        return f"There is no result yet: {len(trials)} trials have begun, and none has finished."
    best, score = max(scored, key=lambda pair: (pair[1].accuracy, -(pair[0].number or 0)))
    objective = Objective.of(store.settings())
    solved = {run.name: objective.outcomes(store.responses(score)) for run, score in scored}
    gains = [compare(outcomes, solved[best.name]) for name, outcomes in solved.items() if name != best.name]
    num_alike = sum(gain.low <= 0 for gain in gains)
    return (
        f"The most accurate of {len(scored)} finished trials is {best.name} ({markdown.settings(best.overrides)}): "
        f"{markdown.accuracy(score)} of {score.num_problems:,} {score.pool} problems. {num_alike} of the other "
        f"{len(scored) - 1} cannot be distinguished from it on these problems. There is no final run yet."
    )


# ---- a final run


def _final_sections(store: StudyStore, run: Run, layout: StudyLayout) -> list[str]:
    validated = store.scores(run.name, run.plan.pool)
    sections = [
        f"## Final run {run.name}",
        f"{markdown.settings(run.overrides)}; {run.plan.num_examples:,} examples; seed {run.seed}; {run.state}"
        + (f": {markdown.cell(run.reason)}." if run.reason else "."),
        _comparison(store, run, validated),
        settings_section(store, run),
        architecture_section(store, run),
    ]
    if not validated:
        return sections
    responses = {score.step: store.responses(score) for score in validated}
    objective, metrics = Objective.of(store.settings()), store.metrics(run.name)
    sections += [
        f"### Progress on the pool {validated[0].pool} ({validated[0].num_problems:,} problems)",
        _progress(validated),
        _figure(layout, f"accuracy-{run.name}", accuracy_curve(run, validated)),
        _figure(layout, f"responses-{run.name}", category_shares(run, validated)),
        characteristics_section(store, run),
        failure_section(responses, objective),
        length_section(responses, objective),
    ]
    curves = [
        _figure(layout, f"loss-{run.name}", loss_curve(run, metrics)),
        _figure(layout, f"learning-rate-{run.name}", learning_rate_curve(run, metrics)),
    ]
    return [*sections, "### Training", *curves] if any(curves) else sections


def _figure(layout: StudyLayout, name: str, svg: str | None) -> str:
    """Write a figure and return the Markdown that shows it; empty without a figure."""
    if svg is None:
        return ""
    layout.figure(name).write_text(svg, encoding="utf-8")
    return f"![{name}]({name}.svg)"


def _comparison(store: StudyStore, run: Run, validated: list[Score]) -> str:
    """Return the scores of the base model, the best and the last checkpoint, and the promoted trial, pool by pool."""
    rows = []
    promotion = store.promotion()
    for pool in (TEST_POOL, run.plan.pool):
        for score in store.scores(run.name, pool):
            if role := _role(score, validated):
                rows.append(_comparison_row(role, score))
        for score in store.scores(promotion.run, pool) if promotion is not None else []:
            rows.append(_comparison_row(f"promoted {score.run}", score))
    if not rows:
        return "No checkpoint is scored yet."
    best = f"The best checkpoint is the most accurate one on the pool {run.plan.pool}. No choice uses the pool {TEST_POOL}."
    headers = ("model", "pool", "step", "correct", "accuracy (95 % interval)", "format accuracy")
    parts = [
        "### Base model and final run",
        best,
        markdown.table(headers, rows, num_left=2),
        _improvement(store, run, validated),
    ]
    return "\n\n".join(part for part in parts if part)


def _improvement(store: StudyStore, run: Run, validated: list[Score]) -> str:
    """Return the gain of the best and of the last checkpoint over the base model, compared problem by problem."""
    rows = []
    for pool in (TEST_POOL, run.plan.pool):
        for role, step in (("best", best_step(validated)), ("last", validated[-1].step)) if validated else ():
            gains = paired(store, run, pool, step)
            if gains is not None:
                counts = (f"{gains[0].num_gained:,}", f"{gains[0].num_lost:,}")
                rows.append((role, markdown.cell(pool), str(step), *map(points, gains), *counts))
    if not rows:
        return ""
    headers = ("gain over the base model", "pool", "step", "accuracy", "format accuracy", "problems gained", "problems lost")
    meaning = "Gains have 95 % intervals for paired differences: Tango's, or Student's if problems have several responses."
    return f"{markdown.table(headers, rows, num_left=2)}\n\n{meaning}"


def _role(score: Score, validated: list[Score]) -> str:
    last = validated[-1].step
    if score.step == 0:
        return "base model"
    names = ["best"] * (score.step == best_step(validated)) + ["last"] * (score.step == last)
    return " and ".join(names)


def _comparison_row(role: str, score: Score) -> tuple[str, ...]:
    measured = (markdown.num_correct(score), markdown.accuracy(score), markdown.percent(score.format_accuracy))
    return role, markdown.cell(score.pool), str(score.step), *measured


def _progress(scores: list[Score]) -> str:
    rows = []
    for score in scores:
        num_responses = sum(score.counts.values())
        errors = (
            f"{markdown.percent(score.counts[category] / num_responses)} ({score.counts[category]:,})"
            for category in ("wrong_answer", "format_failure")
        )
        shares = (markdown.accuracy(score), markdown.percent(score.format_accuracy), *errors)
        rows.append((str(score.step), *shares, f"{score.counts['ungraded']:,}", f"{num_responses:,}"))
    headers = (
        "step",
        "accuracy (95 % interval)",
        "format accuracy",
        "wrong answer",
        "format failure",
        "ungraded",
        "responses",
    )
    return markdown.table(headers, rows, num_left=0)


# ---- the study


def _study_sections(store: StudyStore, layout: StudyLayout) -> list[str]:
    trials = store.runs("trial")
    if not trials:
        return []
    space, observed = recorded_observations(store)
    names = sorted({name for trial in trials for name in trial.overrides})
    ranked = sorted(trials, key=lambda trial: (trial.value is None, -(trial.value or 0.0), trial.number))
    headers = (
        "trial",
        *(name.removeprefix("training.") for name in names),
        "accuracy (95 % interval)",
        "correct",
        "step",
        "state",
    )
    return [
        f"## The study: {len(trials)} trials",
        _promotion(store),
        _baseline(store, trials[0].plan.pool),
        f"{weakness}." if (weakness := weak_signal(store)) else "",
        _figure(layout, "study", study_map(trials)),
        _figure(layout, "surface", surface_map(space, observed, store.promotion())),
        _figure(layout, "importance", importance_bars(space, observed)),
        markdown.table(headers, [_trial_row(store, trial, names) for trial in ranked]),
    ]


def _promotion(store: StudyStore) -> str:
    promotion = store.promotion()
    if promotion is None:
        return "No trial is promoted yet."
    # A whole reason is longer than the limit of a cell.
    reason = "; ".join(map(markdown.cell, promotion.reason.split("; ")))
    parts = [f"Promoted: **{promotion.run}** ({markdown.settings(promotion.overrides)}): {reason}."]
    if promotion.evidence:
        parts.append(markdown.expectation(promotion))
    rows = [_finalist_row(finalist, finalist.run == promotion.run) for finalist in promotion.finalists]
    if rows:
        headers = ("finalist", "search", "smoothed", "fresh problems", "accuracy on fresh problems (95 % interval)", "")
        parts.append(markdown.table(headers, rows))
    return "\n\n".join(parts)


def _finalist_row(finalist: Finalist, is_promoted: bool) -> tuple[str, ...]:
    measured = (markdown.percent(finalist.search_accuracy), markdown.percent(finalist.smoothed_accuracy))
    mark = "promoted" if is_promoted else ""
    if finalist.low is None or finalist.high is None:
        return finalist.run, *measured, "", "", mark
    confirmed = Share(finalist.num_correct, finalist.num_responses, Interval(finalist.low, finalist.high))
    return finalist.run, *measured, f"{confirmed.num:,} of {confirmed.of:,}", markdown.share(confirmed), mark


def _baseline(store: StudyStore, pool: str) -> str:
    scores = [score for score in store.scores(pool=pool) if score.step == 0]
    if not scores:
        return ""
    return f"The base model solves {markdown.accuracy(scores[0])} of the same {scores[0].num_problems:,} {pool} problems."


def _trial_row(store: StudyStore, trial: Run, names: list[str]) -> tuple[str, ...]:
    scores = store.scores(trial.name, trial.plan.pool)
    values = (markdown.cell(formats.value(trial.overrides[name])) if name in trial.overrides else "" for name in names)
    state = trial.state + (f": {markdown.cell(trial.reason)}" if trial.reason else "")
    if not scores:
        return trial.name, *values, "", "", "", state
    last = scores[-1]
    return trial.name, *values, markdown.accuracy(last), markdown.num_correct(last), str(last.step), state


# ---- settings


def _settings_section(store: StudyStore) -> str:
    settings = store.settings()
    if not settings:
        return ""
    rows = [(markdown.cell(name), markdown.cell(str(value))) for name, value in sorted(settings.items())]
    return "## Settings of all runs\n\n" + markdown.table(("setting", "value"), rows, num_left=2)
