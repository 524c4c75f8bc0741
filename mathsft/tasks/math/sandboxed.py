"""The script that `sandbox` runs as a process: compares pairs of answers with math-verify until its socket is closed.

It imports nothing from mathsft. A request is a JSON list [answer, gold]; the reply is true, false, or null if the pair took
too much memory. If a pair takes too much processor time, the kernel ends the process.
"""

import ctypes
import functools
import json
import logging
import math
import os
import re
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

MAX_MESSAGE_BYTES = 2**17
"""Longer messages do not fit into a Unix socket's buffer at Linux's default size."""

_DECIMAL = re.compile(r"([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)\.([0-9]+)")
_PROBE_DIGITS = 15
_PROBE_TOLERANCE = 1e-6


def main() -> None:
    """Answer requests on the socket that is this process's standard input."""
    parent_pid, cpu_seconds, memory_bytes = map(int, sys.argv[1:])
    _die_with(parent_pid)
    _limit(resource.RLIMIT_CORE, 0)
    # Growth beyond memory_bytes is detected after the pair; an allocation beyond twice that fails at once.
    _limit(resource.RLIMIT_AS, 2 * memory_bytes)
    import math_verify  # noqa: F401  while stderr still works, so that a failed import is shown

    # The parsers below print messages about text that they cannot read.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    logging.disable()
    channel = socket.socket(fileno=sys.stdin.fileno())
    while message := channel.recv(MAX_MESSAGE_BYTES):
        answer, gold = json.loads(message)
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + cpu_seconds)
        is_equal = math_verify_equal(answer, gold)
        channel.send(json.dumps(is_equal if _peak_bytes() < memory_bytes else None).encode())


def math_verify_equal(answer: str, gold: str) -> bool:
    """Return whether math-verify can show that two LaTeX expressions are equal; False if it cannot read one of them."""
    from math_verify import verify

    first, second = _parse(gold), _parse(answer)
    if first is None or second is None or _differ_at_a_point(first, second):
        return False
    # math-verify's own time limits are off: they use signals, which do not interrupt a long multiplication.
    is_equal = functools.partial(verify, strict=True, timeout_seconds=0)
    # math-verify reads an inequality as an interval only on one of the two sides.
    return bool(is_equal(first, second) or (type(first) is not type(second) and is_equal(second, first)))


@functools.lru_cache(maxsize=1024)
def _parse(text: str) -> Any:
    """Return the sympy object of the LaTeX text, or None if it cannot be read."""
    from math_verify import LatexExtractionConfig, parse
    from sympy import Expr, I

    # math-verify rounds to six places when it compares with a decimal, so decimals become fractions.
    exact = _DECIMAL.sub(_as_fraction, text)
    found = parse(rf"\boxed{{{exact}}}", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=0)
    value = found[0] if found else None
    # math-verify reads i as a variable.
    return value.subs({name: I for name in value.free_symbols if name.name == "i"}) if isinstance(value, Expr) else value


def _as_fraction(decimal: re.Match[str]) -> str:
    digits = (decimal[1].replace(",", "") + decimal[2]).lstrip("0")
    return rf"{{\frac{{{digits or '0'}}}{{1{'0' * len(decimal[2])}}}}}"


def _differ_at_a_point(first: Any, second: Any) -> bool:
    """Return whether two formulas differ at a test point; a search for a proof of equality takes ten times as long."""
    from sympy import Expr, Rational, Symbol

    if not all(isinstance(value, Expr) and not isinstance(value, Symbol) for value in (first, second)):
        return False
    names = first.free_symbols
    if names != second.free_symbols:
        return False
    point = {name: Rational(7 + 2 * index, 5) for index, name in enumerate(sorted(names, key=str))}
    try:
        difference = (first - second).subs(point).evalf(_PROBE_DIGITS)
        return bool(difference.is_comparable and abs(difference) > _PROBE_TOLERANCE)
    except Exception:  # sympy's functions raise many kinds of exceptions where they are undefined
        return False


def _die_with(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent ends for any reason."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent ended before the request above
        os._exit(1)


def _limit(kind: int, amount: int) -> None:
    """Set a soft limit, but no higher than the hard limit of this process."""
    _, hard_limit = resource.getrlimit(kind)
    resource.setrlimit(kind, (amount if hard_limit == resource.RLIM_INFINITY else min(amount, hard_limit), hard_limit))


def _peak_bytes() -> int:
    """Return the peak of this process's address space; getrusage would include the parent's memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPeak"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
