"""Tables of checkpoints' scores by step: accuracy, errors, response lengths, reasons of failures, subjects and levels."""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

from mathsft.objective import Share
from mathsft.records import Run
from mathsft.reporting import markdown
from mathsft.reporting.analysis import Analysis
from mathsft.reporting.table import WITH_INTERVAL, Cell, Number, Table, accuracy, count, mean, number, percent
from mathsft.runs.retention import best_step
from mathsft.store.study_store import StudyStore


def progression_table(store: StudyStore, run: Run) -> Table:
    """Return the scores of the promoted trial and of a final run on the validation and test pools, by step."""
    promotion, validated = store.promotion(), store.scores(run.name, "validation")
    trial_scores = store.scores(promotion.run, "validation") if promotion else []
    marks = {best_step(validated): "best", validated[-1].step: "last"} if validated else {}
    if len(marks) == 1 and len(validated) > 1:
        marks = dict.fromkeys(marks, "best, last")
    rows = (
        (
            *(score.run, score.pool, score.num_problems, score.step, accuracy(score), percent(score.format_accuracy)),
            percent(score.counts["wrong_answer"] / sum(score.counts.values())),
            marks.get(score.step) if score.run == run.name else None,
        )
        for score in [*trial_scores, *validated, *store.scores(run.name, "test")]
    )
    headers = ("run", "pool", "problems", "step", f"accuracy{WITH_INTERVAL}", "format", "wrong answer", "")
    return Table.of(headers, rows, f"{run.name}: {markdown.settings_text(run.overrides)}")


def progress_table(analyses: Sequence[Analysis]) -> Table:
    """Return the shares of the response categories by step, and the problems gained and lost since the previous step."""

    def row(analysis: Analysis) -> tuple[Cell, ...]:
        shares = analysis.categories
        formats = (percent(share.share) for share in (analysis.format_ok, analysis.strictly_correct))
        errors = (_tally(shares[category]) for category in ("wrong_answer", "format_failure"))
        changed = (count(len(ids)) for ids in (analysis.gained, analysis.lost))
        ungraded, responses = count(shares["ungraded"].num), count(shares["correct"].of)
        return analysis.step, shares["correct"], *formats, *errors, ungraded, *changed, responses

    headers = ("format", "strict", "wrong answer", "format failure", "ungraded", "gained", "lost", "responses")
    title = f"On the pool {analyses[-1].pool}, {analyses[-1].format_ok.of:,} responses"
    return Table.of(("step", f"accuracy{WITH_INTERVAL}", *headers), map(row, analyses), title)


def lengths_table(analyses: Sequence[Analysis]) -> Table:
    """Return mean response lengths, the number of truncated responses, mean token entropy and gold NLL by step."""
    rows = (
        (
            analysis.step,
            *map(mean, (analysis.mean_tokens, analysis.mean_tokens_correct, analysis.mean_tokens_incorrect)),
            *map(count, (analysis.num_cut, analysis.format_ok.of)),
            *(number(nats, "{:.3f}".format) for nats in (analysis.mean_entropy, analysis.gold_nll)),
        )
        for analysis in analyses
    )
    headers = ("step", "all", "correct", "incorrect", "truncated", "responses", "entropy", "gold NLL")
    return Table.of(headers, rows, "Mean tokens of a response; entropy and gold NLL in nats per token")


def counts_table(analyses: Sequence[Analysis], counts: Callable[[Analysis], Mapping[str, int]]) -> Table:
    """Return numbers of responses by step and by name, such as a reason or a fault; without rows if there are none."""
    names = sorted({name for analysis in analyses for name in counts(analysis)})
    rows = (
        (analysis.step, *(count(counts(analysis).get(name, 0)) for name in names), count(analysis.format_ok.of))
        for analysis in (analyses if names else ())
    )
    return Table.of(("step", *names, "responses"), rows)


def reasons_table(last: Analysis) -> Table:
    """Return one checkpoint's failed responses by reason and, beside them, by fault of their tags."""
    columns = ([(name, count(num)) for name, num in counted.items()] for counted in (last.reasons, last.tag_flags))
    rows = ((*reason, *fault) for reason, fault in zip_longest(*columns, fillvalue=(None, None)))
    headers = ("reason (one per response)", "responses", "tag faults (may overlap)", "responses")
    return Table.of(headers, rows, f"Format failures at step {last.step}")


def shares_table(title: str, counts: Mapping[str, Share]) -> Table:
    """Return the share of correct responses by subject or by level."""
    rows = ((name, count(counted.of), count(counted.num), counted) for name, counted in counts.items())
    return Table.of(("", "responses", "correct", f"accuracy{WITH_INTERVAL}"), rows, title)


def _tally(counted: Share) -> Number:
    """Return "30.0% (60)"."""
    return Number(counted.share, lambda share: f"{share:.1%} ({counted.num:,})")
