"""What a reader sees of the challenges: the five figures and the terminal's table, from rows made by hand."""

from __future__ import annotations

import matplotlib.colors
import pytest

from recbole_scale.challenges import figures
from recbole_scale.challenges.figure_parts import looks_of
from recbole_scale.challenges.table import COLUMNS, compared_with, model_of
from recbole_scale.challenges.terminal import as_text

MODELS = {"ScaledSASRec 6.14K": 6144, "ScaledSASRec 98.3K": 98304, "ScaledSASRec 786K": 786432, "GRU4Rec": None}


def row(label, challenge, setting, level, group, metric, value, **more):
    """One row of the table; the smallest model has no gain, and each other one of 50 %."""
    first = label == next(iter(MODELS))
    known = {
        "challenge": challenge, "setting": setting, "level": level, "group": group, "metric": metric, "value": value,
        "n": 1200, "lower": 0.9 * value, "upper": 1.1 * value, "dataset": "made", "model": label.split()[0],
        "n_blocks": MODELS[label], "n_parameters": 1 + list(MODELS).index(label), "run_id": label, "label": label,
    }  # fmt: skip
    gain = {} if first else {"gain": 0.5, "gain_lower": 0.4, "gain_upper": 0.6}
    return {**dict.fromkeys(COLUMNS), **known, **gain, **more}


def cases(challenge):
    """Settings, levels, groups and changes of a challenge."""
    lost = {"change": -0.25, "change_lower": -0.3, "change_upper": -0.2}
    if challenge == "long_tail":
        return [("equal_interactions", None, group, {}) for group in ("all", "G1", "G2", "G3", "G4")]
    if challenge == "cold_start":
        cut = {"last": (5, 10, 20), "all": (5, 10, 20), "short": (10, 20)}
        return [(setting, level, "all", {}) for setting, levels in cut.items() for level in levels]
    if challenge == "multi_domain":
        groups = ("all", "to home_kitchen", "to beauty", "1 domain", "2 domains", "10 domains")
        return [(setting, None, group, {}) for setting in ("mix", "mix_short", "diff") for group in groups]
    if challenge == "robustness":
        lost |= {"noise_seeds": 10}
        return [("clean", 0.0, "all", {}), *((k, r, "all", lost) for k in ("delete", "swap") for r in (0.1, 0.5))]
    steps = [(feed, step, "all", lost if step > 1 else {}) for feed in ("greedy", "truth") for step in (1, 2, 3)]
    return [*steps, ("greedy", None, "all", {}), ("one list", None, "all", {})]


def rows_of(challenge, models=tuple(MODELS)):
    """Rows of every model, with the metrics that figures and table look for."""
    return [
        row(label, challenge, setting, level, group, metric, 0.1 + 0.01 * place, **more)
        for place, label in enumerate(models)
        for setting, level, group, more in cases(challenge)
        for metric in ("ndcg@10", "nll", "recall@window" if challenge == "trajectory" else "coverage@10")
        if metric != "recall@window" or level is None
    ]


DRAW = {
    "long_tail": figures.long_tail_figure,
    "cold_start": figures.cold_start_figure,
    "multi_domain": figures.multi_domain_figure,
    "robustness": figures.robustness_figure,
    "trajectory": figures.trajectory_figure,
}


def texts(figure):
    """All words of a figure, panel by panel."""
    return [
        [t.get_text() for t in (panel.xaxis.label, panel.yaxis.label, panel.title, *panel.get_xticklabels())]
        for panel in figure.axes
    ]


@pytest.mark.parametrize("challenge", DRAW)
def test_every_figure_names_all_models_from_the_smallest_to_the_largest_and_the_baseline_last(challenge):
    figure = DRAW[challenge](rows_of(challenge), "ndcg@10")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(MODELS)
    assert "made" in legend.get_title().get_text()
    shown = [words for words, panel in zip(texts(figure), figure.axes, strict=True) if panel.get_visible()]
    assert all(words[1] for words in shown)  # every panel says what it shows


def test_sizes_go_from_light_to_dark_and_baselines_are_hatched_and_broken():
    looks = list(looks_of(rows_of("long_tail")).values())
    light = [
        0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (matplotlib.colors.to_rgb(x.colour) for x in looks[:3])
    ]
    assert light == sorted(light, reverse=True)
    assert [look.line for look in looks] == ["-", "-", "-", "--"]
    assert [bool(look.hatch) for look in looks] == [False, False, False, True]
    assert looks[3].face == "white" and len({look.marker for look in looks}) == 4


