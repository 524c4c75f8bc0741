"""Declares every setting: its name, type, limits, default and description, which `mathsft config --schema` prints.

An Experiment holds the settings that all runs of a study share; a StudyConfig holds what is searched, for how long and how.
Their top-level names are disjoint, so that a dotted name ("training.learning_rate") names one setting. All are frozen.
"""

from typing import Annotated, Generic, Literal, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar: TypeAlias = bool | int | float | str
"""The types of the settings that can be searched or overridden by name."""

_Number = TypeVar("_Number", int, float)

TaskName: TypeAlias = Literal["math", "exact_match"]
"""The tasks; Experiment.task defines them."""

FormatRule: TypeAlias = Literal["lenient", "strict"]
"""The format rules by which responses are counted; EvaluationSettings.format_rule defines them."""


class Settings(BaseModel):
    """A frozen section of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ModelSettings(Settings):
    path: str
    """The base model: a folder with config.json, a tokenizer and safetensors weights; a hub id (org/name); "quickstart",
    which is embedded; or "smollm2-135m", which needs the extra of that name."""


class PoolSizes(Settings):
    """The number of problems in each pool. On a small data set the pools other than train shrink in proportion."""

    train: int | None = Field(None, ge=1)
    """Number of problems to train on. null: all problems that the other pools leave; 8,192 for the quickstart."""
    search: int = Field(200, ge=1)
    """Number of problems on which every trial is scored. More problems make scores more precise and scoring slower."""
    confirm: int = Field(875, ge=1)
    """Number of further problems on which the best trials are compared before one is promoted."""
    validation: int = Field(1000, ge=1)
    """Number of problems on which the final run's checkpoints are scored and its best checkpoint is chosen."""
    test: int = Field(1000, ge=1)
    """Number of problems on which the baseline and the final run are reported. Nothing is chosen on them."""


class ColumnSettings(Settings):
    """The columns of a data set with names of its own. null: the names that are known (README, "Data")."""

    problem: str | None = None
    """The column with the problem's text."""
    solution: str | None = None
    """The column with the solution, or with a list of solutions, each of which becomes a training row."""
    answer: str | None = None
    """The column with the gold answer."""


class DataSettings(Settings):
    source: str
    """The problems: a file (JSONL, JSON array, Parquet; JSON also with gzip), a folder or pattern (data/train-*.parquet) of
    such files, a hub data set (org/name[/config][:split][@revision]), or "quickstart", which generates them."""
    test_source: str | None = None
    """The data set's own test split, given as data.source is. Set it where published results use that split.
    null: the test pool is taken out of data.source."""
    columns: ColumnSettings = ColumnSettings()
    pools: PoolSizes = PoolSizes()
    unreadable: Literal["error", "drop"] = "error"
    """What happens to rows without a readable problem, solution or gold answer. error: the command stops and names them.
    drop: they are left out and counted. A line that is not JSON is always an error."""
    contradictions: Literal["error", "drop"] = "error"
    """What happens to problems that occur with different gold answers. error: the command stops and shows them. drop: they
    are left out and counted. Texts that differ only in white space, case or notation are one problem."""


class PromptSettings(Settings):
    """How a problem is put to the model, and how a response gives its answer."""

    template: str = "r1_zero"
    """How the prompt is written. "r1_zero", "short" and "boxed": texts that are shipped. A text file that contains
    {problem}: a text of your own. "chat": a user's message in the chat template of the model's tokenizer."""
    answer: Literal["tags", "boxed"] = "tags"
    """How a response gives its answer. tags: `… </think> <answer> 42 </answer>`, as r1_zero and short ask; generation stops
    there. boxed: the last `\\boxed{42}`, as the text boxed asks."""
    message: str | None = Field(None, min_length=1)
    """The user's message in a chat: a text that contains {problem}. null: the problem, and a sentence that asks for the
    format of prompt.answer."""
    system: str | None = Field(None, min_length=1)
    """The system prompt of a chat. null: none but what the chat template writes by itself."""
    chat_arguments: dict[str, Scalar] = {}
    """Arguments of the chat template, such as enable_thinking: false."""

    @model_validator(mode="after")
    def _chat_has_a_chat_template(self) -> Self:
        if self.message is not None and self.message.count("{problem}") != 1:
            raise ValueError(f"message contains {{problem}} {self.message.count('{problem}')} times; write it exactly once")
        given = {"message": self.message, "system": self.system, "chat_arguments": self.chat_arguments}
        unused = [name for name, value in given.items() if value]
        if unused and self.template != "chat":
            raise ValueError(f"{', '.join(unused)}: used in a chat only; set template to chat, or remove it")
        if (self.template == "boxed" and self.answer == "tags") or (
            self.template in ("r1_zero", "short") and self.answer == "boxed"
        ):
            raise ValueError(
                f"template {self.template} asks for another format than answer = {self.answer}; set answer to "
                f"{'boxed' if self.answer == 'tags' else 'tags'}, or choose another template"
            )
        return self


