"""A study's folder: its plan, the rows of its runs, the tries of the rate, the counting baselines, and the page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from recbole_scale.errors import UserError
from recbole_scale.files import whole_files
from recbole_scale.fit.rows import Row
from recbole_scale.runs import records
from recbole_scale.study.planner import Plan
from recbole_scale.sweep.sweep import finished_rows


@dataclass(frozen=True)
class Folder:
    """Paths of a study."""

    path: Path

    @property
    def plan_file(self) -> Path:
        """The plan, as JSON."""
        return self.path / "plan.json"

    @property
    def rows_file(self) -> str:
        """Rows of the ladder."""
        return str(self.path / "runs.jsonl")

    @property
    def tries_file(self) -> str:
        """Rows of the tries of the rate; apart, for they are no part of the law."""
        return str(self.path / "tries.jsonl")

    @property
    def others_file(self) -> str:
        """Rows to measure up to."""
        return str(self.path / "others.jsonl")

    @property
    def page_file(self) -> Path:
        """The page."""
        return self.path / "page.html"

    def read_plan(self) -> Plan | None:
        """The plan that is there, None where there is none.

        Raises:
            UserError: the file is damaged or of something else.
        """
        if not self.plan_file.is_file():
            return None
        try:
            return Plan.from_json(json.loads(self.plan_file.read_text("utf-8-sig")))
        except (OSError, ValueError, KeyError, TypeError) as failure:
            raise UserError(f"{self.plan_file} is no plan of a study; remove it to plan anew") from failure

    def write_plan(self, plan: Plan) -> None:
        """Keep the plan, whole or not at all."""
        with whole_files(self.plan_file) as (file,):
            file.write((json.dumps(plan.as_json(), indent=1) + "\n").encode())

    def add_others(self, rows: list[Row]) -> None:
        """Rows of other models, once each."""
        known = {row["run_id"] for row in finished_rows(self.others_file)}
        for row in rows:
            if row["run_id"] not in known:
                records.append_row(self.others_file, row)
