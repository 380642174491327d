"""Training windows: each history is cut so that every interaction but a user's first is a target exactly once.

Plain numpy; nothing here knows RecBole or torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from recbole_scale.data.histories import gather_padded, ragged_ranges

TARGET_LIST = "target_list"  # name of a batch's targets: what each position must predict, 0 where no loss is counted
TARGET_PLACES = "target_places"  # and where the others stand in it, rows one after the other: the device need not look


@dataclass(frozen=True)
class Windows:
    """Windows over a flat item array: inputs ``start .. start + length - 1``, each predicting the next position.

    Attributes:
        start: flat position of each window's first input, int64 [W].
        length: inputs of each window, int64 [W].
        context: leading inputs whose targets are not counted (another window counts them), int64 [W].
    """

    start: np.ndarray
    length: np.ndarray
    context: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    @property
    def n_targets(self) -> int:
        """Counted targets in all windows."""
        return int((self.length - self.context).sum())


def cut_windows(
    start: np.ndarray, count: np.ndarray, max_length: int, stride: int, rng: np.random.Generator | None
) -> Windows:
    """Cut each history (``count`` items from flat position ``start``, [U]) into windows of ``max_length`` inputs.

    Without overlap (``stride == max_length``) windows lie edge to edge; a smaller stride lets each window look back
    further, so that targets at its start see more context, and every target is still counted once. A history that fits
    one window is one window: cut in two, its first part would only be computed again as the second's context.

    Args:
        start: flat position of each history's first item, [U].
        count: items of each history, [U]; histories of fewer than two items give no window.
        max_length: most inputs of a window.
        stride: most counted targets of a window, 1..max_length.
        rng: draws each longer history's phase (where its first cut falls); None cuts at the full stride.
    """
    transitions = count - 1
    keep = transitions > 0
    start, transitions = start[keep], transitions[keep]
    phase = np.full(len(start), stride) if rng is None else rng.integers(1, stride + 1, len(start))
    first = np.where(transitions <= max_length, transitions, phase)  # counted targets of the first window
    n_windows = 1 + -(-(transitions - first) // stride)  # [U], ceiling division
    owner = np.repeat(np.arange(len(start)), n_windows)
    rank = ragged_ranges(np.zeros(len(start), dtype=np.int64), n_windows)  # 0, 1, 2, ... within each history
    end = np.minimum(first[owner] + rank * stride, transitions[owner])  # targets before this are counted
    begin = np.maximum(first[owner] + (rank - 1) * stride, 0) * (rank > 0)
    look_back = np.maximum(end - max_length, 0)  # first input of the window
    return Windows(start[owner] + look_back, end - look_back, begin - look_back)


def fixed_widths(max_length: int) -> np.ndarray:
    """Up to eight widths of batches, ascending, the last ``max_length``, the others multiples of 8; int64."""
    step = 8 * -(-max_length // 64)
    return np.array([*range(step, max_length, step), max_length])


def widths_of(lengths: np.ndarray, widths: np.ndarray | None) -> np.ndarray:
    """Width that each of ``lengths`` [W] is padded to: itself, or the next of ``widths``."""
    return lengths if widths is None else widths[np.searchsorted(widths, lengths)]


def batch_windows(
    windows: Windows, token_budget: int, rng: np.random.Generator | None, widths: np.ndarray | None = None
) -> list[np.ndarray]:
    """Group windows of nearly equal length, so that padding stays small, and shuffle the groups.

    Args:
        windows: what to batch.
        token_budget: most positions (windows x width) of a batch; a single longer window is a batch.
        rng: shuffles windows of equal length and the order of batches; None keeps both.
        widths: those that batches may have (:func:`fixed_widths`); None: the longest window's.

    Returns:
        window indices of each batch; every window is in exactly one.
    """
    order = np.arange(len(windows)) if rng is None else np.argsort(rng.permutation(len(windows)))
    falling = -windows.length[order]
    kind = np.int16 if falling.min(initial=0) >= np.iinfo(np.int16).min else np.int64  # numpy counts short ones
    order = order[np.argsort(falling.astype(kind), kind="stable")]
    lengths = widths_of(windows.length[order], widths)
    batches, at = [], 0
    while at < len(order):
        take = max(1, token_budget // int(lengths[at]))
        batches.append(order[at : at + take])
        at += take
    if rng is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches


def gather_windows(
    items: np.ndarray, windows: Windows, index: np.ndarray, shape: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a batch of windows, padded to ``shape`` (B, T) where one is given.

    Returns:
        inputs int64 [B, T] (0 is padding) and targets int64 [B, T] (0 where no loss is counted).
    """
    start, length, context = windows.start[index], windows.length[index], windows.context[index]
    rows, width = shape or (len(index), int(length.max()))
    start, length, context = (np.pad(part, (0, rows - len(index))) for part in (start, length, context))
    inputs = gather_padded(items, start, length, width)
    targets = gather_padded(items, start + 1, length, width)
    targets[np.arange(width) < context[:, None]] = 0
    return inputs, targets


def deal(counts: np.ndarray, rank: int, world: int) -> np.ndarray:
    """Rows of process ``rank`` of ``world``, ascending, of rows with ``counts`` targets, [B]: each its share of both.

    Sorted by targets, rows are dealt from the first process to the last and back again, as teams are picked: numbers of
    rows differ by one at most, and targets by no more than the largest row's do from the smallest's.
    """
    order = np.argsort(-counts, kind="stable")
    turn = np.arange(-(-len(counts) // world))
    place = turn * world + np.where(turn % 2, world - 1 - rank, rank)
    return np.sort(order[place[place < len(counts)]])


def padding_share(windows: Windows, shapes: Iterable[tuple[int, int]]) -> float:
    """Share of a pass over batches of ``shapes`` (B, T) that is padding, 0..1."""
    used = int(windows.length.sum())
    spent = sum(rows * width for rows, width in shapes)
    return 1 - used / spent if spent else 0.0
