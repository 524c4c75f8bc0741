"""The pruner of this project, for study files that name it: it stops a trial whose predicted end is too low."""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mathsft.config.study_schema import SearchRange
from mathsft.statistics.curves import EarlyScore, predict_end
from mathsft.statistics.surface import embed
from mathsft.study.parameters import settings_of


class PredictedEndPruner(BasePruner):
    """Stops a trial if the chance that it ends among the best `top` share of the finished trials is below `chance`.

    The end is predicted by `statistics.curves.predict_end`, as a normal distribution, from the trial's last accuracy and its
    settings. No trial is stopped before `n_startup_trials` trials have finished. Accuracies are maximised.
    """

    def __init__(
        self, space: Mapping[str, SearchRange], top: float = 0.25, chance: float = 0.1, n_startup_trials: int = 5
    ) -> None:
        if not 0 < top < 1 or not 0 < chance < 1:
            raise ValueError(f"top {top} and chance {chance}: both are between 0 and 1")
        if n_startup_trials < 1:
            raise ValueError(f"n_startup_trials {n_startup_trials}: at least 1")
        self._space, self._top, self._chance, self._num_startup = space, top, chance, n_startup_trials

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        others = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        finished = [other for other in others if step in other.intermediate_values]
        if step is None or len(finished) < self._num_startup:
            return False
        early, *scores = (self._score(one, step) for one in (trial, *finished))
        ends = [one.value for one in finished if one.value is not None]
        predicted = predict_end(early, list(zip(scores, ends, strict=True)))
        if predicted is None:
            return False
        mean, variance = predicted
        goal = float(np.quantile(ends, 1 - self._top))
        return NormalDist(mean, math.sqrt(variance)).cdf(goal) > 1 - self._chance

    def _score(self, trial: FrozenTrial, step: int) -> EarlyScore:
        (position,) = embed(self._space, [settings_of(self._space, trial.params)]).tolist()
        return EarlyScore(trial.intermediate_values[step], tuple(position))
