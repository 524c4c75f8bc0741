import pytest

from mathsft.errors import UserError
from mathsft.evaluation.engine import ends_process


@pytest.mark.parametrize(("error", "expected"), [(MemoryError("no room"), SystemExit), (UserError("yours"), UserError)])
def test_an_engine_that_breaks_ends_its_process_saying_why(error: Exception, expected: type[BaseException]) -> None:
    @ends_process()
    def start(num_bytes: int) -> None:
        raise error

    with pytest.raises(expected, match=r"the engine broke: MemoryError: no room|yours"):
        start(num_bytes=1)
