"""Writes what the documents take from code and rows: docs/rows.md, the README's sizes, the tuned ladder, figures.

python docs/generate.py            # text only; tests compare it
python docs/generate.py --figures  # also docs/images/law-light.png and law-dark.png, from results/ml-1m/runs.jsonl
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STUDY = {"rows": "results/ml-1m/runs.jsonl", "dataset": "ml-1m", "holdout": ("786K", "1.57M")}
LARGEST_FITTED = 12 * 4 * 64**2  # of the laws in results/ml-1m/blind
COUNTED = "results/quality/ten-minutes.jsonl"  # rows of the same data with the losses of counting


def rows_page() -> str:
    """docs/rows.md: every column of a row, from the code that writes it."""
    from recbole_scale.runs.records import COLUMNS

    lines = [f"| `{name}` | {_cell(meaning)} |" for name, meaning in COLUMNS.items()]
    return (
        "# A run is a row\n\n"
        "Every run adds one line to `results/runs.jsonl` (`--results_file=` elsewhere, empty for none): what was\n"
        "asked, what it cost, what came out, on which data, commit and machine. Rows are safe with many writers and\n"
        "against `kill -9`; a failed run is a row too, with its error. Sweeps, fits and pages read rows alone.\n\n"
        "```python\nimport recbole_scale\n\n"
        'rows = recbole_scale.read_rows("results/ml-1m/runs.jsonl")  # a pandas frame\n'
        'print(rows[["size", "n_blocks", "test_nll", "seed"]].head())\n```\n\n'
        "This page is written by `python docs/generate.py` from `recbole_scale/runs/records.py`;\n"
        "`recbole-scale sweep --columns` prints the same.\n\n"
        "| column | meaning |\n|---|---|\n" + "\n".join(lines) + "\n"
    )


def _cell(text: Any) -> str:
    return str(getattr(text, "meaning", text)).replace("|", "\\|")


def sizes_table() -> str:
    """The README's six sizes: shape, planned memory, and the time of the paper's epochs on ML-1M where it was timed."""
    from recbole_scale.model.memory import MIB, Setup, memory_plan
    from recbole_scale.model.sizes import SIZE_NAMES, Shape, load_size
    from recbole_scale.text import show_count

    timed = [json.loads(line) for line in (ROOT / "results" / "throughput_sizes.jsonl").read_text().splitlines()]
    speed = {row["system"].split()[-1]: row["targets_per_second"] for row in timed}
    targets = 982_131  # of one epoch of ML-1M
    lines = [
        "| `--size` | N = 12 L d² | layers x width, heads | memory, 3,706 items | its epochs on ML-1M, two cores |",
        "|---|---|---|---|---|",
    ]
    for name in SIZE_NAMES:
        size = load_size(name)
        shape = Shape(
            n_layers=size["n_layers"], d_model=size["hidden_size"], n_heads=size["n_heads"],
            inner_size=size["inner_size"], n_items=3706, max_length=50,
        )  # fmt: skip
        plan = memory_plan(shape, Setup(tokens=size["train_batch_size"], candidates=3706, chunk=8 * MIB // (4 * 3706)))
        hours = (
            f"{size['epochs']} epochs, {_hours(size['epochs'] * targets / speed[name])}"
            if name in speed
            else "not timed"
        )
        n = 12 * size["n_layers"] * size["hidden_size"] ** 2
        gib = plan.peak / MIB / 1024
        lines.append(
            f"| {name} | {show_count(n)} | {size['n_layers']} x {size['hidden_size']}, {size['n_heads']} | "
            f"{f'{gib:.1f} GiB' if gib >= 1 else f'{plan.peak / MIB:.0f} MiB'} | {hours} |"
        )
    return "\n".join(lines)


def tuned_tables() -> tuple[str, str]:
    """docs/scaling.md: the tuned ladder of ML-1M by size and epochs; and what was predicted of its large sizes."""
    from collections import defaultdict
    from statistics import mean

    from recbole_scale.text import show_count

    folder = ROOT / "results" / "ml-1m"
    rows = [json.loads(line) for line in (folder / "tuned.jsonl").read_text("utf-8").splitlines()]
    runs: dict[int, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: (row["n_blocks"], row["epochs"], row["seed"])):
        runs[row["n_blocks"]][row["epochs"]].append(row)
    lengths = sorted({row["epochs"] for row in rows})
    common = max(epochs for epochs in lengths if all(epochs in of_size for of_size in runs.values()))
    table = [
        "| shape | N | rate, of how many | "
        + " | ".join(f"{epochs} epochs" for epochs in lengths)
        + f" | NDCG@10, {common} |",
        "|---" * (len(lengths) + 4) + "|",
    ]
    blind = [
        "| shape | epochs | predicted for one run | measured | off by | no change since 4 x 64 |",
        "|---" * 6 + "|",
    ]
    for n, of_size in runs.items():
        one = of_size[lengths[0]][0]
        cells = []
        for epochs in lengths:
            losses = [row["test_nll"] for row in of_size.get(epochs, [])]
            cells.append(f"{mean(losses):.3f} ({', '.join(f'{loss:.3f}' for loss in losses)})" if losses else "")
        last = [row["test_metrics_ranking"]["ndcg@10"] for row in of_size[common]]
        shape = f"{one['n_layers']} x {one['d_model']}"
        tried = f"{one['tuning']['learning_rate']:g}, {len(one['tuning']['valid_nll'])}"
        table.append(f"| {shape} | {show_count(n)} | {tried} | {' | '.join(cells)} | {mean(last):.3f} |")
        for epochs in of_size:
            law = folder / "blind" / str(epochs) / "law.json"
            told = json.loads(law.read_text("utf-8"))["predictions"] if law.is_file() else []
            before = runs[LARGEST_FITTED][epochs]
            for value, low, high in (found["loss"] for found in told if found["x"] == n):
                losses = [row["test_nll"] for row in of_size[epochs]]
                blind.append(
                    f"| {shape} | {epochs} | {value:.3f} [{low:.3f}, {high:.3f}] | "
                    f"{', '.join(f'{loss:.3f}' for loss in losses)} | {100 * (value / mean(losses) - 1):+.2f} % | "
                    f"{100 * (mean(row['test_nll'] for row in before) / mean(losses) - 1):+.2f} % |"
                )
    return "\n".join(table), "\n".join(blind)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"


def write_figures() -> None:
    """The law of the README, for light and for dark pages."""
    from recbole_scale.drawing import style
    from recbole_scale.fit.figures import loss_figure

    with style():
        for mode in ("light", "dark"):
            figure = loss_figure(law())
            if mode == "dark":
                _darken(figure)
            figure.savefig(ROOT / "docs" / "images" / f"law-{mode}.png", dpi=160, facecolor=figure.get_facecolor())


def law() -> Any:
    """The answer that the README tells: fitted to the four smallest sizes of ML-1M, judged on the two largest."""
    from recbole_scale.fit.references import with_references
    from recbole_scale.fit.rows import Question, as_rows
    from recbole_scale.fit.study import answer
    from recbole_scale.runs.records import read_rows

    rows, counted = (as_rows(read_rows(ROOT / name)) for name in (STUDY["rows"], COUNTED))
    rows = with_references(rows, counted)
    return answer(rows, Question(dataset=STUDY["dataset"], holdout=STUDY["holdout"], predict=("9.44M",)))


def _darken(figure: Any) -> None:
    """Ink and paper change places; the colours of the data stay."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    paper, ink = "#0d1117", "#e6edf3"
    figure.set_facecolor(paper)
    for panel in figure.axes:
        panel.set_facecolor(paper)
        panel.tick_params(colors=ink, which="both")
        for spine in panel.spines.values():
            spine.set_color(ink)
    for text in figure.findobj(Text):
        text.set_color(ink)
    for line in figure.findobj(Line2D):
        for part in ("color", "markerfacecolor", "markeredgecolor"):
            if to_hex(getattr(line, f"get_{part}")()) == "#000000":
                getattr(line, f"set_{part}")(ink)
    for lines in figure.findobj(LineCollection):
        if [to_hex(colour) for colour in lines.get_color()] == ["#000000"]:
            lines.set_color(ink)


def between(text: str, name: str, new: str) -> str:
    """``text`` with what stands between the marks of ``name`` replaced."""
    mark = rf"(<!-- {name}: docs/generate.py -->\n).*?(<!-- end -->)"
    return re.sub(mark, lambda found: f"{found[1]}{new}\n{found[2]}", text, flags=re.DOTALL)


def main() -> None:
    """Write everything."""
    (ROOT / "docs" / "rows.md").write_text(rows_page())
    readme = ROOT / "README.md"
    readme.write_text(between(readme.read_text("utf-8"), "sizes", sizes_table()))
    scaling = ROOT / "docs" / "scaling.md"
    ladder, blind = tuned_tables()
    scaling.write_text(between(between(scaling.read_text("utf-8"), "tuned", ladder), "blind", blind))
    if "--figures" in sys.argv:
        write_figures()


if __name__ == "__main__":
    main()
