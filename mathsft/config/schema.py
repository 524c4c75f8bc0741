"""Every setting: its name, type, limits, default and meaning. Frozen, checked when made, read from nowhere else.

An Experiment is what all runs of a study hold fixed; a StudyConfig is what is searched, how long and how. Their top-level
names are disjoint, so one dotted name ("training.learning_rate", "final.num_examples") names one setting.
"""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar: TypeAlias = bool | int | float | str
"""What a setting that is searched or overridden by name may hold."""


FormatRule: TypeAlias = Literal["lenient", "strict"]
"""Which format a response needs to count."""


class Settings(BaseModel):
    """A frozen section of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ModelSettings(Settings):
    path: str
    """The base model: a folder with config.json and safetensors, a hub id, "quickstart" (embedded), or "smollm2-135m" (from
    the extra of that name)."""


class PoolSizes(Settings):
    """How many problems each pool holds; a small data set shrinks them in proportion."""

    train: int | None = Field(None, ge=1)
    """Problems to train on; null takes all that the other pools leave."""
    search: int = Field(200, ge=1)
    """Problems that score every trial."""
    confirm: int = Field(875, ge=1)
    """Fresh problems that score the finalists."""
    validation: int = Field(1000, ge=1)
    """Problems that score the final run's checkpoints."""
    test: int = Field(1000, ge=1)
    """Problems that score the baseline and the final run; nothing is ever chosen on them."""


class DataSettings(Settings):
    source: str
    """Where problems come from: "quickstart" (generated), a JSONL file, or a hub data set id."""
    test_source: str | None = None
    """A data set's own test split (JSONL file or hub id); null takes the test pool out of `source`."""
    pools: PoolSizes = PoolSizes()
    unreadable: Literal["error", "drop"] = "error"
    """Rows that lack a problem, a solution or a gold answer that can be read: an error that names them, or left out and
    counted. A line that is no JSON is always an error."""
    contradictions: Literal["error", "drop"] = "error"
    """Problems that stand there with different gold answers: an error that shows them, or left out and counted. Spellings
    that differ in white space, case or notation are one problem."""


class PromptSettings(Settings):
    template: str = "r1_zero"
    """The prompt's template: a name in mathsft/data/assets/prompts, or a text file that holds {problem}."""


class TrainingSettings(Settings):
    learning_rate: float = Field(gt=0)
    """AdamW's peak learning rate."""
    batch_size: int = Field(ge=1)
    """Sequences per optimizer step."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the run's steps over which the learning rate rises linearly; it then falls linearly to zero."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay, on matrices only."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay rate of the first moment."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW's decay rate of the second moment."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to at most this L2 norm."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Weights and arithmetic of the forward and backward pass; the optimizer always holds fp32 weights. "auto" is
    decided once, when a study begins: bf16 where the hardware multiplies it natively, else fp32."""
    max_length_tokens: int = Field(1024, ge=2)
    """A longer example (prompt, response and EOS) is dropped and counted, never cut."""
    token_budget_tokens: int = Field(4096, ge=1)
    """Tokens computed at once, padding included; gradient accumulation follows from it and changes no update."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time, the same update."""


class EvaluationSettings(Settings):
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling's probability mass."""
    seed: int = Field(0, ge=0)
    """Seed of sampling; greedy decoding does not read it."""
    num_samples: int = Field(1, ge=1)
    """Responses to every problem; more than one needs a temperature above 0."""
    max_tokens: int = Field(1024, ge=1)
    """A response is cut at this many tokens and then counts as incomplete."""
    stop: tuple[str, ...] = ("</answer>",)
    """Strings that end a response; they stay part of it."""
    format_rule: FormatRule = "lenient"
    """Which format a response needs to count: strict allows a single space between </think> and <answer>, as the published
    figures do; lenient any white space. Both are stored."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the engine; auto is fp32 on a CPU (greedy output then does not depend on the batch), bf16 on CUDA."""
    memory_share: float = Field(0.85, gt=0, le=1)
    """Share of a CUDA device's memory that the engine may take when it has the device for itself."""
    load: Literal["swap", "new_engine"] = "swap"
    """How a checkpoint's weights reach the engine: swap replaces them in place; new_engine makes an engine for every
    checkpoint, which takes seconds, for models of which vLLM keeps old weights after a swap."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"num_samples = {self.num_samples} at temperature = 0 gives the same response again and again; "
                "set temperature above 0, or num_samples to 1"
            )
        return self


class Experiment(Settings):
    """What all runs hold fixed, except for what overrides change."""

    model: ModelSettings
    data: DataSettings
    prompt: PromptSettings = PromptSettings()
    training: TrainingSettings
    evaluation: EvaluationSettings = EvaluationSettings()


class FloatRange(Settings):
    type: Literal["float"]
    """What kind of range this is."""
    low: float
    """The least value to try."""
    high: float
    """The greatest value to try."""
    log: bool = False
    """Search the logarithm."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_range(self.low, self.high, self.log)
        return self

    def holds(self, value: Scalar) -> bool:
        """Tell whether a value lies in this range."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class IntRange(Settings):
    type: Literal["int"]
    """What kind of range this is."""
    low: int
    """The least value to try."""
    high: int
    """The greatest value to try."""
    log: bool = False
    """Search the logarithm."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_range(self.low, self.high, self.log)
        return self

    def holds(self, value: Scalar) -> bool:
        """Tell whether a value lies in this range."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class Choices(Settings):
    type: Literal["categorical"]
    """What kind of range this is."""
    choices: tuple[Scalar, ...] = Field(min_length=1)
    """The values to choose from."""

    def holds(self, value: Scalar) -> bool:
        """Tell whether a value is one of the choices."""
        return value in self.choices


SearchRange: TypeAlias = Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]


def _check_range(low: float, high: float, log: bool) -> None:
    if low >= high:
        raise ValueError(f"low must be below high, but {low} >= {high}")
    if log and low <= 0:
        raise ValueError(f"a range searched by its logarithm must be positive, but low = {low}")


class RunSettings(Settings):
    """How long a run is and where it is scored."""

    num_examples: int = Field(ge=1)
    """Examples trained on; the number of steps is this by the batch size."""
    eval_points: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=1)
    """Shares of the examples after which the run is scored, ascending, ending with 1."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.eval_points) != sorted(set(self.eval_points)) or self.eval_points[-1] != 1:
            raise ValueError(f"eval_points must ascend and end with 1, but are {list(self.eval_points)}")
        return self


