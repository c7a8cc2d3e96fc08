"""The array types that function signatures name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
#: Floats of any width, such as logits.
RealArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]
#: Integers of any width, such as expert ids in the width that their number needs.
IdArray = NDArray[np.integer[Any]]
