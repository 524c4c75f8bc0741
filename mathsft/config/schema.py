"""Declares the experiment's settings: name, type, limits, default and description, which `mathsft config --schema` prints.

All are frozen. `study_schema` declares the study's settings. The top-level names of Experiment and StudyConfig are disjoint,
so that a dotted name ("training.learning_rate") names one setting.
"""

from typing import Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar: TypeAlias = bool | int | float | str
"""The types of the settings that can be searched or overridden by name."""

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