class FinalSettings(RunSettings):
    """How long the final run is, where it is scored, whose weights stay, and when it may end before."""

    keep_every: int | None = Field(None, ge=1)
    """Beside the best and the last checkpoint, the weights of every so many eval points stay on disk, the baseline not
    counted: 2 keeps the second, the fourth, …. Null: only those two stay."""
    min_gain: float | None = Field(None, gt=0, lt=1)
    """Accuracy that the mean of the last three scores may still be above that of the three before; the run ends once, with
    95 % confidence, it is by less, or by less than a tenth of the accuracy. None: it goes to its end. 1,000 problems seldom
    tell gains under 0.02 from none."""
    ranks: int | None = Field(None, ge=1)
    """Processes that train the run together, each with a share of every batch and of the weights; it changes no update but
    by rounding. None: one for each CUDA device but the evaluator's; on a CPU, one."""


class Component(Settings):
    """One of Optuna's classes by name, with its arguments."""

    name: str
    """The class's name in Optuna."""
    arguments: dict[str, Scalar | None] = {}
    """Its arguments by name; what is not given keeps Optuna's default."""


class SelectionSettings(Settings):
    """How the winner is chosen, and the last trials for its sake."""

    num_proposed: int = Field(4, ge=0)
    """The last trials of the budget, which try where the surface smoothed through all trials before may be highest."""

    num_smoothed: int = Field(4, ge=0)
    """Finalists chosen by the surface smoothed through all trials' accuracies."""
    num_raw: int = Field(4, ge=1)
    """Finalists chosen, beside those, by their own accuracy on the search pool."""
    round_trials: tuple[Annotated[int, Field(ge=1)], ...] = (8, 4, 2)
    """Finalists in each round of the confirm stage, trial 0 not counted; without rounds the search pool alone decides."""
    round_problems: tuple[Annotated[int, Field(ge=1)], ...] = (125, 250, 500)
    """Fresh problems in each round; a confirm pool that holds fewer in all shrinks the rounds in proportion."""

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.round_trials) != len(self.round_problems):
            raise ValueError(
                f"each round needs its trials and its problems, but round_trials has {len(self.round_trials)} "
                f"and round_problems {len(self.round_problems)}"
            )
        return self


class HorizonSettings(Settings):
    """Further runs, after the promotion, that show how the best learning rate moves with a run's length."""

    num_examples: int | None = Field(None, ge=1)
    """Examples of the shorter half of these runs, the others being as long as a trial; null for no such runs."""
    num_rates: int = Field(5, ge=3)
    """Learning rates at each of the two lengths, the promoted one in their middle."""
    spacing: float = Field(2.0, gt=1)
    """The factor between neighbouring rates."""


class WandbSettings(Settings):
    mode: Literal["offline", "online", "disabled"] = "offline"
    """Offline runs lie in the study's folder and go up later with `wandb sync`."""
    project: str = "mathsft"
    """W&B's project."""


class LimitSettings(Settings):
    start_seconds: float = Field(1800, gt=0)
    """A worker that shows no progress for this long after it was asked, its start included, is ended and asked again."""
    hang_seconds: float = Field(600, gt=0)
    """The same for a worker that has shown progress: how long a step, a save or a response may take at most."""


class StudyConfig(Settings):
    """What is searched, how long, and how the winner is chosen."""

    experiment: str
    """The experiment whose settings are tuned: a name in experiments/ or a YAML file."""
    search: dict[str, SearchRange] = Field(min_length=1)
    """The settings to search, by dotted name."""
    trial: RunSettings
    """Every trial's length and eval points."""
    final: FinalSettings
    """The final run."""
    enqueue: tuple[dict[str, Scalar], ...] = ()
    """Settings to try first, after the experiment's own: a list of searched names with values inside their ranges."""
    num_trials: int = Field(20, ge=1)
    """Finished trials in all; running a study again with more goes on with it."""
    max_hours: float | None = Field(None, gt=0)
    """A command that has run this long proposes no new trial; null for no limit."""
    seed: int = Field(0, ge=0)
    """Seeds the sampler and every run's data order."""
    sampler: Component = Component(name="TPESampler")
    """A class of optuna.samplers; its seed follows from the study's."""
    pruner: Component = Component(name="NopPruner")
    """A class of optuna.pruners; it sees a trial's accuracy at each eval point."""
    horizon: HorizonSettings = HorizonSettings()
    limits: LimitSettings = LimitSettings()
    selection: SelectionSettings = SelectionSettings()
    wandb: WandbSettings = WandbSettings()

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
            raise ValueError("horizon.num_examples needs training.learning_rate in search, as a float")
        return self

    @model_validator(mode="after")
    def _enqueued_settings_are_searched(self) -> Self:
        for settings in self.enqueue:
            for name, value in settings.items():
                if name not in self.search:
                    raise ValueError(f"enqueue: {name} is not searched; search has {', '.join(self.search)}")
                if not self.search[name].holds(value):
                    raise ValueError(f"enqueue: {name} = {value} lies outside of its range in search")
        return self
