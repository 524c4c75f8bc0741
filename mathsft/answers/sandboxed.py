"""The inside of a process of `sandbox`: lets math-verify judge pairs of answers, one at a time, until its channel is closed.

A script that imports nothing of mathsft. It is sent JSON and answers JSON: true, false, or null where the pair took too much
memory; where a pair takes too much time, the process just ends.
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
"""Longer messages do not go through a Unix socket with Linux's default buffers."""

_DECIMAL = re.compile(r"([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)\.([0-9]+)")
_PROBE_DIGITS = 15
_PROBE_TOLERANCE = 1e-6


def main() -> None:
    """Serve the socket that is this process's standard input."""
    parent_pid, cpu_seconds, memory_bytes = map(int, sys.argv[1:])
    _die_with(parent_pid)
    _limit(resource.RLIMIT_CORE, 0)
    # What grows step by step is noticed at memory_bytes; what asks for more at once is refused.
    _limit(resource.RLIMIT_AS, 2 * memory_bytes)
    import math_verify  # noqa: F401  if that fails, stderr should say so

    # The parsers below print what they make of hostile text.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    logging.disable()
    channel = socket.socket(fileno=sys.stdin.fileno())
    while message := channel.recv(MAX_MESSAGE_BYTES):
        answer, gold = json.loads(message)
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + cpu_seconds)
        is_equal = agree(answer, gold)
        channel.send(json.dumps(is_equal if _peak_bytes() < memory_bytes else None).encode())


def agree(answer: str, gold: str) -> bool:
    """Tell whether math-verify can show that two LaTeX expressions are equal; what it cannot read is not."""
    from math_verify import verify

    first, second = _parse(gold), _parse(answer)
    if first is None or second is None or _plainly_differ(first, second):
        return False
    # Its own time limits are off: they are signals, which do not interrupt a long multiplication.
    is_equal = functools.partial(verify, strict=True, timeout_seconds=0)
    # It reads an inequality as an interval only on one side.
    return bool(is_equal(first, second) or (type(first) is not type(second) and is_equal(second, first)))


@functools.lru_cache(maxsize=1024)
def _parse(text: str) -> Any:
    """Return the sympy object that the LaTeX stands for, or None."""
    from math_verify import LatexExtractionConfig, parse

    # math-verify would round what it compares with a decimal to six places.
    exact = _DECIMAL.sub(_as_fraction, text)
    found = parse(rf"\boxed{{{exact}}}", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=0)
    return _with_imaginary_unit(found[0]) if found else None


def _with_imaginary_unit(value: Any) -> Any:
    """Return the value with its i as the imaginary unit, which math-verify takes for a name."""
    from sympy import Expr, I

    return value.subs({name: I for name in value.free_symbols if name.name == "i"}) if isinstance(value, Expr) else value


def _as_fraction(decimal: re.Match[str]) -> str:
    digits = (decimal[1].replace(",", "") + decimal[2]).lstrip("0")
    return rf"{{\frac{{{digits or '0'}}}{{1{'0' * len(decimal[2])}}}}}"


def _plainly_differ(first: Any, second: Any) -> bool:
    """Tell whether two formulas have different values at one point; to find no proof of equality takes ten times as long."""
    from sympy import Expr, Rational, Symbol

    if not all(isinstance(one, Expr) and not isinstance(one, Symbol) for one in (first, second)):
        return False
    names = first.free_symbols
    if names != second.free_symbols:
        return False
    point = {name: Rational(7 + 2 * index, 5) for index, name in enumerate(sorted(names, key=str))}
    try:
        difference = (first - second).subs(point).evalf(_PROBE_DIGITS)
        return bool(difference.is_comparable and abs(difference) > _PROBE_TOLERANCE)
    except Exception:  # sympy's functions raise what they like where they are not defined
        return False


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, however that happens."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the kernel knew
        os._exit(1)


def _limit(kind: int, amount: int) -> None:
    """Set a soft limit, not above the hard one that this process was started with."""
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (amount if most == resource.RLIM_INFINITY else min(amount, most), most))


def _peak_bytes() -> int:
    """Return the largest address space that this process ever had; getrusage would begin with its parent's memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPeak"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
