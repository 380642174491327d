"""``make test-pythons``: what it writes, and that a step which fails is named and leaves no row."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MAKEFILE = """
setup:
	mkdir -p $(VENV)/bin && ln -sf $(PYTHON) $(VENV)/bin/python && ln -sf $(CURDIR)/run $(VENV)/bin/run_recbole
setup-test:
	@echo {extras}
test-fast:
	@echo "41 passed in 1.00s" && echo "2 passed, 3 deselected in 1.00s"
"""
RUN = """#!/bin/sh
case "$*" in
  *--dry_run) echo "  time       about 4 min";;
  *) printf 'epoch   0\\nNDCG@10           0.0467  0.0349\\nNLL              6.2689  6.3629\\n';;
esac
"""


@pytest.fixture
def pythons(tmp_path, monkeypatch):
    """The script, in a folder whose commands only say what they would do; of this interpreter's packages."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pythons

    (tmp_path / "tests/helpers").mkdir(parents=True)
    (tmp_path / "tests/helpers/document_commands.py").write_text("print('$ make quickstart\\nmade\\n$ run_recbole')\n")
    (tmp_path / "run").write_text(RUN)
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "Makefile").write_text(MAKEFILE.format(extras="all there"))
    monkeypatch.setattr(pythons, "ROOT", tmp_path)
    monkeypatch.setattr(pythons, "VERSIONS", 'print(\'{"ray": "2.50"}\')')
    monkeypatch.setattr(sys, "argv", ["pythons.py", "--pythons", "3.0", "3.99", "--out", str(tmp_path / "rows.jsonl")])
    monkeypatch.setattr(pythons, "find_python", lambda version: sys.executable if version == "3.99" else None)
    return pythons


def test_a_row_says_what_was_installed_trained_and_tested(pythons, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"python": "3.9.1"}\n{"python": "3.100.1"}\n')
    sys.argv += ["--keep", str(tmp_path / "kept")]
    for again in (False, True):  # the second time in the place of the first, its environment used again
        assert pythons.main() == 0
        assert f'"install_seconds": {"null" if again else ""}' in path.read_text()
    assert "Python 3.0: none found, so not tried" in capsys.readouterr().out
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    here = ".".join(map(str, sys.version_info[:3]))
    assert [row["python"] for row in rows] == ["3.9.1", here, "3.100.1"]
    row = rows[1]
    assert row["valid_and_test"] == {"NDCG@10": [0.0467, 0.0349], "NLL": [6.2689, 6.3629]}
    assert (row["readme_commands"], row["passed"], row["tests"]) == (2, 43, "make test-fast")
    assert row["versions"] == {"ray": "2.50"} and row["install_seconds"] is None and row["minutes"] >= 0


@pytest.mark.parametrize("fault", ["a red line", "an extra that takes Ray back", "no time in the plan"])
def test_a_fault_is_named_and_leaves_no_row(pythons, tmp_path, capsys, monkeypatch, fault):
    if fault == "a red line":  # pip prints one and ends with 0
        (tmp_path / "Makefile").write_text(MAKEFILE.format(extras="'ERROR: your Ray is older'"))
    elif fault == "no time in the plan":
        (tmp_path / "run").write_text("#!/bin/sh\n")
    else:
        calls = tmp_path / "calls"
        ray = f"from pathlib import Path; p = Path({str(calls)!r}); seen = p.exists(); p.touch(); "
        monkeypatch.setattr(pythons, "VERSIONS", ray + "print('{\"ray\": \"%s\"}' % ('2.6.3' if seen else '2.50'))")
    assert pythons.main() == 1
    says = {"a red line": "ERROR: your Ray is older", "no time in the plan": "a plan without its time"}
    assert says.get(fault, "an extra changed what was installed: {'ray': '2.50'}, now {'ray': '2.6.3'}") in (
        capsys.readouterr().out
    )
    assert not (tmp_path / "rows.jsonl").exists()
