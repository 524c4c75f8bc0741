"""Writes the report's section on a final run: its scores against the base model's, and its progress."""

from mathsft.records import Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.analysis import analyse_run
from mathsft.reporting.characteristics import characteristics_section, failure_section, length_section
from mathsft.reporting.figures import accuracy_curve, category_shares, learning_rate_curve, loss_curve
from mathsft.reporting.findings import paired, points
from mathsft.reporting.group_figures import accuracy_by_group
from mathsft.reporting.origin import architecture_section, settings_section
from mathsft.reporting.page import Figures, Section
from mathsft.reporting.pool_mix import pool_mix
from mathsft.reporting.score_tables import progress_table
from mathsft.reporting.table import Cell, Table, accuracy, correct, count, percent
from mathsft.runs.pool_names import TEST_POOL
from mathsft.runs.retention import best_step
from mathsft.store.study_store import StudyStore


def final_sections(store: StudyStore, run: Run, figures: Figures) -> list[Section]:
    """Return what a final run reached, and why its responses are wrong."""
    validated = store.scores(run.name, run.plan.pool)
    facts = f"{markdown.settings(run.overrides)}; {run.plan.num_examples:,} examples; seed {run.seed}; {run.state}" + (
        f": {markdown.cell(run.reason)}." if run.reason else "."
    )
    progress = figures.shown(f"accuracy-{run.name}", accuracy_curve(run, validated))
    sections = [
        Section.of(f"Final run {run.name}", facts, _comparison(store, run, validated), progress, pool_mix(store, run))
    ]
    if not validated:
        return sections
    by_group = [figures.shown(f"{kind}-{run.name}", chart) for kind, chart in accuracy_by_group(store, run).items()]
    why = (
        figures.shown(f"responses-{run.name}", category_shares(run, validated)),
        *by_group,
        characteristics_section(store, run),
    )
    return [*sections, Section.of(f"Why responses of {run.name} are wrong", *why)]


def final_details(store: StudyStore, run: Run, figures: Figures) -> list[Section]:
    """Return the details of a final run, folded: scores by step, response lengths, curves of training, settings, devices."""
    validated = store.scores(run.name, run.plan.pool)
    metrics = store.metrics(run.name)
    details = [Section.folded(settings_section(store, run)), Section.folded(architecture_section(store, run))]
    curves = (
        figures.shown(f"loss-{run.name}", loss_curve(run, metrics)),
        figures.shown(f"learning-rate-{run.name}", learning_rate_curve(run, metrics)),
    )
    details.append(Section.of(f"Training of {run.name}", *curves, is_folded=True))
    if validated:
        title = f"Progress on the pool {validated[0].pool} ({validated[0].num_problems:,} problems)"
        analyses = analyse_run(store, run.name, run.plan.pool)
        progress = progress_table(analyses).without("strict", "gained", "lost")
        details.append(Section.of(title, progress.markdown(), is_folded=True))
        details += map(Section.folded, (failure_section(analyses), length_section(analyses)))
    return details


def _comparison(store: StudyStore, run: Run, validated: list[Score]) -> str:
    """Return the scores of the base model, the best and the last checkpoint, and the promoted trial, pool by pool."""
    promotion, shown = store.promotion(), list[tuple[str, Score]]()
    for pool in (TEST_POOL, run.plan.pool):
        shown += [(role, score) for score in store.scores(run.name, pool) if (role := _role(score, validated))]
        promoted = store.scores(promotion.run, pool) if promotion is not None else []
        shown += [(f"promoted {score.run}", score) for score in promoted]
    rows = [
        (role, score.pool, score.step, correct(score), accuracy(score), percent(score.format_accuracy))
        for role, score in shown
    ]
    if not rows:
        return "No checkpoint is scored yet."
    best = f"The best checkpoint is the most accurate one on the pool {run.plan.pool}. No choice uses the pool {TEST_POOL}."
    headers = ("model", "pool", "step", "correct", "accuracy (95 % interval)", "format accuracy")
    improvement = filter(None, [_improvement(store, run, validated)])
    return markdown.section("### Base model and final run", best, Table.of(headers, rows).markdown(), *improvement)


def _improvement(store: StudyStore, run: Run, validated: list[Score]) -> str:
    """Return the gain of the best and of the last checkpoint over the base model, compared problem by problem."""
    rows: list[tuple[Cell, ...]] = []
    for pool in (TEST_POOL, run.plan.pool):
        for role, step in (("best", best_step(validated)), ("last", validated[-1].step)) if validated else ():
            gains = paired(store, run, pool, step)
            if gains is not None:
                counts = map(count, (gains[0].num_gained, gains[0].num_lost))
                rows.append((role, pool, step, *map(points, gains), *counts))
    headers = ("gain over the base model", "pool", "step", "accuracy", "format accuracy", "problems gained", "problems lost")
    meaning = "Gains have 95 % intervals for paired differences: Tango's, or Student's if problems have several responses."
    return f"{Table.of(headers, rows).markdown()}\n\n{meaning}" if rows else ""


def _role(score: Score, validated: list[Score]) -> str:
    last = validated[-1].step
    if score.step == 0:
        return "base model"
    names = ["best"] * (score.step == best_step(validated)) + ["last"] * (score.step == last)
    return " and ".join(names)
