"""Brings a raw row to the layout that tasks read: the keys problem (or question), solution and answer.

Known layouts, besides those of MATH and GSM8K: conversations (`messages`, `conversations`), pairs of a request and a
response (instruction and output, prompt and completion, query and response, question and response), and columns that
the settings name. A row with a list of solutions becomes one row for each.
"""

from collections.abc import Sequence
from typing import Any

from mathsft.config.schema import ColumnSettings
from mathsft.errors import excerpt
from mathsft.tasks.task import Row, UnreadableRowError

SYSTEM_KEY = "system turn"
"""The key of a conversation's system turn in a row of the common layout; no task reads it."""

_CONVERSATIONS = ("messages", "conversations")
_REQUESTS = ("query", "instruction", "prompt")
_RESPONSES = ("response", "output", "completion")
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""Names of roles in chats, and in ShareGPT's layout."""
_ONE_EXCHANGE = ("user", "assistant")


def common_rows(row: Row, columns: ColumnSettings) -> list[Row]:
    """Return the row, or one for each of its solutions, in the common layout; raises UnreadableRowError.

    A row without a known layout is returned as it is: the task names what is missing.
    """
    renamed = _renamed(row, columns)
    if "solution" not in renamed:
        renamed = _with_response(renamed)
    for key in ("solution", "answer"):
        if isinstance(solutions := renamed.get(key), list):
            if not solutions:
                raise UnreadableRowError(f"{key} is an empty list; give at least one solution, or remove the row")
            return [{**renamed, key: solution} for solution in solutions]
    return [renamed]


def _renamed(row: Row, columns: ColumnSettings) -> dict[str, Any]:
    """Return the row with the named columns under the keys of the common layout."""
    renamed = dict(row)
    for part, column in columns.model_dump(exclude_none=True).items():
        if column in row:
            renamed[part] = row[column]
        elif part != "solution":  # a row of a test split needs none
            raise UnreadableRowError(
                f"the row has no column {column!r}, which data.columns.{part} names; its columns are {excerpt(sorted(row))}"
            )
    return renamed


def _with_response(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with a request and a response in the common layout; other rows as they are.

    The response is the solution if the row has the gold answer apart, else an answer that contains both, as in GSM8K.
    """
    request, response, system = _exchange(row)
    if request is None or response is None:
        return row
    common = {key: value for key, value in row.items() if key not in ("problem", "question")}
    common |= {"problem": request, "solution" if "answer" in row else "answer": response}
    return common | {SYSTEM_KEY: system} if system else common


def _exchange(row: Row) -> tuple[Any, Any, str]:
    """Return a row's request, response and system turn: None, None and "" where there is none."""
    if key := next((key for key in _CONVERSATIONS if row.get(key)), None):
        return _turns(key, row[key])
    request_key = next((key for key in ("problem", "question", *_REQUESTS) if key in row), None)
    response_key = next((key for key in _RESPONSES if key in row), None)
    if request_key is None or response_key is None:
        return None, None, ""
    request, response = row[request_key], row[response_key]
    if _is_conversation(request) and _is_conversation(response):  # a prompt and a completion of a chat
        return _turns(f"{request_key} and {response_key}", [*request, *response])
    given = row.get("input")
    if request_key == "instruction" and isinstance(request, str) and isinstance(given, str) and given.strip():
        request = f"{request.strip()}\n\n{given.strip()}"
    return request, response, ""


def _is_conversation(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(turn, dict) for turn in value)


def _turns(key: str, turns: object) -> tuple[str, str, str]:
    """Return the user's, the assistant's and the system's text; raises UnreadableRowError for other conversations."""
    if not isinstance(turns, list):
        raise UnreadableRowError(f"{key} is {excerpt(turns)}; write a list of turns with role and content")
    pairs = [_turn(key, turn) for turn in turns]
    system = pairs.pop(0)[1] if pairs and pairs[0][0] == "system" else ""
    roles = tuple(role for role, _ in pairs)
    if roles != _ONE_EXCHANGE:
        raise UnreadableRowError(
            f"{key} has the turns {_listed(roles)}; one user and one assistant turn are read, after at most one system "
            "turn; split the conversation into rows, or remove the row"
        )
    return pairs[0][1], pairs[1][1], system


def _turn(key: str, turn: object) -> tuple[str, str]:
    """Return the role and the text of a turn."""
    if not isinstance(turn, dict):
        raise UnreadableRowError(f"{key} has the turn {excerpt(turn)}; write an object with role and content")
    role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(text, str):
        raise UnreadableRowError(f"{key} has a turn with the content {excerpt(text)}; write a text")
    return _ROLES.get(str(role), str(role)), text


def _listed(roles: Sequence[str]) -> str:
    most = 6
    return (", ".join(roles[:most]) + (", …" if len(roles) > most else "")) or "none"