def test_a_model_without_some_cases_keeps_its_look():
    rows = [r for r in rows_of("cold_start") if r["label"] != "ScaledSASRec 6.14K" or r["setting"] == "last"]
    bars = figures.cold_start_figure(rows, "ndcg@10").axes[3].patches
    looks = looks_of(rows)
    drawn = {tuple(bar.get_facecolor()) for bar in bars}
    assert {matplotlib.colors.to_rgba(looks[name].colour) for name in list(MODELS)[1:3]} <= drawn
    assert matplotlib.colors.to_rgba(looks["ScaledSASRec 6.14K"].colour) not in drawn


def test_axes_say_what_gains_and_lengths_are_of():
    long_tail = texts(figures.long_tail_figure(rows_of("long_tail"), "ndcg@10"))
    assert long_tail[0][1] == "NDCG@10" and long_tail[1][1] == "gain over\nScaledSASRec 6.14K"
    assert texts(figures.long_tail_figure(rows_of("long_tail"), "nll"))[1][1] == "NLL against\nScaledSASRec 6.14K"
    cold = texts(figures.cold_start_figure(rows_of("cold_start"), "ndcg@10"))
    assert cold[0][0] == "last items kept of 1,200 long histories"
    assert cold[3][3:] == ["6-10\n1,200", "11-20\n1,200"]  # not "up to 20", which would hold the first group too
    assert cold[4][:2] == ["at most so many last items, all 1,200 cases", "NDCG@10"]
    domains = texts(figures.multi_domain_figure(rows_of("multi_domain"), "ndcg@10"))
    assert [tick.split("\n")[0] for tick in domains[2][3:]] == ["beauty", "home_kitchen"]
    assert [tick.split("\n")[0] for tick in domains[3][3:]] == ["1", "2", "10"]


def test_a_figure_of_one_model_shows_no_gain():
    figure = figures.long_tail_figure(rows_of("long_tail", ["GRU4Rec"]), "ndcg@10")
    assert not figure.axes[1].get_visible()


def test_the_table_has_a_block_for_each_challenge_and_what_is_asked_of_it():
    rows = [r for challenge in DRAW for r in rows_of(challenge)]
    blocks = as_text(rows, {model_of(r): r["label"] for r in rows}).split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == [
        "long_tail, equal_interactions, NDCG@10 (gain over ScaledSASRec 6.14K)",
        "cold_start, NDCG@10 (gain over ScaledSASRec 6.14K)",
        "cold_start, Coverage@10 (gain over ScaledSASRec 6.14K)",
        "multi_domain, NDCG@10 (gain over ScaledSASRec 6.14K)",
        "robustness, NDCG@10 (change from the clean history); draws: 10",
        "trajectory, NDCG@10 (change from step 1)",
        "trajectory, the window as a set, NDCG@10 (gain over ScaledSASRec 6.14K)",
        "trajectory, the window as a set, Recall@window (gain over ScaledSASRec 6.14K)",
    ]
    head, first, *_ = blocks[0].split("\n")[1:]
    assert head.split() == ["group", "cases", *" ".join(MODELS).split()]
    assert first.split() == ["all", "1,200", "0.1000", "0.1100", "(+50%)", "0.1200", "(+50%)", "0.1300", "(+50%)"]
    assert blocks[4].split("\n")[4].split()[:5] == ["delete", "0.5", "1,200", "0.1000", "(-25%)"]
    assert max(map(len, "\n".join(blocks).split("\n"))) <= 120
    for r in rows:
        r["draw_error"] = 0.0012 if r["noise_seeds"] else None
    assert "(change from the clean history); draws: 10, ± 0.0012 by them\n" in as_text(
        rows, {model_of(r): r["label"] for r in rows}
    )


@pytest.mark.parametrize("challenge", ["long_tail", "cold_start", "multi_domain"])
def test_the_table_compares_the_coverage_of_groups_by_equally_many_cases(challenge):
    rows = rows_of(challenge)
    apart = [r for r in rows if r["metric"] == "coverage@10" and (r["group"] != "all" or r["setting"] == "short")]
    rows += [{**r, "metric": "coverage@10_rarefied", "value": 0.77} for r in apart]
    blocks = as_text(rows, {model_of(r): r["label"] for r in rows}).split("\n\n")
    (rarefied,) = (block for block in blocks if "Coverage@10_rarefied" in block.split("\n")[0])
    assert rarefied.count("0.7700") == len(apart)
    plain = [block for block in blocks if "Coverage@10 (" in block]
    assert [("short" in block, block.count("\n")) for block in plain] == [(False, 7)] * (challenge == "cold_start")


def test_the_model_that_gains_are_relative_to_is_the_one_without():
    rows = rows_of("long_tail")
    assert compared_with(rows, lambda r: r["label"]) == "ScaledSASRec 6.14K"
    lost = [{**r, "gain": None} for r in rows]  # the smallest scored 0 everywhere
    assert compared_with(lost, lambda r: r["label"]) == "the smallest"
