"""What finished runs say, model by model: means, deviations, differences from a reference; as text, Markdown, LaTeX."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_scale.compare.significance import Difference, by_user, hit_at, holm, ndcg_at, paired_bootstrap
from recbole_scale.errors import UserError
from recbole_scale.runs.measuring import read_per_user
from recbole_scale.runs.records import NLL_MARKS, filtered_metrics
from recbole_scale.text import show_count, text_table

METRICS = {"NDCG@10": (ndcg_at, 10), "HR@10": (hit_at, 10)}  # tested for significance
COLUMNS = {"NDCG@10": "ndcg@10", "HR@10": "recall@10", "NDCG@50": "ndcg@50", "HR@50": "recall@50", "NLL": "nll"}
FILTERED = ("NDCG@10", "HR@10")  # shown a second time, without what each user had
LEVEL = 0.05


@dataclass(frozen=True)
class Line:
    """One model of the table."""

    name: str
    seeds: int
    failed: str | None  # why no run finished
    parameters: int | None
    metrics: dict[str, tuple[float, float]]  # mean and standard deviation over seeds (nan for one seed)
    cost: dict[str, float]
    differences: dict[str, tuple[Difference, float]]  # by metric: against the reference, and Holm's p
    nll_kind: str | None = None
    users: int = 0  # ranked by each of its runs
    shared: int = 0  # of these, ranked by all models: those of the differences


def summarise(
    groups: dict[str, list[dict[str, Any]]],
    users: dict[str, list[Path]],
    reference: str,
    errors: dict[str, str],
    samples: int = 10_000,
) -> list[Line]:
    """One line a model, in the order of ``groups``.

    Args:
        groups: rows of each model's finished runs.
        users: the files of those runs' users (``user``, ``rank``), in the same order.
        reference: name of the model that the others are compared with.
        errors: why a model's runs failed, for models with such runs.
        samples: resamples of the users.

    Raises:
        UserError: no user was ranked by all models, or two runs of one model ranked different users.
    """
    ranks, tested_users, counts = _ranks_by_user({name: files for name, files in users.items() if files})
    tested: dict[tuple[str, str], Difference] = {}
    for metric, (measure, k) in METRICS.items():
        values = {name: measure(rank, k).mean(0) for name, rank in ranks.items()}  # [rows], mean over seeds
        for name in values:
            if name != reference and reference in values:
                difference = by_user(values[name] - values[reference], tested_users)
                tested[name, metric] = paired_bootstrap(difference, samples)
    corrected = dict(zip(tested, holm([found.p for found in tested.values()]), strict=True))
    lines = []
    for name, rows in groups.items():
        differences = {m: (tested[name, m], corrected[name, m]) for m in METRICS if (name, m) in tested}
        ranked = counts.get(name, 0), len(np.unique(tested_users))
        lines.append(_line(name, rows, errors.get(name), differences, ranked))
    return lines


def _line(
    name: str, rows: list[dict[str, Any]], error: str | None, differences: dict[str, Any], ranked: tuple[int, int]
) -> Line:
    if not rows:
        return Line(name, 0, error or "not run", None, {}, {}, {})
    metrics = {}
    for label, key in COLUMNS.items():
        values = np.array([_number(row["test_metrics"].get(key)) for row in rows])
        metrics[label] = _spread(values)
    for label in FILTERED:
        found = [filtered_metrics(row).get(COLUMNS[label]) for row in rows]
        metrics[f"{label} filtered"] = _spread(np.array([_number(value) for value in found]))
    cost = {key: float(np.mean([_number(row[key]) for row in rows])) for key in _COST[:-1]}
    cost["peak_memory_mb"] = max(_number(row["peak_memory_mb"]) for row in rows)
    parameters, kind = int(rows[0]["n_parameters"]), rows[0].get("nll_kind")
    return Line(name, len(rows), None, parameters, metrics, cost, differences, kind, *ranked)


def _spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over seeds (nan for one seed)."""
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan


_COST = ("epochs", "interactions_seen", "seconds_train", "seconds_evaluate", "peak_memory_mb")


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _ranks_by_user(users: dict[str, list[Path]]) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, int]]:
    """Ranks [seeds, rows] of each model's runs, all in one order, the user of each row, objects [rows], and how many
    users each model ranked.

    Rows are those of users whom all runs ranked, as often each: RecBole's general models rank users of two rows,
    whom sequential ones cannot.
    """
    runs = {path: _ranks_of(path) for files in users.values() for path in files}
    rows = {path: set(Counter(names).items()) for path, (names, _) in runs.items()}
    for files in users.values():
        for path in files:
            if rows[path] != rows[files[0]]:
                raise UserError(f"the users in {path} are not those of {files[0]}; was the data changed between?")
    shared = {user for user, _ in set.intersection(*rows.values())} if rows else set()
    if rows and not shared:
        raise UserError(f"no user in {next(iter(runs))} is one of all other runs; was the data changed between?")
    kept = {path: np.array([user in shared for user in names]) for path, (names, _) in runs.items()}
    ranks = {name: np.stack([runs[path][1][kept[path]] for path in files]) for name, files in users.items()}
    names = next((names[kept[path]] for path, (names, _) in runs.items()), np.zeros(0, dtype=object))
    return ranks, names, {name: len(rows[files[0]]) for name, files in users.items()}


