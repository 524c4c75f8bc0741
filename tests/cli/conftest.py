import pytest

from mathsft.commands import predict
from mathsft.costs import Speeds
from tests.build import SPEEDS


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a dry run the seconds of its measurement."""

    async def known(*arguments: object) -> Speeds:
        return SPEEDS

    monkeypatch.setattr(predict, "measured_speeds", known)
