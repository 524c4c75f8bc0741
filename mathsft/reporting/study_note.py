"""Writes the note of a study in optuna-dashboard: the verdict, the best trials with what is tied with them, and links."""

from urllib.parse import quote

from mathsft.invocation import command
from mathsft.objective import Objective
from mathsft.reporting import markdown
from mathsft.reporting.answer import answer
from mathsft.reporting.findings import points
from mathsft.reporting.study_section import last_scores
from mathsft.reporting.table import Cell, Link, Table, accuracy
from mathsft.statistics.paired import compare
from mathsft.store.study_store import StudyStore

NUM_SHOWN = 5


def study_note(store: StudyStore) -> str:
    """Return a study's note as Markdown. Its links are addresses of the server of `mathsft dashboard`."""
    parts = [f"## {markdown.cell(store.study)}", answer(store), *_best(store), _links(store)]
    return "\n\n".join(part for part in parts if part)


def _best(store: StudyStore) -> list[str]:
    """Return the most accurate finished trials, each with its difference to the first; empty without one."""
    trials = {trial.name: trial for trial in store.runs("trial") if trial.state == "finished"}
    last = last_scores(store, list(trials.values()))
    ranked = sorted(last, key=lambda name: (-last[name].accuracy, trials[name].number))
    if not ranked:
        return []
    objective, promotion = Objective.of(store.settings()), store.promotion()
    outcomes = {name: objective.outcomes(store.responses(last[name])) for name in ranked}
    behind = {name: compare(outcomes[ranked[0]], outcomes[name]) for name in ranked[1:]}
    tied = [name for name, difference in behind.items() if difference.high >= 0]
    rows: list[tuple[Cell, ...]] = []
    for name in ranked[:NUM_SHOWN]:
        link = Link(name, f"/studies/{quote(store.study)}/trials/{trials[name].number}")
        mark = "promoted" if promotion is not None and promotion.run == name else None
        difference = points(behind[name]) if name in behind else "–"
        rows.append((link, markdown.settings_text(trials[name].overrides), accuracy(last[name]), difference, mark))
    headers = ("trial", "settings", "accuracy (95 % interval)", "against the first, same problems", "")
    words = (
        f"{len(tied)} of the other {len(behind)} finished trials cannot be told apart from {ranked[0]} on these problems"
        + (f": {', '.join(tied)}." if tied else ".")
    )
    return ["### Most accurate trials", Table.of(headers, rows).markdown(), *([words] if behind else [])]


def _links(store: StudyStore) -> str:
    served = command("dashboard", markdown.cell(store.study))
    return f"The links of this note, and the [report](/studies/{quote(store.study)}/report), are served by `{served}`."
