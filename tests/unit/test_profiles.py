"""What a variable may be, and what is said of one that may not."""

from __future__ import annotations

from typing import Any

import pytest

from daedalus_etl.errors import UsageError
from daedalus_etl.profiles import check_variable


def test_edges_of_bands_are_whole_where_they_can_be() -> None:
    bands = check_variable("bands_bps", [[0.0, 5.0], [5, 7.5]], "here")
    assert repr(bands) == "((0, 5), (5, 7.5))"


@pytest.mark.parametrize(
    ("bands", "reason"),
    [
        ([[5, 5]], "lo < hi"),
        ([[0, 0.00001]], "between 0 and 0.0001"),  # 1e-05 in a name
        ([[0, 5], [5, 10], [0, 5.0]], "a band twice"),  # two columns of one name
        ([0, 5], "not a list of"),
    ],
)
def test_bands_that_would_be_no_columns_are_refused(bands: list[Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_variable("bands_bps", bands, "here")