class LoraSettings(Settings):
    """The adapter that training.method = lora trains, as peft defines it; without effect with training.method = full."""

    rank: int = Field(16, ge=1, le=512)
    """Rank of the two matrices A and B whose product is added to a weight."""
    alpha: int = Field(32, ge=1)
    """Scale of the product: it is multiplied by alpha / rank, or with rslora by alpha / sqrt(rank)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapted layer's inputs that A does not see, drawn anew for every micro-batch from the run's seed."""
    targets: str = "all-linear"
    """The layers that get an adapter. all-linear: all linear layers except the head. Otherwise their names, separated by
    commas: "q_proj,v_proj"."""
    rslora: bool = False
    """Rank-stabilised LoRA (arXiv:2312.03732): the scale is alpha / sqrt(rank)."""
    dora: bool = False
    """DoRA (arXiv:2402.09353): the length of each row of an adapted weight trains, too. It takes more time and memory."""


class TrainingSettings(Settings):
    method: Literal["full", "lora"] = "full"
    """Which weights train. full: all. lora: a small adapter beside the linear layers, while the model's own weights stay as
    they are; its best learning rates are about ten times as high."""
    lora: LoraSettings = LoraSettings()
    learning_rate: float = Field(gt=0)
    """AdamW's peak learning rate."""
    batch_size: int = Field(ge=1)
    """Sequences per optimizer step."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the run's optimizer steps in which the learning rate rises linearly."""
    schedule: Literal["linear", "cosine", "wsd"] = "linear"
    """The learning rate after the warmup. linear, cosine: it falls to zero along a line or half a cosine wave. wsd (warmup,
    stable, decay): it stays, and falls linearly to zero in the last steps."""
    decay_fraction: float = Field(0.2, gt=0, le=1)
    """With schedule: wsd, the share of the run's optimizer steps in which the learning rate falls."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay. It applies to matrices (embeddings included), not to biases and norms."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay rate of the first moment."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW's decay rate of the second moment."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradient clipping: a gradient whose L2 norm exceeds this value is scaled down to it."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the forward and backward pass. The optimizer always keeps fp32 weights. auto: bf16 where the
    hardware multiplies it natively, else fp32; decided once, when the study begins."""
    max_length_tokens: int = Field(1024, ge=2)
    """Longest example in tokens (prompt, response and EOS). Longer examples are dropped and counted, never truncated."""
    token_budget_tokens: int = Field(4096, ge=1)
    """Most tokens, padding included, in one micro-batch (one forward and backward pass); a larger batch is accumulated over
    several micro-batches; the updates stay the same. On CUDA devices a smaller one is used where this one would not fit."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, more time, the same updates. On CUDA
    devices it is turned on where a step would not fit without it even with a small token budget."""

    @model_validator(mode="after")
    def _decays_after_the_warmup(self) -> Self:
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                f"warmup_fraction = {self.warmup_fraction} and decay_fraction = {self.decay_fraction} make more than the "
                "whole run with schedule = wsd; lower one of them"
            )
        return self


class EvaluationSettings(Settings):
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature. 0: greedy decoding."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Probability mass of nucleus sampling. 1: no truncation."""
    seed: int = Field(0, ge=0)
    """Seed of sampling. Greedy decoding does not use it."""
    num_samples: int = Field(1, ge=1)
    """Responses per problem; more than one needs a temperature above 0. More problems are worth more than more samples."""
    max_tokens: int = Field(1024, ge=1)
    """Longest response in tokens. A longer response is truncated and counts as incomplete, not as correct."""
    format_rule: FormatRule = "lenient"
    """The format that a correct response in tags must have. lenient: any white space between </think> and <answer>. strict:
    exactly one space, as in published results; set it to compare with those. Both verdicts are stored."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the vLLM engine. auto: bf16 on CUDA; fp32 on a CPU, so that greedy output does not depend on the
    batch."""
    memory_share: float = Field(0.85, gt=0, le=1)
    """Share of a CUDA device's memory that the engine may use; less where it shares the device with the trainer.
    Lower it if other programs need memory there."""
    load: Literal["swap", "new_engine"] = "swap"
    """How the engine loads a checkpoint. swap: it replaces its weights in place. new_engine: every checkpoint gets a new
    engine, which takes seconds; set it if the engine check reports that vLLM keeps old weights after a swap."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"num_samples = {self.num_samples} at temperature = 0 gives the same response every time; "
                "set temperature above 0, or num_samples to 1"
            )
        return self


class Experiment(Settings):
    """The settings that all runs share, except for their overrides."""

    task: TaskName = "math"
    """What a row means, and which answers are right. math: rows as those of MATH or GSM8K, answers by value. exact_match:
    rows with a problem (or question) and an answer, perhaps a solution; answers are the same text."""
    model: ModelSettings
    data: DataSettings
    prompt: PromptSettings = PromptSettings()
    training: TrainingSettings
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _strict_rule_is_of_tags(self) -> Self:
        if self.evaluation.format_rule == "strict" and self.prompt.answer != "tags":
            raise ValueError(
                f"evaluation.format_rule = strict is a rule for tags, but prompt.answer = {self.prompt.answer}; "
                "set format_rule to lenient"
            )
        return self


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
    arguments: dict[str, Scalar | None] = {}
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
