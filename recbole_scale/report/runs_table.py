"""The runs behind a report: finished ones with their settings, seed and commit, failed ones with their error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from recbole_scale.drawing import metric_name
from recbole_scale.fit.rows import Row
from recbole_scale.fit.sizes import metric_of
from recbole_scale.report.html import details, paragraph, section, table
from recbole_scale.report.report import Study
from recbole_scale.runs.records import filtered_metrics
from recbole_scale.text import counted, show_count

_IN_COLUMNS = ("seed", "epochs", "n_layers", "hidden_size", "data_fraction")


def runs_section(study: Study) -> str:
    """Finished runs; what they share is said once, above the table."""
    rows = sorted(study.rows, key=lambda row: (row.get("n_blocks") or 0, row.get("unique_interactions") or 0))
    everywhere = shared_settings(rows)
    columns = _columns(study, everywhere)
    content = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    same = {name: str(content[name][0]) for name in ("device", "commit") if len(set(content[name])) == 1}
    names = [name for name in columns if name not in same]
    body = [[content[name][index] for name in names] for index in range(len(rows))]
    shared = "; ".join(f"{key} = {value}" for key, value in (everywhere | same).items()) or "nothing"
    failed = [[row.get("run_id"), row.get("model"), row.get("seed"), row.get("error")] for row in study.failed]
    return section(
        "Runs",
        paragraph(f"The same in every run: {shared}. Versions: {_versions(rows)}.", "muted"),
        details(
            f"All {counted(len(rows), 'run')}" + (f", and {len(failed)} that failed" if failed else ""),
            table(names, body, left=(len(names) - 1,), file="runs.csv"),
            table(["failed run", "model", "seed", "error"], failed, left=(3,)),
        ),
    )


def _columns(study: Study, everywhere: dict[str, str]) -> dict[str, Callable[[Row], Any]]:
    """Columns of the table by name, each with what it shows of a row."""
    loss, metric, role = study.question.loss, study.metric, _roles(study)
    filtered: dict[str, Callable[[Row], Any]] = {}
    if metric and any(metric in filtered_metrics(row) for row in study.rows):
        filtered[f"{metric_name(metric)} filtered"] = lambda row: _form(filtered_metrics(row).get(metric), ".4f")
    return {
        "run": lambda row: row.get("run_id"),
        "N": lambda row: _count(row.get("n_blocks")),
        "shape": lambda row: f"{row['n_layers']} x {row['d_model']}" if row.get("n_layers") else None,
        "D": lambda row: _count(row.get("unique_interactions")),
        "seed": lambda row: row.get("seed"),
        "epochs": lambda row: row.get("epochs"),
        "best": lambda row: row["best_epoch"] + 1 if isinstance(row.get("best_epoch"), int) else None,
        loss: lambda row: _form(row.get(loss), ".4f"),
        "se": lambda row: _form(row.get("test_nll_se"), ".4f"),
        metric_name(metric or "metric"): lambda row: _form(metric_of(row, metric), ".4f"),
        **filtered,
        "s": lambda row: _form(row.get("seconds_total"), ",.0f"),
        "law": role,
        "device": lambda row: row.get("device"),
        "commit": lambda row: row.get("commit"),
        "set in this run": lambda row: _settings(row, everywhere),
    }


def shared_settings(rows: Sequence[Row]) -> dict[str, str]:
    """Settings that every row was given with the same value."""
    tables = [_shown(row) for row in rows]
    if not tables:
        return {}
    return {key: value for key, value in tables[0].items() if all(one.get(key) == value for one in tables)}


def _roles(study: Study) -> Callable[[Row], str]:
    """Whether a row is fitted, held out, or neither; by run id where there is one."""
    fitted, held = ({_key(row) for row in rows} for rows in (study.choice.fitted, study.choice.held_out))

    def role(row: Row) -> str:
        return "fitted" if _key(row) in fitted else "held out" if _key(row) in held else ""

    return role


def _key(row: Row) -> Any:
    return row.get("run_id") or id(row)


def _settings(row: Row, everywhere: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in _shown(row).items() if key not in (*everywhere, *_IN_COLUMNS))


def _shown(row: Row) -> dict[str, str]:
    settings = row.get("settings")
    if not isinstance(settings, dict):
        return {}
    return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}


def _versions(rows: Sequence[Row]) -> str:
    found = {", ".join(f"{name} {value}" for name, value in (row.get("versions") or {}).items()) for row in rows}
    return " / ".join(sorted(found - {""})) or "not recorded"


def _count(value: Any) -> str | None:
    return show_count(float(value)) if isinstance(value, int | float) else None


def _form(value: Any, form: str) -> str | None:
    return format(float(value), form) if isinstance(value, int | float) else None
