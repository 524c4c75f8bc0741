"""Writes the report's sections on responses: why they fail, how long they are, and the base model's beside the best's."""

from collections.abc import Callable, Iterable, Sequence

from mathsft.objective import Objective
from mathsft.records import Response, Run
from mathsft.reporting import markdown
from mathsft.reporting.analysis import Analysis, analyse, base_and_best, is_cut
from mathsft.reporting.score_tables import counts_table, lengths_table
from mathsft.reporting.table import Cell, Table
from mathsft.store.study_store import StudyStore

REASONS_MEANING = "Failed and ungraded responses by reason. Each counts once, under the first reason that applies."
FLAGS_MEANING = "Responses by fault of their tags. One response may have several faults."
LENGTHS_MEANING = "Mean number of tokens of a response, and the number of responses that were truncated at the limit."
MEANING = "In brackets: the 95 % interval, Student's for a mean over problems, Wilson's for a share."


def characteristics_section(store: StudyStore, run: Run) -> str:
    """Return the base model's and the best checkpoint's responses side by side; empty if no pool has scores of both.

    The pool is test if both have test scores, else the run's own pool.
    """
    scores = base_and_best(store, run)
    if scores is None:
        return ""
    responses, problems = [store.responses(score) for score in scores], store.problems()
    objective = Objective.of(store.settings())
    before, after = (analyse(*pair, problems, None, objective) for pair in zip(scores, responses, strict=True))
    columns = ("base model", f"step {after.step}")

    def shares(label: str, is_counted: Callable[[Response], bool]) -> tuple[Cell, ...]:
        return label, *(objective.share(given, is_counted) for given in responses)

    def means(label: str, name: str, is_counted: Callable[[Response], bool] = lambda _: True) -> tuple[Cell, ...]:
        return label, *(_mean([getattr(one, name) for one in given if is_counted(one)]) for given in responses)

    def has_reason(name: str) -> Callable[[Response], bool]:
        return lambda response: objective.reason(response) == name

    rows = [
        means("mean tokens", "num_tokens"),
        means("mean tokens, correct responses", "num_tokens", objective.is_correct),
        means("mean tokens, other responses", "num_tokens", lambda response: not objective.is_correct(response)),
        shares("truncated at the limit", is_cut),
        means("token entropy, nats", "entropy"),
        means("gold NLL, nats", "gold_nll"),
    ]
    rows += [shares(name, has_reason(name)) for name in sorted({*before.reasons, *after.reasons})]
    parts = ["### Properties of the responses", Table.of((f"pool {after.pool}", *columns), rows).markdown(), MEANING]
    for title, old, new in (("subject", before.by_subject, after.by_subject), ("level", before.by_level, after.by_level)):
        if old.keys() == new.keys() and old:
            solved = ((name, old[name], new[name]) for name in old)
            parts.append(Table.of((f"accuracy by {title}", *columns), solved).markdown())
    return "\n\n".join(parts)


def failure_section(analyses: Sequence[Analysis]) -> str:
    """Return two tables of responses by step: by the one reason of a failure, and by tag faults, which overlap."""
    tables = {
        REASONS_MEANING: counts_table(analyses, lambda analysis: analysis.reasons),
        FLAGS_MEANING: counts_table(analyses, lambda analysis: analysis.tag_flags),
    }
    shown = [part for meaning, table in tables.items() if table.rows for part in (meaning, table.markdown())]
    return markdown.section("### Format failures", *(shown or ["No response failed its format."]))


def length_section(analyses: Sequence[Analysis]) -> str:
    """Return a table of mean response lengths by step."""
    lengths = lengths_table(analyses).without("entropy", "gold NLL")
    return markdown.section("### Response lengths", LENGTHS_MEANING, lengths.markdown())


def _mean(values: Iterable[float | None]) -> str:
    """Return "144.9 (140.2 – 149.6)": the mean of the known values and its interval; one value has none."""
    from statsmodels.stats.weightstats import DescrStatsW

    known = [value for value in values if value is not None]
    if len(known) < 2:
        return f"{known[0]:.2f}" if known else "–"
    statistics = DescrStatsW(known)
    low, high = statistics.tconfint_mean()
    return f"{statistics.mean:.2f} ({low:.2f} – {high:.2f})"
