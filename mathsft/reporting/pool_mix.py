"""Says in the report whether the validation and the test problems differ in their mix of levels or subjects."""

from collections import Counter
from collections.abc import Mapping

from mathsft.records import Problem, Run
from mathsft.reporting import markdown
from mathsft.runs.pool_names import TEST_POOL
from mathsft.store.study_store import StudyStore

SIGNIFICANCE = 0.01
"""A difference of mix with a larger p-value is not mentioned: pools that are drawn at random differ a little."""


def pool_mix(store: StudyStore, run: Run) -> str:
    """Return a sentence for each of level and subject whose mix differs between the run's own pool and test, else "".

    The test is chi-squared on the counts of problems in each group (Pearson 1900).
    """
    problems = store.problems()
    drawn = [_problems(store, run, pool, problems) for pool in (run.plan.pool, TEST_POOL)]
    if not all(drawn):
        return ""
    mixes = {
        "levels": [Counter(str(problem.level) for problem in pool if problem.level is not None) for pool in drawn],
        "subjects": [Counter(problem.subject for problem in pool if problem.subject is not None) for pool in drawn],
    }
    return " ".join(
        sentence for kind, (own, test) in mixes.items() if (sentence := _sentence(kind, run.plan.pool, own, test))
    )


def _problems(store: StudyStore, run: Run, pool: str, problems: Mapping[str, Problem]) -> list[Problem]:
    """Return the problems on which the run's first score on a pool rests."""
    score = next(iter(store.scores(run.name, pool)), None)
    if score is None:
        return []
    ids = dict.fromkeys(response.problem_id for response in store.responses(score))
    return [problems[problem_id] for problem_id in ids if problem_id in problems]


def _sentence(kind: str, pool: str, own: Counter[str], test: Counter[str]) -> str:
    from scipy.stats import chi2_contingency  # slow to import

    names = sorted({*own, *test})
    if len(names) < 2 or not own or not test:
        return ""
    p_value = float(chi2_contingency([[counts[name] for name in names] for counts in (own, test)]).pvalue)
    if p_value > SIGNIFICANCE:
        return ""
    shares = [{name: counts[name] / counts.total() for name in names} for counts in (own, test)]
    widest = max(names, key=lambda name: abs(shares[0][name] - shares[1][name]))
    return (
        f"The pools {pool} and {TEST_POOL} differ in their mix of {kind} (p = {p_value:.2g}): {kind[:-1]} "
        f"{markdown.cell(widest)} is {shares[0][widest]:.0%} of {pool} and {shares[1][widest]:.0%} of {TEST_POOL}. Compare "
        "scores within one pool only."
    )
