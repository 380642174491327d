"""One text column as small integer codes over a table of texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Coded:
    """One text column: ``codes`` [rows] int32 into ``texts`` [distinct], a pyarrow string array."""

    codes: np.ndarray
    texts: pa.Array

    def take(self, rows: np.ndarray) -> Coded:
        """Return the column at ``rows`` (indices or a mask); ``texts`` is shared."""
        return replace(self, codes=self.codes[rows])

    def used(self) -> int:
        """Return how many distinct texts occur in the rows."""
        return int(np.count_nonzero(np.bincount(self.codes, minlength=len(self.texts))))
