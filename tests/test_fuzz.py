"""Two thousand damaged and odd inputs to everything that reads: each is read or refused in one sentence."""

from __future__ import annotations

import logging
import os

import pytest
from run import fuzz


@pytest.mark.parametrize(("inputs", "seed"), [(2000, 0)])
def test_whatever_is_read_is_read_or_refused_in_one_sentence(tmp_path, inputs, seed):
    before = os.getcwd()
    try:
        rows = fuzz(inputs, seed, tmp_path)
    finally:
        os.chdir(before)
        logging.disable(logging.NOTSET)
    assert sum(row["inputs"] for row in rows) == pytest.approx(inputs, rel=0.02) and len(rows) >= 17
    faults = [f"{row['reader']}: {why[-1500:]}" for row in rows for why in row["told"]]
    assert not faults, "\n\n".join(faults)
    read = sum(row["read"] for row in rows if row["reader"] != "per-user files")
    assert read > inputs / 20  # the changes are not so coarse that nothing is ever read
