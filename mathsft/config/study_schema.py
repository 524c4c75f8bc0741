"""Declares the study's settings: what is searched, for how long, and how the winner is chosen.

As in `schema`, all are frozen, and `mathsft config --schema` prints them.
"""

from typing import Annotated, Generic, Literal, Self, TypeAlias, TypeVar

from pydantic import Field, model_validator

from mathsft.config.schema import Scalar, Settings

_Number = TypeVar("_Number", int, float)


class _NumberRange(Settings, Generic[_Number]):
    """The fields and checks that FloatRange and IntRange share."""

    type: str
    """The kind of range. float and int have low and high; categorical has choices."""
    low: _Number
    """The lowest value to try."""
    high: _Number
    """The highest value to try."""
    log: bool = False
    """Search on a logarithmic scale, as is usual for learning rates."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, but {self.low} >= {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 where log is true, but is {self.low}")
        return self

    def holds(self, value: Scalar) -> bool:
        """Return whether a value lies in this range."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class FloatRange(_NumberRange[float]):
    type: Literal["float"]


class IntRange(_NumberRange[int]):
    type: Literal["int"]


class Choices(Settings):
    type: Literal["categorical"]
    """The kind of range. float and int have low and high; categorical has choices."""
    choices: tuple[Scalar, ...] = Field(min_length=1)
    """The values to try."""

    def holds(self, value: Scalar) -> bool:
        """Return whether a value is one of the choices."""
        return value in self.choices


SearchRange: TypeAlias = Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]


class RunSettings(Settings):
    """The length of a run and its eval points."""

    num_examples: int = Field(ge=1)
    """Examples that the run trains on. It takes num_examples / batch_size optimizer steps, rounded down (at least 1)."""
    eval_points: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=1)
    """Shares of the run's examples after which a checkpoint is scored, in ascending order; the last one is 1."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.eval_points) != sorted(set(self.eval_points)) or self.eval_points[-1] != 1:
            raise ValueError(f"eval_points must ascend and end with 1, but are {list(self.eval_points)}")
        return self


class FinalSettings(RunSettings):
    """The final run: its length, eval points, kept checkpoints, early stopping and processes."""

    keep_every: int | None = Field(None, ge=1)
    """Keep the weights of every n-th eval point on disk: 2 keeps the second, the fourth and so on, not counting the
    baseline. The best and the last checkpoint are always kept. null: only these two are kept."""
    min_gain: float | None = Field(None, gt=0, lt=1)
    """Early stopping. The run ends when the mean accuracy of its last three checkpoints exceeds that of the three before by
    less than min_gain (0.02 is 2 points), with 95 % confidence. Below 10 * min_gain accuracy, the limit is a tenth of the
    accuracy. null: no early stopping. With 1,000 validation problems, a value below 0.02 seldom ends a run."""
    ranks: int | None = Field(None, ge=1)
    """Number of processes that train the run together; each holds a share of the weights and of every batch. It changes
    updates by rounding only. null: one per CUDA device, except for the evaluators' devices; one on a CPU."""


class Component(Settings):
    """A class of Optuna with its arguments."""

    name: str
    """The name of the class in Optuna."""
    arguments: dict[str, Scalar | None] = Field({})
    """The arguments of the class by name. Arguments that are not given keep Optuna's defaults."""


class SelectionSettings(Settings):
    """The choice of the winner: the shortlist and the rounds of the confirm stage."""

    num_proposed: int = Field(4, ge=0)
    """Number of last trials of the budget whose settings are not sampled: each tries the settings where a surface, smoothed
    through the accuracies of all trials before it, may be highest. 0: the sampler proposes all trials."""
    num_smoothed: int = Field(4, ge=0)
    """Number of trials that reach the shortlist by smoothed accuracy: the value of this surface at their settings."""
    num_raw: int = Field(4, ge=1)
    """Number of further trials that reach the shortlist by their measured accuracy on the search pool."""
    round_trials: tuple[Annotated[int, Field(ge=1)], ...] = (8, 4, 2)
    """Number of trials in each round of the confirm stage. Trial 0 is in every round and not counted. []: no confirm stage;
    the search pool alone decides."""
    round_problems: tuple[Annotated[int, Field(ge=1)], ...] = (125, 250, 500)
    """Number of further problems that each round's trials solve. A confirm pool with fewer problems than their sum shrinks
    all rounds in proportion."""

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.round_trials) != len(self.round_problems):
            raise ValueError(
                "round_trials and round_problems need one entry for each round, but round_trials has "
                f"{len(self.round_trials)} and round_problems {len(self.round_problems)}"
            )
        return self


