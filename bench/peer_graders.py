"""Answer equality as well-known graders decide it, each called in its default way; runs in a process that may be killed.

Who is right is none of its business. No code of a peer is copied: a package that is absent raises ImportError.
"""

import logging
from collections.abc import Callable
from multiprocessing.connection import Connection

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

    return lambda answer, gold: is_equiv(normalize_final_answer(answer), normalize_final_answer(gold))


def hendrycks_math() -> Grader:
    from lm_eval.tasks.hendrycks_math.utils import process_results

    return lambda answer, gold: bool(process_results({"solution": _boxed(gold)}, [answer])["exact_match"])


PEERS: dict[str, Callable[[], Grader]] = {
    "math-verify": math_verify,
    "minerva_math": minerva_math,
    "hendrycks_math": hendrycks_math,
}


def serve(connection: Connection, peer: str) -> None:
    """Answer each (answer, gold) with an Outcome; the first message of all says why the peer cannot be had, or is None."""
    logging.disable()  # Peers log every answer that they cannot read.
    try:
        grader = PEERS[peer]()
    except (ImportError, AssertionError) as error:  # lm-eval asserts its version of ANTLR.
        connection.send(str(error))
        return
    connection.send(None)
    while True:
        answer, gold = connection.recv()
        try:
            outcome = grader(answer, gold)
        except Exception as error:  # Whatever a peer raises is its outcome.
            outcome = type(error).__name__
        connection.send(outcome)


def _boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"
