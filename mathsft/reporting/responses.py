"""The report's sections on responses: why their format failed, and how long they are. Nothing of their text is shown."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mathsft.objective import Objective
from mathsft.records import Response
from mathsft.reporting import markdown


def failure_section(responses: Mapping[int, Sequence[Response]], objective: Objective) -> str:
    """Return why formats fail, from responses by step: one reason for each failure, and tag flags, which overlap."""
    reasons = {step: Counter(_reasons(given, objective)) for step, given in responses.items()}
    flags = {step: Counter(flag for response in given for flag in response.tag_flags) for step, given in responses.items()}
    parts = ["### Why formats fail"]
    if not any(reasons.values()):
        return f"{parts[0]}\n\nNo response failed its format."
    parts += ["Responses by their one reason, the first that applies:", _counts_by_step(reasons, responses)]
    if any(flags.values()):
        parts += ["Responses by what is amiss with their tags; one response may count several times:"]
        parts.append(_counts_by_step(flags, responses))
    return "\n\n".join(parts)


def length_section(responses: Mapping[int, Sequence[Response]], objective: Objective) -> str:
    """Return mean response lengths from responses by step."""
    rows = []
    for step, given in responses.items():
        correct = [response.num_tokens for response in given if objective.is_correct(response)]
        incorrect = [response.num_tokens for response in given if not objective.is_correct(response)]
        num_cut = sum(response.finish_reason == "length" for response in given)
        rows.append(
            (str(step), _mean([*correct, *incorrect]), _mean(correct), _mean(incorrect), f"{num_cut:,}", f"{len(given):,}")
        )
    headers = ("step", "all", "correct", "incorrect", "cut at the limit", "responses")
    return "### Response lengths\n\nMean tokens of a response.\n\n" + markdown.table(headers, rows, num_left=0)


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
