"""Options of ``recbole-scale synthetic``; apart from the generator, so that --help imports nothing."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_scale.arguments import CommandParser, seed_number

_EXAMPLES = """  recbole-scale synthetic --users 1500 --items 500 --interactions 25000 --out dataset/made
  recbole-scale synthetic --users 138000 --items 26000 --interactions 20000000 --out dataset/load20m
"""


@dataclass(frozen=True)
class SyntheticSettings:
    """What is generated. Probabilities: ``second_order`` + ``first_order`` <= 1; ``stay`` in a domain, in [0, 1).

    ``topics=0`` chooses about sqrt(items / domains), so that contexts (topics squared) grow with the data.
    """

    users: int
    items: int
    interactions: int
    seed: int = 2024
    domains: int = 5
    topics: int = 0
    second_order: float = 0.65
    first_order: float = 0.10
    stay: float = 0.6
    zipf: int = 1
    min_length: int = 5


def parser() -> CommandParser:
    """The options of ``recbole-scale synthetic``."""
    found = CommandParser(
        "recbole-scale synthetic",
        "Generate a log with order-2 structure and the exact NLL of each kind of predictor.",
        _EXAMPLES,
    )
    for name in ("users", "items", "interactions"):
        found.add_argument(f"--{name}", type=int, required=True)
    found.add_argument("--seed", type=seed_number, default=SyntheticSettings.seed)
    found.add_argument("--domains", type=int, default=SyntheticSettings.domains)
    found.add_argument("--topics", type=int, default=0, help="0 chooses about sqrt(items / domains)")
    found.add_argument("--out", required=True, metavar="dataset/NAME")
    return found
