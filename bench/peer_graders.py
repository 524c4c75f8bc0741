"""Compares answers with a well-known grader: `python -m bench.peer_graders NAME` reads and writes lines of JSON.

Each grader is called in its default way, and no code of it is copied. This process may be killed and may run in another
environment than mathsft's, so it imports nothing of mathsft.
"""

import json
import logging
import sys
from collections.abc import Callable

Outcome = bool | str
"""Whether an answer is right, or the reason why there is no verdict."""

Grader = Callable[[str, str], Outcome]
"""A function of an answer and the gold answer."""


def math_verify() -> Grader:
    from math_verify import parse, verify

    def grade(answer: str, gold: str) -> Outcome:
        in_order = parse(_boxed(gold)), parse(_boxed(answer))
        verdicts = {verify(*in_order), verify(*reversed(in_order))}
        return verdicts.pop() if len(verdicts) == 1 else "depends on the order"

    return grade


def minerva_math() -> Grader:
    from lm_eval.tasks.minerva_math.utils import is_equiv, normalize_final_answer

    return lambda answer, gold: bool(is_equiv(normalize_final_answer(answer), normalize_final_answer(gold)))


def hendrycks_math() -> Grader:
    from lm_eval.tasks.hendrycks_math.utils import process_results

    return lambda answer, gold: bool(process_results({"solution": _boxed(gold)}, [answer])["exact_match"])


PEERS: dict[str, Callable[[], Grader]] = {
    "math-verify": math_verify,
    "minerva_math": minerva_math,
    "hendrycks_math": hendrycks_math,
}


def main(peer: str) -> None:
    """Write an Outcome for each line [answer, gold]. The first line is null, or the reason why the peer is not available."""
    logging.disable()  # Peers log every answer that they cannot parse.
    replies, sys.stdout = sys.stdout, sys.stderr
    obstacle = None
    try:
        grader = PEERS[peer]()
    except (ImportError, AssertionError) as error:  # lm-eval asserts a version of ANTLR.
        obstacle = str(error)
    print(json.dumps(obstacle), file=replies, flush=True)
    for line in [] if obstacle else sys.stdin:
        try:
            outcome = grader(*json.loads(line))
        except Exception as error:  # A peer's error is its outcome.
            outcome = type(error).__name__
        print(json.dumps(outcome), file=replies, flush=True)


def _boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


if __name__ == "__main__":
    main(sys.argv[1])
