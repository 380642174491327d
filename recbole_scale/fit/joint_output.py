"""Write a joint law down: part of ``law.json`` for programs, tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from recbole_scale.fit.joint import Joint, JointJudgement
from recbole_scale.fit.law_output import aligned, constants_table, finite, law_json, shown
from recbole_scale.laws.budget import ComputeOptimal
from recbole_scale.laws.isoflop import Optimum
from recbole_scale.text import show_count


def joint_json(joint: Joint) -> dict[str, Any]:
    """A joint law, how it did on what it had not seen, and the best use of some budgets as plain JSON values."""
    content = {
        "law": "L(n, d) = E + (n0 / n)^alpha + (d0 / d)^beta",
        **({} if joint.law is None else {**law_json(joint.law), "lack_of_fit_p": joint.law.lack_of_fit}),
        "budgets": [] if joint.optimum is None else _budget_rows(joint.optimum),
        "held_out": [{**asdict(one), "covered": one.covered} for one in joint.held_out],
        "rollout": [{**asdict(one), "covered": one.covered} for one in joint.rolled_out],
        "best_sizes_at_equal_flops": [{**asdict(one), "n_by_the_law": n} for one, n in joint.measured],
        "notes": joint.notes,
    }
    return dict(finite(content))


def joint_text(joint: Joint) -> str:
    """A joint law and the best use of some budgets as a table."""
    law, optimum = joint.law, joint.optimum
    lines: list[str] = []
    if law is not None:
        lines.append("L = E + (n0 / n)^alpha + (d0 / d)^beta, " + law.message)
        lines += constants_table(law) if law.identified else []
    if optimum is not None:
        lines += ["", f"best use of a budget, with every interaction seen {optimum.epochs:.3g} times"]
        head = ["FLOPs", "n", "95 % band", "d", "95 % band", "loss", ""]
        body = [
            [
                f"{row['flops']:.2g}",
                show_count(row["n"]),
                _counts(row["n_band"]),
                show_count(row["d"]),
                _counts(row["d_band"]),
                shown(row["loss"]),
                "beyond the rows" if row["extrapolates"] else "",
            ]
            for row in _budget_rows(optimum)
        ]
        lines += aligned([head, *body])
    for title, judged in (("held out", joint.held_out), ("rollout over sizes", joint.rolled_out)):
        if judged:
            lines += ["", f"joint law, {title} (95 % band of the mean of as many runs)", *_joint_judgements(judged)]
            lines.append(_joint_skill(judged))
    if joint.measured:
        lines += ["", "best size at equal FLOPs, read off finished runs (a parabola in log n, 95 % band)"]
        lines += aligned([OPTIMUM_HEAD, *(optimum_row(*one) for one in joint.measured)])
    lines += [f"note: {note}" for note in joint.notes]
    return "\n".join(lines)


def _joint_skill(judged: Sequence[JointJudgement]) -> str:
    """How near the law came, against the largest fitted size on as much data, where that was run."""
    known = [one for one in judged if math.isfinite(one.no_change)]
    law, other = (sum(abs(value - one.observed) for one, value in pairs) / max(len(known), 1) for pairs in
                  ([(one, one.predicted) for one in known], [(one, one.no_change) for one in known]))  # fmt: skip
    none = "; the law has no skill against that" if other <= law else ""
    return f'mean error, nats: the law {law:.4f}, "no change" {other:.4f}{none}' if known else ""


OPTIMUM_HEAD = ["FLOPs", "sizes", "n", "95 % band", "by the joint law"]


def optimum_row(one: Optimum, by_law: float) -> list[str]:
    """The best size at one budget as cells, with that of the joint law or nan."""
    law = show_count(by_law) if math.isfinite(by_law) else "-"
    if not math.isfinite(one.n):
        return [f"{one.flops:.2g}", str(one.sizes), "no valley between them", "", law]
    band = _counts((one.lower, one.upper)) if math.isfinite(one.lower) else "none"
    return [f"{one.flops:.2g}", str(one.sizes), show_count(one.n), band, law]


def _joint_judgements(judged: Sequence[JointJudgement]) -> list[str]:
    head = ["sizes", "n", "d", "runs", "law", "95 % band", "measured", "no gain", "in it"]  # 80 columns
    body = [
        [
            str(one.sizes_fitted), show_count(one.n), show_count(one.d), str(one.runs), shown(one.predicted),
            f"[{shown(one.lower)}, {shown(one.upper)}]", shown(one.observed), shown(one.no_change),
            {None: "-", True: "yes", False: "no"}[one.covered],
        ]
        for one in judged
    ]  # fmt: skip
    return aligned([head, *body])


def _budget_rows(optimum: ComputeOptimal) -> list[dict[str, Any]]:
    columns = {
        "flops": optimum.flops,
        "n": optimum.n,
        "d": optimum.d,
        "loss": optimum.loss,
        "extrapolates": optimum.extrapolates,
    }
    bands = zip(*optimum.n_band, *optimum.d_band, strict=True)
    rows: list[dict[str, Any]] = []
    for values, (n_low, n_high, d_low, d_high) in zip(zip(*columns.values(), strict=True), bands, strict=True):
        row: dict[str, Any] = dict(zip(columns, (value.item() for value in values), strict=True))
        row["n_band"], row["d_band"] = [float(n_low), float(n_high)], [float(d_low), float(d_high)]
        rows.append(row)
    return rows


def _counts(band: Iterable[float]) -> str:
    return "[" + ", ".join(show_count(value) for value in band) + "]"
