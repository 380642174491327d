"""Checkpoint files: damage of any kind is found before anything is loaded; nothing is left of a writer that died."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import zipfile

import pytest
import torch

from recbole_scale.errors import UserError
from recbole_scale.training.checkpoint import copy_checkpoint, load_checkpoint, save_checkpoint

STATE = {"state_dict": {"w": torch.arange(6000.0).reshape(300, 20), "b": torch.arange(5)}, "config": {"seed": 1}}


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """A copy with one bit flipped, cut, with bytes taken out, or with bytes added."""
    copy, at = bytearray(whole), rng.randrange(len(whole))
    kind = rng.choices(("flip", "cut", "out", "added", "zeros"), (60, 20, 8, 6, 6))[0]
    if kind == "flip":
        copy[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del copy[at:]
    elif kind == "out":
        del copy[at : at + rng.randrange(1, 50)]
    elif kind == "added":
        copy[at:at] = rng.randbytes(rng.randrange(1, 50))
    else:
        copy[at : at + 512] = bytes(len(copy[at : at + 512]))
    return bytes(copy)


def test_of_a_thousand_damaged_checkpoints_none_is_believed(tmp_path):
    save_checkpoint(STATE, tmp_path / "whole.pth")
    whole, rng, path = (tmp_path / "whole.pth").read_bytes(), random.Random(0), tmp_path / "damaged.pth"
    for number in range(1000):
        content = damaged(whole, rng)
        if content == whole:
            continue
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged \(") as told:
            load_checkpoint(path)
        assert len(str(told.value)) < 400 and "\n" not in str(told.value), number


def test_a_file_of_plain_torch_save_is_checked_by_its_own_sums(tmp_path):
    """RecBole's and older files have no seal; what is loaded of a damaged one is what was written, or nothing is."""
    torch.save(STATE, tmp_path / "plain.pth")
    assert torch.equal(load_checkpoint(tmp_path / "plain.pth")["state_dict"]["w"], STATE["state_dict"]["w"])
    whole, rng, path = (tmp_path / "plain.pth").read_bytes(), random.Random(1), tmp_path / "damaged.pth"
    refused = 0
    for _ in range(300):
        path.write_bytes(damaged(whole, rng))
        try:
            found = load_checkpoint(path)
        except UserError:
            refused += 1
            continue
        assert torch.equal(found["state_dict"]["w"], STATE["state_dict"]["w"]) and found["config"] == STATE["config"]
    assert refused > 270
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # has no checksum at all
    with pytest.raises(UserError, match=r"no file of torch\.save"):
        load_checkpoint(tmp_path / "old.pth")


def test_a_sealed_file_is_an_archive_that_torch_and_zipfile_read(tmp_path):
    save_checkpoint(STATE, tmp_path / "a.pth")
    for mmap in (False, True):
        assert torch.load(tmp_path / "a.pth", weights_only=True, mmap=mmap)["config"] == {"seed": 1}
    assert zipfile.ZipFile(tmp_path / "a.pth").testzip() is None
    copy_checkpoint(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"))
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    load_checkpoint(tmp_path / "b.pth")


DIES_WRITING = """
import os, sys, torch
from recbole_scale.training.checkpoint import save_checkpoint
save = torch.save
def half(state, file):
    save(state, file)
    file.flush()
    os.kill(os.getpid(), 9)
torch.save = half
save_checkpoint({"state_dict": {"w": torch.zeros(1000)}}, sys.argv[1])
"""


def test_a_dead_writers_temporary_file_is_removed_and_a_living_ones_is_not(tmp_path):
    path = tmp_path / "saved" / "a.last.pth"
    assert subprocess.run([sys.executable, "-c", DIES_WRITING, str(path)]).returncode == -9
    (left,) = os.listdir(tmp_path / "saved")
    assert left.endswith(".tmp")
    (tmp_path / "saved" / ".a.last.pth.notes.tmp").write_text("somebody else's")
    saving = torch.save
    try:

        def see(state, file):
            torch.save = saving
            save_checkpoint(STATE, path)  # a second writer, while the first is at work
            saving(state, file)

        torch.save = see
        save_checkpoint(STATE, path)
    finally:
        torch.save = saving
    assert sorted(os.listdir(tmp_path / "saved")) == [".a.last.pth.notes.tmp", "a.last.pth"]
    load_checkpoint(path)
