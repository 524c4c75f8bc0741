"""Writes the report's sections on format failures and on response lengths, without the text of any response."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mathsft.objective import Objective
from mathsft.records import Response
from mathsft.reporting import markdown
from mathsft.reporting.analysis import is_cut

REASONS_MEANING = "Failed responses by reason. Each counts once, under the first reason that applies."
FLAGS_MEANING = "Responses by fault of their tags. One response may have several faults."
LENGTHS_MEANING = "Mean number of tokens of a response, and the number of responses that were truncated at the limit."


def failure_section(responses: Mapping[int, Sequence[Response]], objective: Objective) -> str:
    """Return two tables of responses by step: by the one reason of a format failure, and by tag faults, which overlap."""
    reasons = {step: Counter(_reasons(given, objective)) for step, given in responses.items()}
    flags = {step: Counter(flag for response in given for flag in response.tag_flags) for step, given in responses.items()}
    if not any(reasons.values()):
        return "### Format failures\n\nNo response failed its format."
    parts = ["### Format failures", REASONS_MEANING, _counts_by_step(reasons, responses)]
    if any(flags.values()):
        parts += [FLAGS_MEANING, _counts_by_step(flags, responses)]
    return "\n\n".join(parts)


def length_section(responses: Mapping[int, Sequence[Response]], objective: Objective) -> str:
    """Return a table of mean response lengths by step."""
    rows = []
    for step, given in responses.items():
        correct = [response.num_tokens for response in given if objective.is_correct(response)]
        incorrect = [response.num_tokens for response in given if not objective.is_correct(response)]
        means = (_mean([*correct, *incorrect]), _mean(correct), _mean(incorrect))
        rows.append((str(step), *means, f"{sum(map(is_cut, given)):,}", f"{len(given):,}"))
    headers = ("step", "all", "correct", "incorrect", "truncated", "responses")
    return "\n\n".join(("### Response lengths", LENGTHS_MEANING, markdown.table(headers, rows, num_left=0)))


def _reasons(responses: Iterable[Response], objective: Objective) -> Iterable[str]:
    return (objective.reason(response) for response in responses if not objective.is_well_formed(response))


def _counts_by_step(counts: Mapping[int, Counter[str]], responses: Mapping[int, Sequence[Response]]) -> str:
    names = sorted({name for counted in counts.values() for name in counted})
    rows = [
        (str(step), *(f"{counted[name]:,}" for name in names), f"{len(responses[step]):,}")
        for step, counted in counts.items()
    ]
    return markdown.table(("step", *(markdown.cell(name) for name in names), "responses"), rows, num_left=0)


def _mean(num_tokens: Sequence[int]) -> str:
    return f"{sum(num_tokens) / len(num_tokens):.1f}" if num_tokens else "–"
