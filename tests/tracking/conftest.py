"""A reader of W&B's offline files: LevelDB logs of protobuf records."""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

BLOCK_BYTES, HEADER_BYTES, FILE_HEADER_BYTES = 32768, 7, 7


@dataclass
class OfflineRun:
    """What one .wandb file holds."""

    id: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def read_offline_runs() -> Callable[[Path], list[OfflineRun]]:
    return _offline_runs


def _offline_runs(folder: Path) -> list[OfflineRun]:
    """Return what the offline files below folder hold, in the order they were begun."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [_offline_run(path) for path in files]


def _offline_run(path: Path) -> OfflineRun:
    run = OfflineRun()
    for payload in _payloads(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        match record.WhichOneof("record_type"):
            case "run":
                given = record.run
                run.id, run.group, run.job_type, run.name = given.run_id, given.run_group, given.job_type, given.display_name
                run.config |= _values(given.config.update)
            case "config":
                run.config |= _values(record.config.update)
            case "summary":
                run.summary |= _values(record.summary.update)
            case "history":
                run.rows.append(_values(record.history.item))
            case "metric":
                run.step_metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def _values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def _payloads(log: bytes) -> Iterator[bytes]:
    assert log.startswith(b":W&B")
    full, first, _, last = 1, 2, 3, 4
    position, parts = FILE_HEADER_BYTES, b""
    while position + HEADER_BYTES <= len(log):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < HEADER_BYTES:
            position += left
            continue
        _, num_bytes, kind = struct.unpack("<IHB", log[position : position + HEADER_BYTES])
        position += HEADER_BYTES
        part = log[position : position + num_bytes]
        position += num_bytes
        if kind == 0:
            return
        parts = part if kind in (full, first) else parts + part
        if kind in (full, last):
            yield parts
