"""Figures of a study: what they draw is what the rows hold, what they cannot draw they say, and files are whole."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from study_rows_made import SHAPES, WHOLE, full_study, law_of, made_row, made_rows

from recbole_scale.drawing import BLACK, Drawn, as_svg, draw_levels, line_style, new_figure, save, style
from recbole_scale.fit.figures import law_figures, loss_figure, metrics_figure
from recbole_scale.fit.rows import Question
from recbole_scale.fit.study import answer
from recbole_scale.laws.loss import fit_power_law
from recbole_scale.report import figures_curves, figures_study
from recbole_scale.report.report import draw, make_study

QUICK = Question(resamples=100)


def finished(rows):
    return [row for row in rows if row["status"] == "ok" and row["model"] == "ScaledSASRec"]


def lines(drawn: Drawn):
    """(label, x, y) of every labelled line or error bar."""
    (panel,) = drawn.figure.axes
    handles, labels = panel.get_legend_handles_labels()
    found = []
    for handle, label in zip(handles, labels, strict=True):
        line = handle[0] if hasattr(handle, "has_yerr") else handle
        found.append((label, np.asarray(line.get_xdata()), np.asarray(line.get_ydata())))
    return found


@pytest.fixture(scope="module")
def study():
    return make_study(full_study(), Question(resamples=100, predict=("829M",)))


@pytest.fixture(scope="module")
def drawn(study):
    return {one.name: one for one in draw(study)}


def test_a_full_study_has_every_figure(drawn):
    assert list(drawn) == ["law", "metrics", "data", "epochs", "repetition", "aspect", "isoflop"]
    assert all(one.figure is not None and one.caption and not one.skipped for one in drawn.values())


def test_every_figure_is_written_as_png_and_pdf(drawn, tmp_path):
    for name, one in drawn.items():
        assert save(one.figure, tmp_path / "figures", name) == [f"{name}.png", f"{name}.pdf"]
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_bare_rows_give_sentences_instead_of_figures():
    rows = finished(made_rows(seeds=(1,), shapes=SHAPES[:3]))
    bare = [{**row, "evaluations": None, "test_metrics": {}} for row in rows]
    study = make_study(bare, QUICK)
    skipped = {one.name: one.skipped for one in draw(study) if one.figure is None}
    assert set(skipped) == {"metrics", "data", "epochs", "repetition", "aspect", "isoflop"}
    assert all(sentence.endswith(".") for sentence in skipped.values())
    two = make_study(bare[:2], QUICK)
    assert {one.name for one in draw(two) if one.figure is None} >= {"law"}


def test_data_figure_draws_means_and_the_law_of_each_size():
    rows = [made_row(shape, seed, d=int(WHOLE * share)) for shape in SHAPES[1:3] for seed in (1, 2)
            for share in (0.1, 0.3, 1.0)]  # fmt: skip
    laws = {}
    for n in (6144.0, 24576.0):
        group = [row for row in rows if row["n_blocks"] == n]
        laws[n] = fit_power_law([r["unique_interactions"] for r in group], [r["test_nll"] for r in group], resamples=0)
    found = lines(figures_study.data_figure(rows, laws))
    assert len(found) == 2
    for (label, x, y), n in zip(found, (6144, 24576), strict=True):
        assert x.tolist() == [57_000, 171_000, 570_000]
        assert y == pytest.approx([law_of(n, d) for d in x])
        assert f"N = {n / 1000:.3g}K" in label and "alpha = 0.3" in label


def test_epochs_figure_marks_the_best_epoch_of_the_longest_run_on_the_whole_data():
    rows = [made_row((2, 64)), made_row((2, 64), epochs=12, overfit=0.2), made_row((2, 64), d=1000, epochs=30)]
    one = figures_curves.epochs_figure(rows)
    ((label, x, y),) = lines(one)
    assert label == "N = 98.3K" and x.tolist() == list(range(1, 13))
    assert y[-1] == pytest.approx(y.min() + 0.2)
    marks = [line for line in one.figure.axes[0].get_lines() if len(line.get_xdata()) == 1]
    assert [float(mark.get_xdata()[0]) for mark in marks] == [int(y.argmin()) + 1]


def test_repetition_figure_needs_three_schedules():
    rows = [made_row((2, 64), epochs=epochs, test_nll=6 - epochs / 100) for epochs in (2, 5, 10)]
    ((_, x, y),) = lines(figures_curves.repetition_figure(rows))
    assert x.tolist() == [2, 5, 10] and y == pytest.approx([5.98, 5.95, 5.9])
    assert figures_curves.repetition_figure(rows[:2]).figure is None


def test_aspect_figure_joins_shapes_within_two_percent_only():
    near = [made_row(shape, test_nll=nll) for shape, nll in (((1, 90), 5.8), ((2, 64), 5.7), ((8, 32), 5.9))]
    off = made_row((4, 46), test_nll=9.0)  # 101,568: 3.3 % above
    ((label, x, y),) = lines(figures_study.aspect_figure([*near, off]))
    assert x.tolist() == [4, 32, 90] and y.tolist() == [5.9, 5.7, 5.8] and label == "N = 97.9K"
    assert figures_study.aspect_figure([*near[:2], off]).figure is None


def test_isoflop_points_are_read_at_equal_compute():
    flops = np.array([1e9, 2e9, 4e9])
    curves = {1e3: [(flops, np.array([7.0, 6.0, 5.5]))], 1e4: [(10 * flops, np.array([6.5, 5.0, 4.0]))]}
    assert figures_curves.isoflop_points(curves, 2e9) == [(1e3, pytest.approx(6.0))]
    half_way = float(np.sqrt(2e9 * 4e9))
    assert figures_curves.isoflop_points(curves, half_way) == [(1e3, pytest.approx(5.75))]
    assert figures_curves.isoflop_points(curves, 5e9) == []
    both = {**curves, 1e3: [*curves[1e3], (flops * 3, np.array([5.9, 5.8, 5.0]))]}
    assert figures_curves.isoflop_points(both, 3e9)[0][1] == pytest.approx(
        min(5.9, 6.0 - 0.5 * np.log(1.5) / np.log(2))
    )


def test_isoflop_figure_covers_each_budget_with_three_sizes(study):
    one = figures_curves.isoflop_figure(study.ladder)
    for label, x, y in lines(one):
        assert len(x) >= 3 and np.isfinite(y).all()
        budget = float(label.split()[0])
        for n in x:
            rows = [row for row in study.ladder if row["n_blocks"] == n]
            cost = [row["flops_per_interaction"] * WHOLE for row in rows]
            assert min(cost) * 0.9 <= budget <= max(row["flops_total"] for row in rows) * 1.1


def test_the_isoflop_figure_rings_a_best_size_only_between_others():
    """A best size at the end of a line may have a better one beyond it, which that budget does not cover."""
    one = figures_curves.isoflop_figure([made_row(shape, epochs=20) for shape in SHAPES[:5]])
    (panel,) = one.figure.axes
    rings = {float(line.get_xdata()[0]) for line in panel.get_lines() if line.get_markersize() == 11}
    inner = [0 < y.argmin() < len(y) - 1 for _, _, y in lines(one)]
    assert any(inner) and not all(inner)
    assert rings == {x[y.argmin()] for (_, x, y), ringed in zip(lines(one), inner, strict=True) if ringed}
    assert all(len(x) >= 3 for _, x, _ in lines(one))


def test_a_prediction_outside_its_band_is_drawn():
    """Resamples may all lie on one side of the fit, if only by rounding; matplotlib refuses a negative bar."""
    found = answer(made_rows(0.001), Question(resamples=100, predict=("829M",)))

    class Shifted:
        identified = True
        predict = staticmethod(found.law.predict)

        def interval(self, x, level=0.95, *, new_run=False):
            return found.law.predict(x) + 0.1, found.law.predict(x) + 0.2

    with style():
        assert metrics_figure(replace(found, metric_laws={"ndcg@10": Shifted()})).axes


def test_levels_are_lines_near_the_axis_and_names_at_its_edge():
    def drawn(levels):
        with style():
            panel = new_figure(3.0).subplots()
            panel.set_ylim(5.0, 6.0)
            draw_levels(panel, levels)
        return [text.get_text() for text in panel.texts], [line.get_ydata()[0] for line in panel.lines]

    assert drawn({"near": 6.3, "none": None}) == (["near 6.3"], [6.3])
    said, lines = drawn({"uniform": 8.0, "counts": 7.0, "last": 6.3, "in": 5.5})  # 6.3 would lie on the names above
    assert said == ["in 5.5", "\u2191 uniform 8, counts 7,\nlast 6.3"] and lines == [5.5]
    assert drawn({"far": 3.0, "below": 4.9}) == (["\u2193 far 3, below 4.9"], [])


def test_item_knn_is_drawn_where_rows_of_the_data_hold_it():
    found = answer(made_rows(0.001), QUICK)
    own = {"model": "ItemKNN", "status": "ok", "dataset": "made"}
    others = [{**own, "test_metrics": {"ndcg@10": value}} for value in (0.12, 0.14)]
    others.append({**own, "dataset": "another", "test_metrics": {"ndcg@10": 0.9}})

    def said(rows):
        drawn = {one.name: one for one in law_figures(found, rows)}["metrics"]
        return [text.get_text() for panel in drawn.figure.axes for text in panel.texts]

    assert [text for text in said(others) if "ItemKNN" in text] == ["ItemKNN 0.13"] and not said([])


def test_the_law_of_all_runs_is_drawn_where_some_were_held_out():
    for holdout in ((), ("small",)):
        found = answer(made_rows(0.001), Question(resamples=100, holdout=holdout))
        labels = loss_figure(found).axes[0].get_legend_handles_labels()[1]
        assert ("law of all runs, held-out too" in labels) == bool(holdout)


def test_fitted_and_held_out_differ_in_shape_and_colour():
    found = answer(made_rows(0.001), Question(resamples=100, holdout=("small",)))
    figure = loss_figure(found)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    fitted, held = by_label["fitted runs"], by_label["held-out runs"]
    assert len(fitted.get_offsets()) == 15 and len(held.get_offsets()) == 3
    assert len(fitted.get_paths()[0].vertices) != len(held.get_paths()[0].vertices)
    assert not len(held.get_facecolors())
    residuals = figure.axes[1].collections[0].get_offsets()[:, 1]
    assert np.asarray(residuals) == pytest.approx(100 * np.expm1(found.law.residuals), abs=1e-9)


def test_lines_differ_without_colour():
    looks = [line_style(index) for index in range(28)]
    assert len({(look["marker"], look["linestyle"]) for look in looks}) == 28


def test_svg_follows_the_page_and_keeps_text_as_text():
    found = answer([{**row, "dataset": "$a<b>&"} for row in made_rows(0.001)], QUICK)
    (law, *_) = law_figures(found)
    svg = as_svg(law.figure, "one", 'a "label" & <more>')
    root = ElementTree.fromstring(svg.replace("xlink:", ""))
    assert root.attrib["aria-label"] == 'a "label" & <more>'
    assert not {"width", "height"} & set(root.attrib) and "viewBox" in root.attrib
    assert "$a<b>&" in "".join(root.itertext())
    assert "var(--blue)" in svg and "currentColor" in svg
    assert not re.search(r"(fill|stroke): ?#(ffffff|0072b2|000000)", svg, flags=re.IGNORECASE)
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert all(name.startswith("one-") for name in ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= set(ids)


def test_svg_is_the_same_every_time():
    with style():
        figures = [loss_figure(answer(made_rows(0.001), QUICK)) for _ in range(2)]
    assert as_svg(figures[0], "x", "") == as_svg(figures[1], "x", "")
    assert BLACK not in as_svg(figures[0], "x", "")