def _ranks_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Users and ranks of a run's rows, by user."""
    data = read_per_user(path)
    if data is None:
        raise UserError(f"{path} is damaged; the same command without it trains its run again")
    order = np.argsort(data["user"], kind="stable")
    return data["user"][order], data["rank"][order]


# Rendering ----------------------------------------------------------------------------------------------------------


def same_users(lines: Sequence[Line]) -> bool:
    """Whether all models ranked the same users; where not, no mean is marked as the best."""
    return all(line.users == line.shared for line in lines)


def cells(lines: Sequence[Line], reference: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text. A star: different from the reference at 5 % after Holm's correction."""
    shown = [*COLUMNS, *(f"{label} filtered" for label in FILTERED)]
    header = ["model", "seeds", "parameters", *shown]
    header += [f"{m} - {reference} [95 %], p" for m in METRICS]
    header += ["epochs", "targets seen", "train s", "rank s", "peak MB"]
    best = {m: _best(lines, m) if same_users(lines) else None for m in shown}
    body = []
    for line in lines:
        if line.failed is not None:
            body.append([line.name, "0", f"failed: {line.failed}", *[""] * (len(header) - 3)])
            continue
        row = [line.name, str(line.seeds), f"{line.parameters:,}"]
        for metric, (mean, deviation) in line.metrics.items():
            text = f"{mean:.4f}" + (f" ± {deviation:.4f}" if not math.isnan(deviation) else "")
            if metric == "NLL" and line.nll_kind in NLL_MARKS:
                text += f" ({NLL_MARKS[line.nll_kind]})"
            row.append(f"{text} <" if line.name == best[metric] else text)
        row += [_difference(line.differences.get(m), line.name == reference) for m in METRICS]
        cost, seen = line.cost, line.cost["interactions_seen"]
        row += [f"{cost['epochs']:.4g}", "" if math.isnan(seen) else show_count(seen), f"{cost['seconds_train']:.4g}"]
        row += [f"{cost['seconds_evaluate']:.3g}", f"{cost['peak_memory_mb']:,.0f}"]
        body.append(row)
    return header, body


def _best(lines: Sequence[Line], metric: str) -> str | None:
    known = [(line.metrics[metric][0], line.name) for line in lines if line.metrics]
    known = [pair for pair in known if not math.isnan(pair[0])]
    if metric == "NLL":  # what was never trained as a likelihood is not the best of them
        none = {line.name for line in lines if line.nll_kind == "scores"}
        known = [pair for pair in known if pair[1] not in none]
    return (min if metric == "NLL" else max)(known)[1] if known else None


def _difference(found: tuple[Difference, float] | None, is_reference: bool) -> str:
    if found is None:
        return "reference" if is_reference else ""  # which no run has finished of
    difference, p = found
    star = "*" if p < LEVEL else ""
    return f"{difference.mean:+.4f}{star} [{difference.low:+.4f}, {difference.high:+.4f}], {p:.2g}"


def as_text(header: list[str], body: list[list[str]], width: float = math.inf) -> str:
    """Columns aligned with spaces, in several tables where one is wider than ``width`` letters."""
    failed = [row for row in body if row[2].startswith("failed")]
    rows = [row for row in body if row not in failed]
    text = text_table([header, *rows], left=range(len(header)), width=width)
    return "\n".join([text, *(f"{row[0]}  {row[2]}" for row in failed)])


def as_markdown(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table; the best of each column in bold."""

    def cell(text: str) -> str:
        text = text.replace("|", "\\|")
        return f"**{text[:-2]}**" if text.endswith(" <") else text

    rows = [header, ["---"] * len(header), *[[cell(text) for text in row] for row in body]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def as_latex(header: list[str], body: list[list[str]]) -> str:
    """A ``tabular`` (booktabs); the best of each column in bold."""

    def cell(text: str) -> str:
        best, text = text.endswith(" <"), text.removesuffix(" <")
        for plain, escaped in (("\\", "\\textbackslash "), ("%", "\\%"), ("_", "\\_"), ("&", "\\&"), ("#", "\\#")):
            text = text.replace(plain, escaped)
        text = text.replace("±", "$\\pm$").replace("<", "$<$")
        return f"\\textbf{{{text}}}" if best else text

    lines = [" & ".join(cell(text) for text in row) + " \\\\" for row in [header, *body]]
    spec = "l" + "r" * (len(header) - 1)
    inside = ["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"]
    return "\n".join([f"\\begin{{tabular}}{{{spec}}}", *inside, "\\end{tabular}"])
