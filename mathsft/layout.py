"""Every path inside a study's folder, for the driver and its workers alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class StudyLayout:
    """Where a study's things lie. Records hold paths relative to `root`, so that a study's folder can be moved."""

    root: Path

    @classmethod
    def all_in(cls, folder: Path) -> list[Self]:
        """Return the studies with results in a folder of studies, by name."""
        return [cls(database.parent) for database in sorted(folder.glob("*/study.db"))]

    def __truediv__(self, recorded: str) -> Path:
        """Return the path that a record names."""
        return self.root / recorded

    def recorded(self, path: Path) -> str:
        """Return how records name a path inside the folder."""
        return path.relative_to(self.root).as_posix()

    # ---- the study

    @property
    def database(self) -> Path:
        """Return the SQLite file; it has companions of the same name with a suffix while it is open."""
        return self.root / "study.db"

    @property
    def database_url(self) -> str:
        """Return the database as SQLAlchemy and Optuna address it."""
        return f"sqlite:///{self.database}"

    @property
    def lock(self) -> Path:
        """Return the file that the driver locks."""
        return self.root / "driver.lock"

    @property
    def logs(self) -> Path:
        """Return the folder of the logs, one a process."""
        return self.root / "logs"

    def log(self, process: str) -> Path:
        """Return the log of the driver or of a worker."""
        return self.logs / f"{process}.log"

    @property
    def artifacts(self) -> Path:
        """Return the folder of what optuna-dashboard shows beside a trial."""
        return self.root / "artifacts"

    @property
    def wandb(self) -> Path:
        """Return the folder of W&B's own files."""
        return self.root / "wandb"

    @property
    def report_page(self) -> Path:
        """Return the report as one HTML file."""
        return self.root / "report.html"

    @property
    def report_markdown(self) -> Path:
        """Return the report as Markdown."""
        return self.root / "report.md"

    def figure(self, name: str) -> Path:
        """Return a figure that the Markdown report shows."""
        return self.root / f"{name}.svg"

    # ---- its runs

    def run(self, run: str) -> Path:
        """Return the folder of a run."""
        return self.root / "runs" / run

    def metrics(self, run: str) -> Path:
        """Return the file to which the trainer appends a line for every step of the run."""
        return self.run(run) / "metrics.jsonl"

    def full_state(self, run: str) -> Path:
        """Return the file of the run's full training state."""
        return self.run(run) / "full-state.safetensors"

    def checkpoint(self, run: str, step: int) -> Path:
        """Return the folder of the weights that the run has after the step."""
        return self.run(run) / f"step-{step:06d}"

    def responses(self, run: str, step: int, pool: str) -> Path:
        """Return the file of the responses of one score; a pool's slice has a name without a colon."""
        return self.run(run) / "responses" / f"step-{step:06d}-{pool.replace(':', '-')}.jsonl"

    def scoring(self, run: str, step: int, pool: str) -> Path:
        """Return the file to which the evaluator appends a line for each finished response while it makes that score."""
        return self.responses(run, step, pool).with_suffix(".progress")

    def table(self, run: str, pool: str) -> Path:
        """Return the table of a trial's responses that optuna-dashboard opens."""
        return self.run(run) / f"responses-{pool}.csv"

    def engine_check(self, name: str) -> Path:
        """Return the folder of one of the weights that the engine is checked with."""
        return self.engine_checks / name

    @property
    def engine_checks(self) -> Path:
        """Return the folder of all these weights."""
        return self.root / "engine-check"

    # ---- what may lie there, for those who clean up

    def all_weights(self) -> list[Path]:
        """Return the folders of the weights of all runs."""
        return sorted(self.root.glob("runs/*/step-*"))

    def all_full_states(self) -> list[Path]:
        """Return the training states of all runs, those in the making too."""
        return sorted(self.root.glob("runs/*/full-state.*"))

    def half_written(self) -> list[Path]:
        """Return what a kill left half-written."""
        return sorted(self.root.glob("runs/**/*.partial"))

    def database_files(self) -> list[Path]:
        """Return the database and its companions."""
        return sorted(self.root.glob("study.db*"))
