"""Long-tail items: cases grouped by how often the target occurs in training, G1 (head) to G4 (tail).

Source: arXiv 2311.11351, challenge "long-tail items"; the paper does not say where its groups end.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recbole_scale.challenges.cases import Cases
from recbole_scale.challenges.options import RULES
from recbole_scale.errors import check_choice

GROUPS = ("G1", "G2", "G3", "G4")


def item_groups(counts: np.ndarray, rule: str = RULES[0]) -> np.ndarray:
    """Group 0 (head) to 3 (tail) of each item.

    Items are ranked by falling count, equal counts by id. ``equal_items`` puts a quarter of the items in each group:
    the tail then has many items and few cases. ``equal_interactions`` puts an item where the middle of its
    interactions falls among all training interactions, so that each group has about a quarter of them and enough
    cases; items that never occur are tail.

    Args:
        counts: training interactions of each id, [V + 1]; id 0 is padding.
        rule: one of ``RULES``.

    Returns:
        int64 [V + 1]; the entry of padding means nothing.

    Raises:
        UserError: an unknown rule.
    """
    check_choice("group_rule", rule, RULES)
    order = 1 + np.argsort(-counts[1:], kind="stable")
    if rule == "equal_items":
        place = np.arange(len(order)) / max(len(order), 1)
    else:
        ranked = counts[order]
        place = (np.cumsum(ranked) - ranked / 2) / max(ranked.sum(), 1)
        place[ranked == 0] = 1.0
    group = np.zeros(len(counts), dtype=np.int64)
    group[order] = np.minimum((4 * place).astype(np.int64), 3)
    return group


def make_cases(base: Cases, counts: np.ndarray, rule: str = RULES[0]) -> list[Cases]:
    """The base cases, grouped by their target's popularity.

    Args:
        base: cases of the data set's own split.
        counts: training interactions of each item id, [V + 1].
        rule: where groups end, see :func:`item_groups`.
    """
    group = item_groups(counts, rule)[base.target[:, 0]]
    labelled = replace(base, groups={"popularity": np.array(GROUPS)[group]})
    return [labelled.named("long_tail", rule)]
