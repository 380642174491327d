"""Multi-domain transfer: is a history of other domains enough to find the target?

Source: arXiv 2311.11351, challenge "multi-domain transfer"; the paper names 'mix-domain' and 'diff-domain' without
defining them. Here: 'mix' is the history as it is, 'diff' has no item of the target's domain, and 'mix_short' is the
most recent part of 'mix' that is as long as 'diff': what diff loses beside it is not lost by length.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from recbole_scale.challenges.cases import Cases
from recbole_scale.data.atomic import UTF8, read_coded, read_header
from recbole_scale.data.coded import Coded
from recbole_scale.data.texts import as_objects
from recbole_scale.errors import UserError, nearest


def read_domains(
    path: str | os.PathLike[str],
    item_tokens: np.ndarray,
    domain: str = "domain",
    item: str = "item_id",
    separator: str = "\t",
    encoding: str = UTF8,
) -> tuple[np.ndarray, list[str]]:
    """Domain of each item, from a column of an atomic file.

    An item that stands in several domains belongs to the one it is in most often, by name where that is equal.

    Args:
        path: a ``.inter`` or ``.item`` file.
        item_tokens: token of each item id, [V + 1]; entry 0 is padding.
        domain: name of the domain column, a token.
        item: name of the item column.
        separator: one character between columns.
        encoding: of the file.

    Returns:
        number of each item's domain int64 [V + 1] (entry 0: -1), and the domains' names in order.

    Raises:
        UserError: there is no such column, it is no token, or an item of the data set is not in the file.
    """
    fields = read_header(path, separator, encoding)
    tokens = [name for name, kind in fields.items() if kind == "token"]
    if domain not in fields or fields[domain] != "token":
        raise UserError(
            f"{path}, line 1: multi_domain needs a column '{domain}:token', the columns are {', '.join(fields)}"
            f"{nearest(domain, tokens)}"
        )
    columns = read_coded(path, [item, domain], separator, (item, domain), fields, None, encoding)
    items, domains = columns[item], columns[domain]
    assert isinstance(items, Coded) and isinstance(domains, Coded)
    names = domains.texts.to_pylist()
    by_name = np.argsort(names)  # numbers in the order of the names, so that the first of equals is the smaller name
    number = np.empty(len(names), dtype=np.int64)
    number[by_name] = np.arange(len(names))
    pair, count = np.unique(items.codes.astype(np.int64) * len(names) + number[domains.codes], return_counts=True)
    most = np.lexsort((pair, -count, pair // len(names)))  # by item, then falling count, then name
    of_item, first = np.unique(pair[most] // len(names), return_index=True)
    domain_of = dict(zip(items.texts.take(of_item).to_pylist(), (pair[most][first] % len(names)).tolist(), strict=True))
    found = np.array([-1, *(domain_of.get(token, -1) for token in item_tokens[1:].tolist())], dtype=np.int64)
    if (found[1:] < 0).any():
        raise UserError(f"{path}: there is no item '{item_tokens[1:][found[1:] < 0][0]}', which the data set has")
    return found, [names[i] for i in by_name]


def make_cases(base: Cases, domain_of: np.ndarray, names: list[str]) -> list[Cases]:
    """Sets "mix", "mix_short" and "diff" of the same cases, grouped by the target's domain and the history's breadth.

    Breadth is how many domains the whole history has. Cases whose history has no item of another domain are dropped
    from all and counted.

    Args:
        base: cases of the data set's own split.
        domain_of: number of each item's domain, [V + 1].
        names: names of the domains.

    Raises:
        UserError: no case has an item of another domain.
    """
    target = domain_of[base.target[:, 0]]  # [n]
    owner, domains = base.owner, domain_of[base.items]
    other = domains != target[owner]  # [R]
    enough = np.bincount(owner[other], minlength=len(base)) > 0
    if not enough.any():
        raise UserError("multi_domain: no history holds an item of another domain than its target's")
    pairs = np.unique(owner * len(names) + domains)
    breadth = np.bincount(pairs // len(names), minlength=len(base))  # domains of each history
    mix = replace(
        base,
        groups={
            "target domain": as_objects(f"to {name}" for name in names)[target],
            "domains": np.char.add(breadth.astype(str), np.where(breadth == 1, " domain", " domains")),
        },
        dropped={"no item of another domain in the history": int((~enough).sum())},
    )
    diff = mix.keep_items(other)
    sets = {"mix": mix, "mix_short": mix.last(diff.lengths), "diff": diff}
    return [cases.take(enough).named("multi_domain", name) for name, cases in sets.items()]
