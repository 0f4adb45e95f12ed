"""What a kernel is to the runner. A kernel of your own subclasses `Kernel` and names its class KERNEL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np


class Kernel(ABC):
    """Walks a lane in order and carries state from batch to batch and from hour to hour.

    The runner makes one per lane with the lane's variables, loads the state that was kept, calls `start_partition`
    before each partition, `advance` for each ordered batch, `finish` after the last, and keeps what `save` returns.
    """

    version = 1  # rises when a field of the saved state changes its meaning
    columns: tuple[str, ...] = ()  # names of the columns it adds, float64, NaN for NULL

    def __init__(self, variables: dict[str, Any]):
        self.variables = variables

    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Columns of the model's ordered input that it needs; the others pass by."""

    def reads_beside(self) -> dict[str, tuple[str, ...]]:
        """Columns of other relations of the lane, merged on the clock: relation name -> columns."""
        return {}

    def start_partition(self) -> None:  # noqa: B027  # a kernel may have nothing to do here
        """lane_order counts from 0 again."""

    @abstractmethod
    def advance(
        self, columns: dict[str, np.ndarray], beside: dict[str, dict[str, np.ndarray]]
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Walk n rows: float64[len(self.columns), n], and how many rows of each relation beside were taken."""

    def finish(self, beside: dict[str, dict[str, np.ndarray]]) -> None:  # noqa: B027  # a kernel may have nothing to do here
        """Take what is left beside at the end of a partition."""

    def warm(self) -> None:  # noqa: B027  # a kernel may have nothing to do here
        """Compile whatever is compiled, so that processes that start later find it on disk. Override it if you like."""

    @abstractmethod
    def save(self) -> dict[str, np.ndarray]:
        """The whole state as named arrays, in one canonical form."""

    @abstractmethod
    def load(self, kept: dict[str, np.ndarray]) -> None:
        """Take up what `save` gave."""
