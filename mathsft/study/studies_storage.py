"""Shows optuna-dashboard the studies of several databases as one storage, which can only be read.

Each database numbers its studies and trials from 1 on. Here a study or trial has the number `place of the database * SPAN +
its own number`, also in the names of the attributes that contain a trial's number.
"""

import re
from collections.abc import Container, Sequence
from copy import copy
from io import UnsupportedOperation
from typing import Any, NoReturn

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

SPAN = 1_000_000
_NUMBERED = re.compile(r"^(dashboard|artifacts):(\d+):")
"""Names of a study's attributes that contain a trial's number."""


class StudiesStorage(BaseStorage):
    """The studies of several storages; with `names`, only those. Writing raises UnsupportedOperation."""

    def __init__(self, storages: Sequence[BaseStorage], names: Container[str] | None = None) -> None:
        self._storages, self._names = storages, names

    def get_all_studies(self) -> list[FrozenStudy]:
        return [
            self._shifted(study, "_study_id", place)
            for place, storage in enumerate(self._storages)
            for study in storage.get_all_studies()
            if self._names is None or study.study_name in self._names
        ]

    def get_study_id_from_name(self, study_name: str) -> int:
        for study in self.get_all_studies():
            if study.study_name == study_name:
                return int(study._study_id)
        raise KeyError(f"there is no study {study_name!r}")

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._of(study_id).get_study_name_from_id(study_id % SPAN)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._of(study_id).get_study_directions(study_id % SPAN)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._of(study_id).get_study_user_attrs(study_id % SPAN)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._renamed(self._of(study_id).get_study_system_attrs(study_id % SPAN), study_id // SPAN)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        trial: FrozenTrial = self._shifted(self._of(trial_id).get_trial(trial_id % SPAN), "_trial_id", trial_id // SPAN)
        return trial

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._of(study_id).get_all_trials(study_id % SPAN, deepcopy, states)
        return [self._shifted(trial, "_trial_id", study_id // SPAN) for trial in trials]

    def _of(self, number: int) -> BaseStorage:
        if not 0 <= number // SPAN < len(self._storages):
            raise KeyError(f"there is no study or trial {number}")
        return self._storages[number // SPAN]

    def _shifted(self, item: Any, name: str, place: int) -> Any:
        """Return a copy of a study or trial with its number in this storage."""
        shifted = copy(item)
        setattr(shifted, name, getattr(item, name) + place * SPAN)
        if isinstance(item, FrozenStudy):
            shifted.system_attrs = self._renamed(item.system_attrs, place)
        return shifted

    def _renamed(self, attributes: dict[str, Any], place: int) -> dict[str, Any]:
        return {
            _NUMBERED.sub(lambda match: f"{match[1]}:{int(match[2]) + place * SPAN}:", name): value
            for name, value in attributes.items()
        }

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedOperation("the records of a study can only be read here")

    create_new_study = delete_study = set_study_user_attr = set_study_system_attr = _refuse
    create_new_trial = set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse
