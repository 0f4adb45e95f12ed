from typing import Any
from benchmarks.measure import Measured, CannotMeasureError
def against_c(settings: Any) -> Measured:
    raise CannotMeasureError("todo")
