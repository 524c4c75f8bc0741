"""Answer equality as a well-known grader decides it: `python -m bench.peer_graders NAME`, lines of JSON in and out.

Each is called in its default way; no code of a peer is copied. It runs in a process that may be killed, and maybe in another
environment than ours, so it imports nothing of mathsft. Who is right is none of its business.
"""

import json
import logging
import sys
from collections.abc import Callable

Outcome = bool | str
"""Whether an answer was called right, or why there is no verdict."""

Grader = Callable[[str, str], Outcome]
"""Compares an answer and the gold answer, in this order."""


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
    """Answer each [answer, gold] with an Outcome; the first line of all says why the peer cannot be had, or is null."""
    logging.disable()  # Peers log every answer that they cannot read.
    replies, sys.stdout = sys.stdout, sys.stderr
    obstacle = None
    try:
        grader = PEERS[peer]()
    except (ImportError, AssertionError) as error:  # lm-eval asserts its version of ANTLR.
        obstacle = str(error)
    print(json.dumps(obstacle), file=replies, flush=True)
    for line in [] if obstacle else sys.stdin:
        try:
            outcome = grader(*json.loads(line))
        except Exception as error:  # Whatever a peer raises is its outcome.
            outcome = type(error).__name__
        print(json.dumps(outcome), file=replies, flush=True)


def _boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


if __name__ == "__main__":
    main(sys.argv[1])
