"""The dashboard's server: several studies as one, only for reading, only for this machine, ended by Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import UnsupportedOperation
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna_dashboard import save_note

from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.records import Ask
from mathsft.store.database import Database
from mathsft.store.study_store import StudyStore
from mathsft.study.dashboard_server import DashboardServer, Shown, dashboard_server
from mathsft.study.search import optuna_storage
from mathsft.study.studies_storage import SPAN, StudiesStorage
from tests.postgresql import Server

ROOT = Path(__file__).parents[2]


def fill(study: optuna.Study, accuracies: list[float]) -> None:
    for accuracy in accuracies:
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        save_note(trial, f"note {study.study_name} {trial.number}")
        trial.set_user_attr("state", "finished")
        study.tell(trial, accuracy)
    save_note(study, f"note of {study.study_name}")


def test_studies_of_several_storages_keep_their_trials_and_notes_apart() -> None:
    storages = [InMemoryStorage(), InMemoryStorage()]
    for storage, name in zip(storages, ("one", "two"), strict=True):
        fill(optuna.create_study(study_name=name, storage=storage, direction="maximize"), [0.1, 0.3, 0.2])
    both = StudiesStorage(storages)
    assert [study.study_name for study in both.get_all_studies()] == ["one", "two"]
    for place, name in enumerate(("one", "two")):
        study = optuna.load_study(study_name=name, storage=both)
        assert [trial.value for trial in study.trials] == [0.1, 0.3, 0.2] and study.best_trial.number == 1
        assert {trial._trial_id // SPAN for trial in study.trials} == {place}
        assert [both.get_trial(trial._trial_id).value for trial in study.trials] == [0.1, 0.3, 0.2]
        attributes = both.get_study_system_attrs(study._study_id)
        for trial in study.trials:
            assert attributes[f"dashboard:{trial._trial_id}:note_str:0"] == f"note {name} {trial.number}"
        assert attributes["dashboard:note_str:0"] == f"note of {name}"
        with pytest.raises(UnsupportedOperation, match="can only be read"):
            study.set_user_attr("a", 1)
    assert [study.study_name for study in StudiesStorage(storages, ["two"]).get_all_studies()] == ["two"]
    with pytest.raises(KeyError):
        both.get_trial(2 * SPAN)


def make_study(folder: Path, name: str) -> Shown:
    """Make a study with two trials and a report in studies/ of a folder."""
    layout = StudyLayout(folder / "studies" / name)
    layout.artifacts.mkdir(parents=True)
    database = Database.of(layout, None)
    with closing(StudyStore.open(database, name)) as store:
        store.write(Ask(0, ()))
    fill(optuna.create_study(study_name=name, storage=optuna_storage(database), direction="maximize"), [0.1, 0.3])
    layout.report_page.write_text(f"<html>report of {name}</html>", encoding="utf-8")
    return Shown(layout, database)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Shown]:
    """Two studies in folders of their own, beside one without trials."""
    folder = tmp_path_factory.mktemp("work")
    without_trials = StudyLayout(folder / "studies" / "none")
    without_trials.root.mkdir(parents=True)
    StudyStore.open(Database.of(without_trials, None), "none").close()
    return [make_study(folder, name) for name in ("one", "two")]


@contextmanager
def answering(server: DashboardServer) -> Iterator[DashboardServer]:
    """Answer requests while the body runs."""
    with server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def address(studies: list[Shown]) -> Iterator[str]:
    with answering(dashboard_server(studies, 0)) as server:
        yield server.address


def get(address: str, **headers: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
        return answer.read().decode(), answer.url


def test_all_studies_are_on_one_page_and_links_lead_to_trials_and_reports(address: str) -> None:
    listed = {
        study["study_name"]: study["study_id"] for study in json.loads(get(f"{address}api/studies")[0])["study_summaries"]
    }
    assert set(listed) == {"one", "two"}
    detail = json.loads(get(f"{address}api/studies/{listed['two']}")[0])
    assert [trial["note"]["body"] for trial in detail["trials"]] == ["note two 0", "note two 1"]
    assert get(f"{address}studies/two/trials/1")[1].endswith(f"dashboard/studies/{listed['two']}/trials?numbers=1")
    assert get(f"{address}studies/two/report")[0] == "<html>report of two</html>"
    for wrong in ("studies/three", "studies/two/../one/study.db", "studies/two/trials/x", "studies/two/driver.lock"):
        with pytest.raises(HTTPError, match="404"):
            get(f"{address}{wrong}")


def test_names_with_any_characters_have_addresses(tmp_path: Path) -> None:
    with answering(dashboard_server([make_study(tmp_path, "größe 50%25?")], 0)) as server:
        page = server.address_of("größe 50%25?")
        assert get(f"{page}/report")[0] == "<html>report of größe 50%25?</html>"
        assert get(f"{page}/trials/1")[1].endswith("/trials?numbers=1")


def test_nothing_can_be_changed_and_no_other_machine_is_answered(address: str) -> None:
    for method, path in (("DELETE", "api/studies/1"), ("PUT", "api/studies/1/note"), ("POST", "api/studies")):
        with pytest.raises(HTTPError, match="405"):
            urllib.request.urlopen(urllib.request.Request(f"{address}{path}", b"{}", method=method), timeout=60)
    with pytest.raises(HTTPError, match="403"):
        get(address, Host="rebound.example.com")
    assert "artifact_is_available" in get(f"{address}api/meta", Host="localhost:8080")[0]


def test_a_taken_port_is_one_line(address: str, studies: list[Shown]) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=f"--port {port}: Address already in use; choose another port"):
        dashboard_server(studies, port)


@pytest.mark.slow
def test_studies_on_a_database_server_are_shown(server: Server, tmp_path: Path) -> None:
    url, shown = server.new_database(), []
    for name in ("one", "two", "three"):
        storage = optuna_storage(Database(url))
        fill(optuna.create_study(study_name=name, storage=storage, direction="maximize"), [0.1, 0.3])
        shown.append(Shown(StudyLayout(tmp_path / name), Database(url)))
    with answering(dashboard_server(shown[:2], 0)) as serving:
        summaries = json.loads(get(f"{serving.address}api/studies")[0])["study_summaries"]
        details = [json.loads(get(f"{serving.address}api/studies/{summary['study_id']}")[0]) for summary in summaries]
    assert [detail["note"]["body"] for detail in details] == ["note of one", "note of two"]


@pytest.mark.slow
def test_the_command_opens_all_studies_until_ctrl_c(studies: list[Shown], tmp_path: Path) -> None:
    folder, opened = studies[0].layout.root.parents[1], tmp_path / "opened"
    command = [sys.executable, "-u", "-m", "mathsft", "dashboard", "--open"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": f"sh -c 'echo $0 > {opened}' %s"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        address = first.rpartition(" ")[2].strip()
        assert "one, two" in first and address.startswith("http://127.0.0.1:") and "Ctrl-C" in second
        assert get(f"{address}api/meta")  # it answers once the browser was opened
        assert opened.read_text().strip() == address
        assert len(json.loads(get(f"{address}api/studies")[0])["study_summaries"]) == 2
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "Stopped\n")