class HorizonSettings(Settings):
    """Additional runs after the promotion that measure how the best learning rate depends on a run's length."""

    num_examples: int | None = Field(None, ge=1)
    """Examples of each of the shorter runs; the longer ones have trial.num_examples. Set it (a quarter of
    trial.num_examples, say) if the final run is much longer than a trial. null: no such runs."""
    num_rates: int = Field(5, ge=3)
    """Number of learning rates at each of the two lengths, with the promoted one in the middle."""
    spacing: float = Field(2.0, gt=1)
    """Ratio of neighbouring learning rates."""


class WandbSettings(Settings):
    mode: Literal["offline", "online", "disabled"] = "offline"
    """Logging to W&B. offline: runs are stored in the study's folder; `wandb sync` uploads them. online: runs are uploaded
    while they train. disabled: no logging."""
    project: str = "mathsft"
    """The name of the W&B project."""


class LimitSettings(Settings):
    start_seconds: float = Field(1800, gt=0)
    """Longest time in seconds from a request to a worker until its first progress, its start included. A worker that takes
    longer is restarted. Raise it if loading or compiling a large model takes longer."""
    hang_seconds: float = Field(600, gt=0)
    """Longest time in seconds without progress after the first. A worker that takes longer is restarted. Raise it if a
    single step, save or response takes longer."""


class StudyConfig(Settings):
    """The searched settings, the budget of the search, and how the winner is chosen."""

    experiment: str
    """The experiment whose settings are tuned: a name in experiments/ or a YAML file."""
    search: dict[str, SearchRange] = Field(min_length=1)
    """The settings to search, by dotted name."""
    trial: RunSettings
    """The length and the eval points of every trial."""
    final: FinalSettings
    """The final run."""
    enqueue: tuple[dict[str, Scalar], ...] = ()
    """Settings of the first trials after trial 0, which has the experiment's own: a list of mappings from searched settings
    to values inside their ranges. Use it for settings that you expect to be good."""
    num_trials: int = Field(20, ge=1)
    """Total number of trials that end with a result. Running the study again with a larger number continues it."""
    max_hours: float | None = Field(None, gt=0)
    """Hours after which a command starts no new trial; trials that are running are completed. null: no limit."""
    seed: int = Field(0, ge=0)
    """Seed from which the seeds of the sampler and of every run's data order are derived."""
    sampler: Component = Component(name="TPESampler")
    """A class of optuna.samplers. Its seed is derived from the study's seed."""
    pruner: Component = Component(name="NopPruner")
    """A class of optuna.pruners, or PredictedEndPruner (arguments top, chance and n_startup_trials), which stops a trial if
    the chance that it ends among the best `top` share of the finished trials is below `chance`. The pruner receives the
    accuracy of a trial at each eval point; NopPruner never stops a trial."""
    horizon: HorizonSettings = HorizonSettings()
    evaluators: int | None = Field(None, ge=1)
    """Number of evaluators, in the study and in the final run; it changes no score. null: CUDA devices, or the cores of a
    large CPU, are split so that training and scoring take equally long, by the study's own trials or an estimate."""
    limits: LimitSettings = LimitSettings()
    selection: SelectionSettings = SelectionSettings()
    wandb: WandbSettings = WandbSettings()
    storage: str | None = None
    """URL of a PostgreSQL database for the records, as postgresql+psycopg://USER@HOST:5432/DATABASE, without a password.
    Several studies can share it. null: the URL in the environment variable MATHSFT_STORAGE; without one, an SQLite file in
    the study's folder."""

    @model_validator(mode="after")
    def _horizon_has_two_lengths_and_a_rate(self) -> Self:
        if self.horizon.num_examples is None:
            return self
        if self.horizon.num_examples >= self.trial.num_examples:
            raise ValueError(
                f"horizon.num_examples = {self.horizon.num_examples} must be below trial.num_examples = "
                f"{self.trial.num_examples}: two lengths are compared"
            )
        if not isinstance(self.search.get("training.learning_rate"), FloatRange):
            raise ValueError("horizon.num_examples needs training.learning_rate in search, with type: float")
        return self

    @model_validator(mode="after")
    def _enqueued_settings_are_searched(self) -> Self:
        for settings in self.enqueue:
            for name, value in settings.items():
                if name not in self.search:
                    raise ValueError(f"enqueue: {name} is not searched; search has {', '.join(self.search)}")
                if not self.search[name].holds(value):
                    raise ValueError(f"enqueue: {name} = {value} is outside its range in search")
        return self
