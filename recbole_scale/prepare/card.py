"""What a prepared data set is: its statistics, how they compare with published counts, and its data card."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from recbole_scale.data.time_units import PER_SECOND
from recbole_scale.errors import UserError
from recbole_scale.prepare.columns import Interactions
from recbole_scale.prepare.filters import count_users_items
from recbole_scale.text import counted

QUANTILES = (0, 25, 50, 75, 90, 99, 100)
YEAR = 365 * 86400
TABLE_CELLS = 1 << 28  # a user x domain table of bytes is kept below this; above, pairs are sorted instead

# "Scaling Law of Large Sequential Recommendation Models", arXiv 2311.11351, table of data sets
AMAZON_MIX = {"users": 367_710, "items": 240_320, "interactions": 21_787_957}
PAPER_COUNTS = {
    "ml-20m": {"users": 138_493, "items": 26_427, "interactions": 18_476_840},
    "amazon-2014": AMAZON_MIX,
    "amazon-2018": AMAZON_MIX,
    "amazon-2023": AMAZON_MIX,
}
# the README of each MovieLens release; it counts movies listed, not movies rated, from 20M on, so no items there
README_COUNTS = {
    "ml-100k": {"users": 943, "items": 1_682, "interactions": 100_000},
    "ml-1m": {"users": 6_040, "interactions": 1_000_209},
    "ml-10m": {"interactions": 10_000_054},
    "ml-20m": {"users": 138_493, "interactions": 20_000_263},
    "ml-25m": {"users": 162_541, "interactions": 25_000_095},
    "ml-32m": {"users": 200_948, "interactions": 32_000_204},
}
EXPECTATIONS = {"paper": PAPER_COUNTS, "readme": README_COUNTS}


def statistics(log: Interactions) -> dict[str, Any]:
    """Return counts, sparsity, history lengths, time range, and what share of users is in how many domains."""
    counts = count_users_items(log)
    lengths = np.bincount(log.user)
    lengths = lengths[lengths > 0]
    stats: dict[str, Any] = {
        **counts,
        "sparsity": 1.0 - counts["interactions"] / (counts["users"] * counts["items"]),
        "mean_length": float(lengths.mean()),
        "length_quantiles": {
            str(share): int(value)
            for share, value in zip(QUANTILES, np.percentile(lengths, QUANTILES, method="lower"), strict=True)
        },
        "users_with_one": int((lengths == 1).sum()),
        "users_under_three": int((lengths < 3).sum()),
        "time_unit": log.unit,
        "time_first": int(log.time.min()),
        "time_last": int(log.time.max()),
    }
    if "domain" in log.columns:
        stats["domains"] = _domain_statistics(log)
    return stats


def _domain_statistics(log: Interactions) -> dict[str, Any]:
    domain = log.columns["domain"]
    rows = np.bincount(domain.codes, minlength=len(domain.texts))
    names = domain.texts.to_pylist()
    number = _domains_of_users(log.user, domain.codes, len(names))
    share = np.bincount(number)[1:] / len(number)
    return {
        "interactions": {name: int(count) for name, count in zip(names, rows, strict=True) if count},
        "share_of_users_by_number": {str(at + 1): float(value) for at, value in enumerate(share) if value},
    }


def _domains_of_users(users: np.ndarray, domains: np.ndarray, number: int) -> np.ndarray:
    """Return in how many domains each user is, [users in the log]."""
    top = int(users.max()) + 1
    if top * number <= TABLE_CELLS:
        seen = np.zeros((top, number), dtype=bool)
        seen[users, domains] = True
        counts = seen.sum(axis=1)
    else:
        pairs = np.unique(users.astype(np.int64) * number + domains)
        counts = np.bincount(pairs // number)
    return counts[counts > 0]


def format_table(stats: Mapping[str, Any]) -> str:
    """Return the statistics as lines of text."""
    quantiles = ", ".join(f"{share}% {value:,}" for share, value in stats["length_quantiles"].items())
    lines = [
        f"users            {stats['users']:,}",
        f"items            {stats['items']:,}",
        f"interactions     {stats['interactions']:,}",
        f"sparsity         {100 * stats['sparsity']:.4f} %",
        f"history length   mean {stats['mean_length']:.1f}; {quantiles}",
        f"time             {_time_range(stats)}",
    ]
    domains = stats.get("domains")
    if domains:
        rows = domains["interactions"]
        lines.append(f"domains          {len(rows)}: " + ", ".join(f"{name} {count:,}" for name, count in rows.items()))
        shares = domains["share_of_users_by_number"].items()
        lines.append("users in domains " + ", ".join(f"{number}: {100 * share:.1f} %" for number, share in shares))
    if stats["users_under_three"]:
        lines.append(
            f"note: {counted(stats['users_under_three'], 'user')} with fewer than 3 interactions, "
            f"{stats['users_with_one']:,} of them with a single one: leave-one-out cannot train, validate "
            "and test there; --user_core 3 drops them"
        )
    if implausible := _implausible(stats):
        lines.append(implausible)
    return "\n".join(lines)


def _implausible(stats: Mapping[str, Any]) -> str:
    """A word on times that a log of users can hardly have: before 1990 beside later ones, or in the future."""
    first, last, unit = stats["time_first"], stats["time_last"], stats["time_unit"]
    if unit == "order" or last < YEAR * PER_SECOND[unit]:
        return ""
    late = last / PER_SECOND[unit] > time.time() + YEAR
    early = first / PER_SECOND[unit] < 20 * YEAR
    if not late and not early:
        return ""
    what = "lies more than a year ahead" if late else "lies before 1990 (is a missing time written as 0?)"
    return f"note: the {'latest' if late else 'earliest'} time {what}; is {unit} the unit? --time_unit tells another"


def _time_range(stats: Mapping[str, Any]) -> str:
    first, last, unit = stats["time_first"], stats["time_last"], stats["time_unit"]
    if unit == "order":
        return f"order of the rows ({first:,} to {last:,})"
    seconds = PER_SECOND[unit]
    if last < YEAR * seconds:
        return f"order only ({first:,} to {last:,})"
    try:
        days = [datetime.fromtimestamp(at // seconds, timezone.utc).date().isoformat() for at in (first, last)]
    except (ValueError, OverflowError, OSError):
        return f"{first:,} to {last:,} {unit}"
    return f"{days[0]} to {days[1]}, in {unit}"


def expected_counts(kind: str, format_name: str) -> dict[str, int]:
    """Return the published counts of a format; raises UserError when none are known."""
    if kind not in EXPECTATIONS:
        raise UserError(f"--expect is one of {', '.join(EXPECTATIONS)}, not '{kind}'")
    if format_name not in EXPECTATIONS[kind]:
        known = ", ".join(EXPECTATIONS[kind])
        raise UserError(f"no counts of kind '{kind}' are published for {format_name}; they are for {known}")
    return EXPECTATIONS[kind][format_name]


def differences(stats: Mapping[str, Any], expected: Mapping[str, int]) -> list[str]:
    """Return one line a count that differs from the published one: found, published, and by how much."""
    return [
        f"{name}: {stats[name]:,} here, {count:,} published ({stats[name] - count:+,}, {stats[name] / count - 1:+.2%})"
        for name, count in expected.items()
        if stats[name] != count
    ]


def read_card(path: Path) -> dict[str, Any]:
    """The data card at ``path``; empty where there is none, or something else, and without parts of another kind."""
    try:
        card = json.loads(path.read_text("utf-8-sig"))
        json.dumps(card, ensure_ascii=False).encode()  # half a letter cannot be shown
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(card, dict):
        return {}
    dropped, files = card.get("dropped"), card.get("files")
    right = {
        "dropped": isinstance(dropped, dict),
        "files": isinstance(files, list) and all(isinstance(one, dict) for one in files),
    }
    return {name: part for name, part in card.items() if right.get(name, True)}


def card_bytes(card: Mapping[str, Any]) -> bytes:
    """Return a data card as JSON text, the same bytes for the same card; says which version made it."""
    return (json.dumps({**card, "made_by": f"recbole-scale {version('recbole-scale')}"}, indent=2) + "\n").encode()
