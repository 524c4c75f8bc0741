"""What the checks of mathsft doctor found: one line each, or one JSON object. Needs no package besides Python's own."""

import json
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, TypeVar

from mathsft.errors import OK, USER_ERROR

logger = logging.getLogger(__name__)

Value = TypeVar("Value")
State: TypeAlias = Literal["ok", "change", "skipped"]

WORDS: dict[State, str] = {"ok": "OK", "change": "CHANGE", "skipped": "-"}


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was found, what must be changed, or why the check was skipped."""

    check: str
    state: State
    text: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.check:<10}  {WORDS[self.state]:<6}  {self.text}"


class Findings:
    """Makes checks, one after the other, and shows each result as soon as it is there, unless is_shown is false."""

    def __init__(self, show: Callable[[str], object], *, is_shown: bool) -> None:
        self._show, self._is_shown, self._all = show, is_shown, list[Finding]()
        self.applicable: Collection[str] | None = None
        """The names of the checks to make; None for all."""

    def check(self, name: str, make: Callable[[], str] | None, after: str = "") -> bool:
        """Make a check that returns what it found, like `get`; return whether nothing must be changed."""
        return self.get(name, None if make is None else lambda: (make(), True), after) is not None

    def get(self, name: str, make: Callable[[], tuple[str, Value]] | None, after: str = "") -> Value | None:
        """Make a check that returns what it found, and a value for other checks; return the value, or None.

        An exception is a finding, too: its text says what must be changed. `make` is None if the check `after` did not give
        what this check needs.
        """
        if self.applicable is not None and name not in self.applicable:
            return None
        if make is None:
            self._add(Finding(name, "skipped", f"not checked: needs {after}", 0.0))
            return None
        started = time.perf_counter()
        try:
            text, value = make()
        except Exception as error:  # whatever is broken here, a bug report needs it and the other checks
            logger.exception("check %s", name)
            self._add(Finding(name, "change", one_line(error), time.perf_counter() - started))
            return None
        self._add(Finding(name, "ok", text, time.perf_counter() - started))
        return value

    def refuse(self, name: str, text: str) -> None:
        """Add the result of a check made elsewhere: what must be changed."""
        self._add(Finding(name, "change", text, 0.0))

    @property
    def exit_code(self) -> int:
        """Return 0, or 2 if something must be changed."""
        return USER_ERROR if any(finding.state == "change" for finding in self._all) else OK

    def json(self) -> str:
        """Return all findings as one JSON object."""
        checks = [{**asdict(finding), "seconds": round(finding.seconds, 2)} for finding in self._all]
        return json.dumps({"ok": self.exit_code == OK, "checks": checks}, indent=2)

    def _add(self, finding: Finding) -> None:
        self._all.append(finding)
        if self._is_shown:
            self._show(str(finding))


def one_line(error: Exception) -> str:
    """Return an error's text in one line: of a longer text the first line and the last one, which ends a worker's log."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    return text if type(error).__module__.startswith("mathsft.") else f"{type(error).__name__}: {text}"
