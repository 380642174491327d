"""A seeded log with a known answer: order-2 structure, Zipf popularity, domains, and each predictor's exact NLL.

An item belongs to a cell (domain, topic). Domains follow a first-order chain (stay, or draw anew). Topics follow a
second-order chain: with probability ``second_order`` the next topic is a Latin square's entry at the last two topics,
with ``first_order`` a permutation of the last one, else a draw by popularity. Inside a cell, items are drawn by Zipf's
law. An item shows its cell, so the chains are observed and every entropy is a finite sum.
Random draws meet only +, *, /, sqrt and comparisons, which IEEE rounds alike everywhere: a seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recbole_scale.errors import UserError
from recbole_scale.files import whole_files
from recbole_scale.prepare.card import card_bytes
from recbole_scale.prepare.synthetic_options import SyntheticSettings, parser
from recbole_scale.prepare.writing import AtomicWriter, target_in

CHUNK_INTERACTIONS = 2_000_000
MOST_TOPICS = 128  # the second-order kernel has topics cubed entries
START = 1_577_836_800  # 2020-01-01 UTC, in seconds
SPREAD = 3 * 365 * 86_400  # users begin within three years
MEAN_GAP, LONGEST_GAP = 3_600, 30 * 86_400  # seconds between a user's interactions (heavy-tailed, cut)
LONGEST_SHARE = 20.0  # the longest history, in units of the shortest above the minimum


class SyntheticProcess:
    """The generator of one data set. Raises UserError for settings that contradict each other."""

    def __init__(self, settings: SyntheticSettings) -> None:
        _check(settings)
        self.settings = settings
        rng = np.random.default_rng([settings.seed, 0])
        self.topics = settings.topics or min(MOST_TOPICS, max(1, int(np.sqrt(settings.items / settings.domains))))
        cells = settings.domains * self.topics
        if settings.items < cells:
            raise UserError(f"{settings.items} items cannot fill {settings.domains} domains x {self.topics} topics")
        # Latin square: rows, columns and symbols of a cyclic square, shuffled; one topic alone says nothing of the next
        rows, columns, symbols, self.successor = (rng.permutation(self.topics) for _ in range(4))
        self.square = symbols[(rows[:, None] + columns[None, :]) % self.topics]  # [before last, last] -> next topic
        self.topic_weights = _zipf(self.topics, settings.zipf)[rng.permutation(self.topics)]
        self.domain_weights = _zipf(settings.domains, settings.zipf)
        self.cell_sizes = np.full(cells, settings.items // cells)
        self.cell_sizes[: settings.items % cells] += 1
        self.cell_starts = np.concatenate([[0], np.cumsum(self.cell_sizes)])
        self.item_names = rng.permutation(settings.items) + 1  # a number does not tell its cell

    @cached_property
    def item_given_cell(self) -> np.ndarray:
        """P(item | its cell), [items] in order of cells."""
        return np.concatenate([_zipf(size, self.settings.zipf) for size in self.cell_sizes])

    @cached_property
    def topic_kernel(self) -> np.ndarray:
        """P(next topic | before last, last), [topics, topics, topics]."""
        one, two, topics = self.settings.first_order, self.settings.second_order, np.arange(self.topics)
        kernel = np.broadcast_to((1 - one - two) * self.topic_weights, (self.topics,) * 3).copy()
        kernel[topics[:, None], topics[None, :], self.square] += two
        kernel[:, topics, self.successor] += one
        return kernel

    @cached_property
    def topic_pairs(self) -> np.ndarray:
        """Stationary P(before last, last), [topics, topics]; power iteration to 1e-14."""
        pairs = np.full((self.topics, self.topics), 1.0 / self.topics**2)
        for _ in range(10_000):
            following = np.einsum("ij,ijk->jk", pairs, self.topic_kernel)
            if np.abs(following - pairs).max() < 1e-14:
                break
            pairs = following
        return following / following.sum()

    def known_nll(self) -> dict[str, float]:
        """Return the exact expected NLL, in nats an interaction, of the best predictor of each kind.

        ``best``: all history (the entropy rate; holds from a user's third interaction on). ``markov``: the last item
        alone. ``popularity``: no history. ``uniform``: log of the number of items. Source: chain rule on the cells.
        """
        pairs, topic = self.topic_pairs, self.topic_pairs.sum(axis=0)
        domain_rate = _entropy(self.domain_kernel, self.domain_weights)
        first_order = np.einsum("ij,ijk->jk", pairs, self.topic_kernel) / topic[:, None]
        inside = self._entropy_inside_cells(topic)
        return {
            "best": float(domain_rate + _entropy(self.topic_kernel, pairs) + inside),
            "markov": float(domain_rate + _entropy(first_order, topic) + inside),
            "popularity": float(_entropy(self.domain_weights) + _entropy(topic) + inside),
            "uniform": float(np.log(self.settings.items)),
        }

    @cached_property
    def domain_kernel(self) -> np.ndarray:
        """P(next domain | last), [domains, domains]."""
        stay = self.settings.stay
        return stay * np.eye(self.settings.domains) + (1 - stay) * self.domain_weights[None, :]

    def _entropy_inside_cells(self, topic: np.ndarray) -> float:
        share = self.item_given_cell
        by_cell = np.add.reduceat(-share * np.log(share), self.cell_starts[:-1])
        return float((np.outer(self.domain_weights, topic).ravel() * by_cell).sum())

    def cells_of(self, item_numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (domain, topic) of items by the numbers the file calls them."""
        cell_of = np.empty(self.settings.items + 1, dtype=np.int64)
        cell_of[self.item_names] = np.repeat(np.arange(len(self.cell_sizes)), self.cell_sizes)
        return np.divmod(cell_of[item_numbers], self.topics)

    def lengths(self) -> np.ndarray:
        """Return every user's history length, [users]; heavy-tailed, and summing to the interactions asked for."""
        settings = self.settings
        draws = np.random.default_rng([settings.seed, 1]).random(settings.users)
        weights = np.minimum(1.0 / np.sqrt(1.0 - draws), LONGEST_SHARE)
        ends = np.cumsum(weights)
        spare = settings.interactions - settings.min_length * settings.users
        # differences of rounded cumulative shares sum to the total exactly
        marks = np.floor(ends / ends[-1] * spare).astype(np.int64)
        marks[-1] = spare
        return settings.min_length + np.diff(marks, prepend=0)

    def chunks(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield user, item (numbers from 1), time (seconds) and domain (from 0), rows by user and time.

        A chunk has about two million interactions (more when one user does); memory does not grow with the total.
        """
        lengths = self.lengths()
        part = np.cumsum(lengths) // CHUNK_INTERACTIONS
        edges = np.concatenate([[0], np.flatnonzero(np.diff(part)) + 1, [len(lengths)]])
        for number, (low, high) in enumerate(pairwise(edges.tolist())):
            rng = np.random.default_rng([self.settings.seed, 2, number])
            yield self._chunk(rng, low + 1, lengths[low:high])

    def _chunk(self, rng: np.random.Generator, first_user: int, lengths: np.ndarray) -> dict[str, np.ndarray]:
        rows = int(lengths.sum())
        starts = np.cumsum(lengths) - lengths
        domain = self._domains(rng, rows, starts)
        topic = self._topics(rng, rows, starts, lengths)
        cell = domain * self.topics + topic
        # one sorted table of (cell + share of the items before) finds each row's item
        table = np.repeat(np.arange(len(self.cell_sizes)), self.cell_sizes) + self._share_before
        item = np.searchsorted(table, cell + rng.random(rows), side="right") - 1
        odds = rng.random(rows)
        gaps = np.minimum(MEAN_GAP * odds / (1.0 - odds), LONGEST_GAP).astype(np.int64) + 1
        gaps[starts] = START + (rng.random(len(starts)) * SPREAD).astype(np.int64)
        total = np.cumsum(gaps)
        time = total - np.repeat(total[starts] - gaps[starts], lengths)
        user = np.repeat(np.arange(first_user, first_user + len(lengths)), lengths)
        return {"user": user, "item": self.item_names[item], "time": time, "domain": domain}

    @cached_property
    def _share_before(self) -> np.ndarray:
        ends = np.cumsum(self.item_given_cell)
        before = ends - self.item_given_cell
        return before - np.repeat(before[self.cell_starts[:-1]], self.cell_sizes)

    def _domains(self, rng: np.random.Generator, rows: int, starts: np.ndarray) -> np.ndarray:
        drawn = _draw(rng, self.domain_weights, rows)
        anew = rng.random(rows) >= self.settings.stay
        anew[starts] = True
        # a row that stays has the domain of the last row that drew
        return drawn[np.maximum.accumulate(np.where(anew, np.arange(rows), 0))]

    def _topics(self, rng: np.random.Generator, rows: int, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Simulate all users at once, one step of time a turn; users sorted by length leave from the end."""
        settings = self.settings
        choice = rng.random(rows)
        topic = _draw(rng, self.topic_weights, rows)
        by_length = np.argsort(-lengths, kind="stable")
        begin = starts[by_length]
        active = np.searchsorted(-lengths[by_length], -np.arange(1, lengths.max() + 1), side="right")
        # the first two topics come from the stationary pairs, so every position has the same marginal
        last_two = np.divmod(_draw(rng, self.topic_pairs.ravel(), len(starts)), self.topics)
        topic[begin] = last_two[0]
        two = begin[: active[1]] + 1 if len(active) > 1 else begin[:0]
        topic[two] = last_two[1][: len(two)]
        for step in range(2, len(active)):
            at = begin[: active[step]] + step
            before, last, dice = topic[at - 2], topic[at - 1], choice[at]
            ruled = np.where(dice < settings.second_order, self.square[before, last], self.successor[last])
            by_rule = dice < settings.second_order + settings.first_order
            topic[at] = np.where(by_rule, ruled, topic[at])
        return topic


def write_synthetic(settings: SyntheticSettings, out: str | Path) -> dict[str, Any]:
    """Write ``out/NAME.inter`` and its card ``out/NAME.json``, whole or not at all; return the card as a dict."""
    process = SyntheticProcess(settings)
    folder = Path(out)
    target = target_in(folder)
    domains = pa.array([f"d{number + 1}" for number in range(settings.domains)])
    with whole_files(target, target.with_suffix(".json")) as (data_file, card_file):
        writer = AtomicWriter(data_file, ["user", "item", "time", "domain"])
        for chunk in process.chunks():
            writer.write({**chunk, "domain": domains.take(pa.array(chunk["domain"]))})
        card = {
            "name": folder.name,
            "source": "generated by recbole_scale.prepare.synthetic; no real user's data",
            "licence": "MIT, as the package",
            "settings": {**asdict(settings), "topics": process.topics},
            # rounded: the last digits of a logarithm differ between machines, the file does not
            "nats_per_interaction": {name: round(value, 6) for name, value in process.known_nll().items()},
            "interactions": writer.rows,
            "sha256": data_file.sha256(),
        }
        card_file.write(card_bytes(card))
    return card


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``recbole-scale synthetic``. Raises UserError for settings that contradict each other."""
    given = vars(parser().parse_args(argv))
    out = given.pop("out")
    card = write_synthetic(SyntheticSettings(**given), out)
    print(f"wrote {card['interactions']:,} interactions to {out}; exact nats an interaction for each predictor:")
    for name, nats in card["nats_per_interaction"].items():
        print(f"  {name:<12}{nats:.4f}")
    return 0


def _check(settings: SyntheticSettings) -> None:
    for name in ("users", "items", "interactions", "domains", "min_length"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} must be 1 or more, not {getattr(settings, name)}")
    if settings.topics < 0:
        raise UserError(f"topics must be 0, which chooses, or more, not {settings.topics}")
    if settings.interactions < settings.users * settings.min_length:
        raise UserError(
            f"{settings.interactions} interactions are too few for {settings.users} users of {settings.min_length} or "
            "more; ask for more interactions or fewer users"
        )
    parts = (settings.second_order, settings.first_order, settings.stay)
    if min(parts) < 0 or settings.second_order + settings.first_order > 1 or not settings.stay < 1:
        raise UserError("second_order, first_order and stay are probabilities, and the first two sum to at most 1")


def _zipf(count: int, exponent: int) -> np.ndarray:
    weights = 1.0 / np.arange(1.0, count + 1) ** exponent
    return weights / np.cumsum(weights)[-1]


def _draw(rng: np.random.Generator, weights: np.ndarray, rows: int) -> np.ndarray:
    """Draw ``rows`` indices by weight: inverse of the cumulative shares, int64."""
    ends = np.cumsum(weights)
    return np.searchsorted(ends[:-1] / ends[-1], rng.random(rows), side="right")


def _entropy(kernel: np.ndarray, context: np.ndarray | None = None) -> float:
    """Entropy in nats of a distribution, or of a kernel's last axis averaged over its contexts."""
    safe = np.where(kernel > 0, kernel, 1.0)
    inner = -(kernel * np.log(safe)).sum(axis=-1)
    return float(inner if context is None else (context * inner).sum())
