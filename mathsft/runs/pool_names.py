"""The names of the pools of problems on which runs are scored."""

SEARCH_POOL = "search"
CONFIRM_POOL = "confirm"
VALIDATION_POOL = "validation"
TEST_POOL = "test"
"""Nothing is chosen by the scores on this pool."""
