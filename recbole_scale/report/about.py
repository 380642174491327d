"""The end of a page: the words it uses, the data and its users, the machine, the time, and the command again."""

from __future__ import annotations

import math
from typing import Any

from recbole_scale.fit.tables import number
from recbole_scale.report.html import section, table, template
from recbole_scale.report.report import Study
from recbole_scale.text import counted, duration


def glossary_section(study: Study) -> str:
    """The words, with this study's own numbers as examples."""
    loss = study.ends.best.loss
    words = [
        ("Loss, NLL, nats", f"How surprised the model is by the item that came next, on average. {loss:.1f} nats: as "
         f"unsure as among {round_count(math.exp(loss))} items that are all equally likely."),
        ("HR@10", "Hit rate: how often the item that came next is among the first ten of all items ranked. 0.231: in "
         "231 of 1,000 visits."),
        ("NDCG@10", "As HR@10, but a place near the top counts more: 1 at the first place, 0.29 at the tenth."),
        ("N, parameters", "Weights of the model's blocks, without the tables of items and positions: its size."),
        ("Doubling", "Twice as many parameters. Ten times as many are 3.3 doublings."),
        ("Law", "L(N) = E + (N0 / N)^alpha: what is left of the loss falls by the same factor with every doubling."),
        ("95 % band", "Where the value lies in 95 of 100 resamples. It knows the noise of the runs, an error of each "
         "size's own and some other forms of the law; it cannot know of a bend beyond the largest size."),
        ("Held out", "A size that was trained but kept from the fit, to see whether the law predicts it."),
        ("Leave-one-out", "Of every user the last item is for the test, the one before for choosing, the rest for "
         "training."),
    ]  # fmt: skip
    return section("Words", template("glossary.html", words=words))


def about_section(study: Study, command: str, card: dict[str, Any], seconds: float | None = None) -> str:
    """Users tested and dropped, the machine, the time taken, and the command that makes the page again."""
    rows = study.choice.fitted + study.choice.held_out
    facts = [*_users(study, card), *_machine(study)]
    total = sum(float(row["seconds_total"]) for row in study.rows if number(row, "seconds_total"))
    if total:
        facts.append(("time", f"{duration(total)} for the {counted(len(study.rows), 'run')}, one after the other"))
    if seconds:
        facts.append(("this command", f"{duration(seconds)} from the log to this page"))
    started = sorted(str(row["started"]) for row in rows if row.get("started"))
    if started:
        facts.append(("first and last run", f"{started[0]} and {started[-1]}"))
    facts += [("command", command)] if command else []
    return section("Data, machine, command", table(["", ""], facts, left=(1,)))


def _users(study: Study, card: dict[str, Any]) -> list[tuple[str, str]]:
    rows = study.choice.fitted + study.choice.held_out
    facts = []
    for row in rows:
        if number(row, "users_tested"):
            dropped = int(row.get("users_dropped") or 0)
            facts.append(("users tested", f"{int(row['users_tested']):,}"))
            facts.append(("users dropped", f"{dropped:,}, whose history is too short for a test"))
            break
        if number(row, "n_users"):
            facts.append(("users", f"{int(row['n_users']):,} after filtering"))
            break
    items = next((row for row in rows if number(row, "n_items")), None)
    facts += [("items", f"{int(items['n_items']):,}")] if items else []
    facts += [(f"dropped while preparing: {reason}", f"{int(count):,} rows") for reason, count in
              (card.get("dropped") or {}).items() if isinstance(count, int) and count]  # fmt: skip
    return facts


def _machine(study: Study) -> list[tuple[str, str]]:
    rows = study.choice.fitted + study.choice.held_out
    devices = sorted({str(row["device"]) for row in rows if row.get("device")})
    threads = sorted({int(row["threads"]) for row in rows if number(row, "threads")})
    facts = [("machine", ", ".join(devices))] if devices else []
    return facts + ([("CPU threads", ", ".join(map(str, threads)))] if threads else [])


def round_count(value: float) -> str:
    """A count in two digits, with commas: 3,300."""
    if value < 10:
        return f"{value:.1f}"
    digits = 10 ** (int(math.log10(value)) - 1)
    return f"{int(round(value / digits) * digits):,}"
