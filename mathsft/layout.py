"""Defines every path inside a study's folder, for the driver and its workers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

ENGINE_CHECK = "engine-check"
"""Name of the folder, and of the run, of the checkpoints with which the engine is checked."""


class _Inside:
    """A path inside a study's folder that is the same in every study."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, layout: "StudyLayout", owner: type) -> Path:
        return layout.root / self._name


@dataclass(frozen=True)
class StudyLayout:
    """The paths of one study. Records contain paths relative to `root`, so that a study's folder can be moved."""

    root: Path

    @classmethod
    def all_in(cls, folder: Path) -> list[Self]:
        """Return the layouts of the studies in a folder that have a database, sorted by name."""
        return [cls(database.parent) for database in sorted(folder.glob("*/study.db"))]

    def __truediv__(self, recorded: str) -> Path:
        """Return the path for a recorded relative path."""
        return self.root / recorded

    def recorded(self, path: Path) -> str:
        """Return the relative path by which records name a path inside the folder."""
        return path.relative_to(self.root).as_posix()

    # ---- the study

    database = _Inside("study.db")
    """The SQLite file. While it is open, SQLite keeps files with the same name and a suffix beside it."""

    @property
    def database_url(self) -> str:
        """Return the URL of the database for SQLAlchemy and Optuna."""
        return f"sqlite:///{self.database}"

    lock = _Inside("driver.lock")
    """The file that the driver locks."""
    logs = _Inside("logs")
    """The folder of the log files, one per process."""

    def log(self, process: str) -> Path:
        """Return the log file of the driver or of a worker."""
        return self.logs / f"{process}.log"

    def shared_file(self, nonce: str) -> Path:
        """Return the file by which the nodes of a cluster prove that they see this driver's folder."""
        return self.root / f"shared-folder-{nonce}"

    artifacts = _Inside("artifacts")
    """The folder of the artifacts that optuna-dashboard shows for trials."""
    wandb = _Inside("wandb")
    """The folder of W&B's own files."""
    report_page = _Inside("report.html")
    """The file of the HTML report."""
    report_markdown = _Inside("report.md")
    """The file of the Markdown report."""

    def figure(self, name: str) -> Path:
        """Return the file of a figure in the Markdown report."""
        return self.root / f"{name}.svg"

    # ---- its runs and the engine check

    def run(self, run: str) -> Path:
        """Return the folder of a run."""
        return self.root / "runs" / run

    def metrics(self, run: str) -> Path:
        """Return the file to which the trainer appends a line for every optimizer step of the run."""
        return self.run(run) / "metrics.jsonl"

    def full_state(self, run: str) -> Path:
        """Return the file of the run's full training state."""
        return self.run(run) / "full-state.safetensors"

    def checkpoint(self, run: str, step: int) -> Path:
        """Return the folder of the run's checkpoint after an optimizer step."""
        return self.run(run) / f"step-{step:06d}"

    def publication(self, run: str, step: int) -> Path:
        """Return the file in which the trainer tells the driver that a checkpoint is published; it exists for a moment."""
        return self.run(run) / f"published-{step:06d}.json"

    def responses(self, run: str, step: int, pool: str) -> Path:
        """Return the file of one score's responses. The colon in the name of a pool's slice becomes a hyphen."""
        return self.run(run) / "responses" / f"step-{step:06d}-{pool.replace(':', '-')}.jsonl"

    def scoring(self, run: str, step: int, pool: str) -> Path:
        """Return the file to which the evaluator appends its progress while it computes a score."""
        return self.responses(run, step, pool).with_suffix(".progress")

    def table(self, run: str, pool: str) -> Path:
        """Return the CSV file of a trial's responses, which optuna-dashboard shows as a table."""
        return self.run(run) / f"responses-{pool}.csv"

    base_weights = _Inside("base-weights")
    """The folder of the base model's published weights, to which the study's adapters belong."""

    exports = _Inside("exports")
    """The folder of exported weights."""

    def export(self, run: str) -> Path:
        """Return the folder to which a run's weights are exported if the user names none."""
        return self.exports / run

    engine_checks = _Inside(ENGINE_CHECK)
    """The folder of the checkpoints with which the engine is checked."""

    # ---- existing files, for cleaning up

    def all_weights(self) -> list[Path]:
        """Return the folders of all checkpoints."""
        return sorted(self.root.glob("runs/*/step-*"))

    def all_full_states(self) -> list[Path]:
        """Return the training states of all runs, including partly written ones."""
        return sorted(self.root.glob("runs/*/full-state.*"))

    def half_written(self) -> list[Path]:
        """Return partly written files and folders, which a killed process left behind."""
        return sorted(path for pattern in ("runs/**/*", ".*", "exports/.*") for path in self.root.glob(f"{pattern}.partial"))

    def database_files(self) -> list[Path]:
        """Return the database file and the files that SQLite keeps beside it."""
        return sorted(self.root.glob("study.db*"))
