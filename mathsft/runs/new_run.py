"""Makes runs: the one place where overrides meet the experiment."""

from collections.abc import Mapping

from mathsft.config.load import apply_overrides
from mathsft.config.schema import Experiment, Scalar
from mathsft.records import Plan, Run, RunKind


def new_run(
    kind: RunKind,
    name: str,
    *,
    experiment: Experiment,
    overrides: Mapping[str, Scalar],
    plan: Plan,
    seed: int,
    number: int | None = None,
) -> Run:
    """Return a run that has yet to begin; raises UserError where an override is unknown or has a bad value."""
    return Run(
        name=name,
        kind=kind,
        overrides=dict(overrides),
        experiment=apply_overrides(experiment, overrides),
        plan=plan,
        seed=seed,
        number=number,
    )
