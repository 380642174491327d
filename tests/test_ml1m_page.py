"""Every number in every sentence of the page about ML-1M is one that the committed rows give by other means.

Constants by scipy from the definition of a law, means and differences by numpy; ends of bands are quantiles of the
law's resamples, whose coverage ``benchmarks/laws.py`` measures. A sentence that nothing here explains fails the test,
one without a number as well.
"""

from __future__ import annotations

import html
import json
import re
from functools import cache
from math import log, log2
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize, nnls
from scipy.stats import f as f_test

from recbole_scale.fit.command import rows_of
from recbole_scale.fit.rows import Question
from recbole_scale.model.memory import Setup, memory_plan
from recbole_scale.model.sizes import Shape, heads_of, scaled_shape
from recbole_scale.report.challenges import of_dataset, read_challenges
from recbole_scale.report.options import parser
from recbole_scale.report.page import as_page
from recbole_scale.report.report import draw, make_study
from recbole_scale.text import duration, parse_count, show_count

FOLDER = Path(__file__).parents[1] / "results" / "ml-1m"
COUNTED = FOLDER.parent / "quality" / "ten-minutes.jsonl"
HELD_OUT, ASKED = (786_432, 1_572_864), 9.44e6
NAMES = {"recall": "HR", "ndcg": "NDCG"}
count = show_count


@cache
def made():
    """The study and its page, as ``recbole-scale report`` makes them."""
    question = Question(dataset="ml-1m", holdout=("786K", "1.57M"), predict=("9.44M",), resamples=200)
    rows, others = rows_of(parser().parse_args(["--rows", str(FOLDER / "runs.jsonl"), "--others", str(COUNTED)]))
    study = make_study(rows, question, more_models=others)
    challenges = of_dataset(read_challenges(FOLDER / "challenges" / "challenges.jsonl"), "ml-1m")
    return study, as_page(study, draw(study), challenges)


def read(path):
    """Finished rows of the data, without anything of ours."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["dataset"] == "ml-1m" and row.get("status", "ok") == "ok"]


@cache
def every_row():
    return read(FOLDER / "runs.jsonl")


ROWS = [row for row in every_row() if row["unique_interactions"] == 982_089]
SIZES = sorted({row["n_blocks"] for row in ROWS})
SMALL, NOW, THEN = SIZES[0], SIZES[-1], 10 * SIZES[-1]
LARGEST = max(ROWS, key=lambda row: row["flops_total"])


def of(n, name="test_nll", rows=ROWS):
    """Values at a size of a column or a test metric."""
    return [row[name] if name in row else row["test_metrics"][name] for row in rows if row["n_blocks"] == n]


def mean(n, name="test_nll"):
    return float(np.mean(of(n, name)))


@cache
def law(name="test_nll", fitted=tuple(SIZES)):
    """(E, x0, alpha) of a loss, or of 1 / m for a metric m, by scipy from the definition."""
    x, y = np.array([(row["n_blocks"], *of(row["n_blocks"], name, [row])) for row in ROWS if row["n_blocks"] in fitted],
                    dtype=float).T  # fmt: skip
    low, high = -np.inf, np.inf
    if name != "test_nll":
        y, low = 1 / y, 0.0
        high = min(np.log(y[x == n]).mean() for n in fitted)  # a limit not below what a size has reached

    def objective(p):
        r = np.abs(np.log(y) - np.logaddexp(np.clip(p[0], low, high), p[1] - p[2] * np.log(x / 1e5)))
        return 1e6 * np.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum()

    options = {"xatol": 1e-10, "fatol": 1e-10, "maxiter": 9_000, "maxfev": 9_000}
    floor = np.log(y.min()) - 0.01
    starts = [(floor, np.log(y.min()) - 4, alpha) for alpha in (0.3, 0.6, 1.0)]
    best = min((minimize(objective, s, method="Nelder-Mead", options=options) for s in starts), key=lambda f: f.fun)
    E, a, alpha = np.clip(best.x[0], low, high), best.x[1], best.x[2]
    return float(np.exp(E)), float(1e5 * np.exp(a / alpha)), float(alpha)


def at(n, name="test_nll", fitted=tuple(SIZES)):
    E, x0, alpha = law(name, fitted)
    value = E + (x0 / n) ** alpha
    return value if name == "test_nll" else 1 / value


def ends(draws, form):
    """A band as the page writes it."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{low:{form}} to {high:{form}}"


def cost(n):
    """Training FLOPs of one interaction: 6 n, and a nonnegative mix of sqrt(n) and a constant."""
    sizes, flops = np.array([(row["n_blocks"], row["flops_per_interaction"]) for row in ROWS], dtype=float).T
    columns = np.column_stack([np.sqrt(sizes), np.full(len(sizes), 1e3)])
    mix, _ = nnls(columns / flops[:, None], (flops - 6 * sizes) / flops)
    return 6 * n + mix @ [np.sqrt(n), 1e3]


def hours(n):
    """Of one run at the speed of the largest, which saw as many interactions."""
    flops = np.mean(of(n, "flops_per_interaction")) if n in SIZES else cost(n)
    return flops * LARGEST["interactions_seen"] / LARGEST["flops_total"] * LARGEST["seconds_train"] / 3600


def shape(n):
    layers, width = next(((row["n_layers"], row["d_model"]) for row in ROWS if row["n_blocks"] == n),
                         scaled_shape(n, LARGEST["n_layers"], LARGEST["d_model"]))  # fmt: skip
    return Shape(layers, width, heads_of(width), 4 * width, LARGEST["n_items"], 50)


def serving(n):
    """Milliseconds a user, from the size that ranked the test users at the nearest cost."""

    def work(n):
        one = shape(n)
        blocks = 50 * one.n_layers * (24 * one.d_model**2 + 4 * 50 * one.d_model)
        return blocks + 2 * one.d_model * one.n_items

    timed = [row for row in ROWS if row.get("seconds_evaluate")]
    near = min(timed, key=lambda row: abs(log(work(row["n_blocks"]) / work(n))))
    return 1000 * near["seconds_evaluate"] / near["n_users"] * work(n) / work(near["n_blocks"])


def memory(n):
    chunks = Setup(tokens=1024, candidates=LARGEST["n_items"], chunk=256, attn_dropout=False, device="cpu")
    return f"{memory_plan(shape(n), chunks).peak / 1e6:.0f} MB"


def half_width(extra):
    """1.96 standard deviations of the linearised law at ten times the size, with ``extra`` runs more, nats."""
    E, x0, alpha = law()
    p = np.array([np.log(E), alpha * np.log(x0), alpha])

    def slopes(sizes):
        def value(q):
            return np.log(np.exp(q[0]) + np.exp(q[1] - q[2] * np.log(np.array(sizes, dtype=float))))

        steps = 1e-5 * np.eye(3)
        return np.array([(value(p + step) - value(p - step)) / 2e-5 for step in steps]).T

    sizes = [row["n_blocks"] for row in ROWS]
    left = [log(row["test_nll"] / at(row["n_blocks"])) for row in ROWS]
    noise = np.sqrt(np.square(left).sum() / (len(ROWS) - 3))
    known = np.vstack([slopes(sizes + extra) / noise, np.diag([1 / 0.5, 1 / 5, 1 / 0.5])])
    return 1.96 * np.linalg.norm(np.linalg.pinv(known).T @ slopes([THEN])[0]) * at(THEN)


def noise_of(groups):
    spare = sum(len(group) - 1 for group in groups)
    return np.sqrt(sum(((np.array(group) - np.mean(group)) ** 2).sum() for group in groups) / spare)


def verdict():
    """The reason with its share of the resamples, and the numbers in the box."""
    draws = made()[0].deciding.metric_laws["recall@10"].draws([NOW, THEN])
    gains = (draws[:, 1] - draws[:, 0]) / log2(10)
    now, then = (1000 * at(n, "recall@10") for n in (NOW, THEN))
    value = (then - now) / log2(10)
    low, high = 1000 * np.quantile(gains, [0.025, 0.975])
    there = 1000 * np.quantile(draws[:, 1], [0.025, 0.975])
    recent = [n for n in SIZES if n >= NOW / 8]
    x = np.log2([n for n in recent for _ in of(n)])
    seen = 1000 * np.polyfit(x, [v for n in recent for v in of(n, "recall@10")], 1)[0]
    error = 1000 * noise_of([of(n, "recall@10") for n in SIZES[2:]]) / np.sqrt(((x - x.mean()) ** 2).sum())
    both = 1000 * made()[0].deciding.metric_laws["recall@10"].draws([recent[0], NOW]) / log2(NOW / recent[0])
    width = np.subtract(*np.quantile(both[:, 1] - both[:, 0], [0.975, 0.025]))
    by_law = 1000 * (at(NOW, "recall@10") - at(recent[0], "recall@10")) / log2(NOW / recent[0])
    remark = ""
    if seen - by_law > 2.5 * max(error, width / 4):  # the law misses what the largest runs have won
        high = max(high, seen + 2 * error)
        there = [now + low * log2(10), now + high * log2(10)]
        remark = (
            f"; each doubling from {count(recent[0])} to {count(NOW)} has won {seen:.1f} more hits in 1,000 visits, "
            "more than the law says there, and the range allows for it"
        )
    assert low < 2 <= high  # hence not known
    share = max(np.mean(gains >= 0.002), np.mean(gains < 0.002))
    reason = (
        f"The runs promise {value:.1f} more hits in 1,000 visits for each doubling up to {count(THEN)} (95 % band "
        f"{low:.1f} to {high:.1f}), and the 2.0 asked for lie within that range{remark}."
    )
    return reason, share, [
        f"Now, at {count(NOW)}: of 1,000 visits, the next item is among the first ten", f"{now:.0f}",
        f"by the law; measured {1000 * mean(NOW, 'recall@10'):.0f}", f"At 10x, {count(THEN)} parameters",
        f"{then:.0f}", f"{there[0]:.0f} to {there[1]:.0f}", f"{then - now:+.0f}",
        f"{low * log2(10):.0f} to {high * log2(10):.0f}", "hits in 1,000 visits",
    ]  # fmt: skip


def worthwhile(fitted=tuple(SIZES)):
    """The size whose doubling wins 0.01 nats."""
    _, x0, alpha = law(fitted=fitted)
    return x0 * (0.01 / (1 - 2**-alpha)) ** (-1 / alpha)


def worthwhile_band():
    """Of every resample the last size, by eighths of a doubling, whose doubling still wins as much."""
    sizes = 2 ** np.arange(log2(1e2), log2(1e14), 1 / 8)
    draws = made()[0].deciding.law.fit.draws(sizes)
    last = [sizes[np.flatnonzero(np.append(True, one[:-8] - one[8:] >= 0.01)).max() - 1] for one in draws]
    low, high = np.quantile(np.maximum(last, sizes[0]), [0.025, 0.975])
    ends = [min(low, worthwhile()), max(high, worthwhile())]
    return " to ".join("more than 10T" if n > 1e13 else count(n) for n in ends)


def error_of_last_step():
    """Two standard errors of the gain of a doubling, from the noise that the law's resamples drew."""
    fit, pair = made()[0].deciding.law.fit, SIZES[-2:]
    sd = np.median(fit.errors.noise.of_runs(fit.seen.places(np.log([[n] for n in pair]))), axis=0)
    variances = [(one * mean(n)) ** 2 / len(of(n)) for one, n in zip(sd, pair, strict=True)]
    return 2 * np.sqrt(sum(variances)) / log2(pair[1] / pair[0])


def without_a_model():
    """The losses of guessing and counting, and rankings by counting, from rows of the same data and split."""
    rows = [row for row in read(COUNTED) if all(row[n] == ROWS[0][n] for n in ("data_fingerprint", "split"))]
    levels = {n: {row[n] for row in rows if row[n] is not None} for n in ("popularity_nll", "markov_nll")}
    (popular,), (markov,) = (levels[name] for name in ("popularity_nll", "markov_nll"))
    ndcg = {row["model"]: row["test_metrics"]["ndcg@10"] for row in rows}
    return (
        f"(Uniform guessing {log(ROWS[0]['n_items']):.3f}, popularity {popular:.3f}, the last item alone {markov:.3f} "
        f"nats. NDCG@10 by counting: Markov {ndcg['Markov']:.4f}, ItemKNN {ndcg['ItemKNN']:.4f}.)"
    )


def answer():
    """Verdict box, first sentence, and how far it pays by the loss."""
    reason, share, numbers = verdict()
    fitted, held = tuple(n for n in SIZES if n not in HELD_OUT), HELD_OUT[-1]
    predicted, seen = at(held, fitted=fitted), mean(held)
    below, above = made()[0].found.law.interval(held, new_run=len(of(held)))
    assert below <= seen <= above  # hence inside its band
    ndcg = [mean(n, "ndcg@10") for n in (SMALL, NOW)]
    assert not made()[
        0
    ].found.law.identified  # else the first sentence would say what the law of the fitted sizes gives
    low, high = SIZES[-2:]
    return [
        reason, *numbers,
        f"one training run {duration(3600 * hours(NOW))} at {count(NOW)}, {duration(3600 * hours(THEN))} at "
        f"{count(THEN)}; serving a user {serving(NOW):.3g} ms at {count(NOW)}, {serving(THEN):.3g} ms at "
        f"{count(THEN)}; memory of training {memory(NOW)} at {count(NOW)}, {memory(THEN)} at {count(THEN)} "
        "(estimates for this machine).",
        f"{100 * share:.0f} of 100 resamples of the runs say that it does not pay; held out, {count(held)} was "
        f"predicted at {predicted:.3f} nats and measured at {seen:.3f} ({100 * (predicted / seen - 1):+.2f} %), "
        "inside its band.",
        f"On ml-1m, {NOW / SMALL:.0f}x more parameters ({count(SMALL)} to {count(NOW)} without embeddings) lower the "
        f"test loss by {mean(SMALL) - seen:.3f} nats, from {mean(SMALL):.3f} to {seen:.3f}, and take NDCG@10 from "
        f"{ndcg[0]:.4f} to {ndcg[1]:.4f}. {without_a_model()}",
        f"By the loss alone: How far it pays is not settled: by the law not beyond about {count(worthwhile())} "
        f"parameters (95 % band {worthwhile_band()}; {count(worthwhile(fitted))} without the held-out sizes), where "
        f"doubling the parameters lowers the loss by less than 0.01 nats, but the last measured step, {count(low)} to "
        f"{count(high)}, still won {(mean(low) - mean(high)) / log2(high / low):.3f} ± {error_of_last_step():.3f} nats "
        f"a doubling (the law says {(at(low) - at(high)) / log2(high / low):.3f} there).",
    ]  # fmt: skip


def steps(said):
    """What the commands would give, for the sizes that the page names."""
    longer = f"Let {count(NOW)} learn to its end: 30 epochs, about {duration(3600 * 3 * hours(NOW))}."
    told = [longer, f"about {duration(3600 * 3 * hours(NOW))}"]
    for runs, new, size in re.findall(r"(\d+) (?:more runs at|runs of a (new size),) ([\d.]+[KM])", said):
        n = min([SMALL / 4, *SIZES, 4 * NOW], key=lambda n: abs(log(n / parse_count(size))))
        takes, after = duration(3600 * int(runs) * hours(n)), half_width([n] * int(runs))
        what = f"{runs} runs of a new size," if new else f"{runs} more runs at"
        told.append(f"{what} {count(n)}, about {takes}: narrows the band of the loss at {count(10 * NOW)} to "
                    f"about {100 * after / half_width([]):.0f} % of its width.")  # fmt: skip
    return told


def cards():
    draws = made()[0].deciding.law.fit
    E, _, alpha = law()
    constants = draws.constants(draws.replicates)
    fitted, held = tuple(n for n in SIZES if n not in HELD_OUT), HELD_OUT[-1]
    predicted, low, high = made()[0].deciding.predictions[0].loss
    assert predicted == pytest.approx(at(ASKED), abs=1e-4) and low < predicted < high
    flops = [np.mean(of(n, "flops_total")) for n in (NOW, SMALL)]
    return [
        f"{len(SIZES)} sizes, {len(ROWS)} runs", f"{count(SMALL)} to {count(NOW)} parameters",
        f"{noise_of([of(n) for n in SIZES]):.4f} nats", f"{flops[0] / flops[1]:.3g}x",
        f"training FLOPs at {count(NOW)} ({flops[0]:.1e}) against {count(SMALL)}",
        f"alpha = {alpha:.3g}", f"95 % band {ends(constants[:, 2], '.3g')}",
        f"E = {E:.3g} nats", f"floor of the law; 95 % band {ends(constants[:, 0], '.3g')}",
        f"{100 * (at(held, fitted=fitted) / mean(held) - 1):+.2f} %",
        f"predicted {at(held, fitted=fitted):.3f}, measured {mean(held):.3f} at {count(held)}, held out",
        f"{at(ASKED):.3f} nats", f"predicted at {count(ASKED)}, band {low:.3f} to {high:.3f}",
        count(THEN), duration(3600 * hours(THEN)),
    ]  # fmt: skip


def evidence():
    fitted = tuple(n for n in SIZES if n not in HELD_OUT)
    errors = {"the law": [], '"no change since the largest fitted size"': [], "a straight line in log x": []}
    for k in range(3, len(SIZES)):
        seen = SIZES[:k]
        line = np.polyfit(np.log(seen), [mean(n) for n in seen], 1)
        for n in SIZES[k:]:
            told = (at(n, fitted=tuple(seen)), mean(seen[-1]), np.polyval(line, log(n)))
            for name, value in zip(errors, told, strict=True):
                errors[name].append(abs(value - mean(n)))
    banded = [one for one in made()[0].found.rolled_out if one.tells is not None]
    idle = sum(one.lower <= mean(max(n for n in SIZES if n <= one.largest_fitted)) <= one.upper for one in banded)
    skill = ", ".join(f"{name} {np.mean(values):.4f}" for name, values in errors.items())
    se = 1.96 * np.mean([row["test_nll_se"] for row in ROWS if row["n_blocks"] == max(fitted)])
    told = [
        f'Rollout, mean error, nats: {skill}; {idle} of {len(banded)} bands hold "no change" too, which proves little.',
        "unique_interactions is held at 982,089, one of 4 values in the rows; "
        "--where unique_interactions=N holds another",
        f"E and its band hold on these test users; another sample of as many would move it by about ± {se:.3f} nats "
        "(95 %, from the spread over users at the largest size fitted)",
        f"Share of the squared width of the 95 % band of the loss at {count(THEN)}",
    ]
    for metric in ("recall@5", "recall@10", "recall@50", "ndcg@5", "ndcg@10", "ndcg@50"):
        limit = 1 / law(metric, fitted)[0]
        passed = next(n for n in HELD_OUT if mean(n, metric) > limit)
        name, _, k = metric.partition("@")
        told.append(f"no law for {NAMES[name]}@{k}: its limit, {limit:.4f}, lies below {mean(passed, metric):.4f}, "
                    f"measured at {count(passed)}")  # fmt: skip
    return told


def further():
    """Metrics as a function of the loss over every run, and the second form of their laws."""
    told = []
    parts = [len({(row["n_layers"], row["d_model"]) for row in every_row()}),
             len({row["unique_interactions"] for row in every_row()})]  # fmt: skip
    runs = f"{len(every_row())} runs of {parts[0]} sizes, {parts[1]} amounts of data and 1 number of epochs"
    for metric in ("ndcg@10", "recall@10"):
        name = f"{NAMES[metric.split('@')[0]]}@10"
        x, m = np.array([(row["test_nll"], row["test_metrics"][metric]) for row in every_row()]).T
        slope, constant = np.polyfit(x, np.log(m / (1 - m)), 1)
        spread = np.sqrt(((np.log(m / (1 - m)) - constant - slope * x) ** 2).sum() / (len(x) - 2))
        middle = 1 / (1 + np.exp(-constant - slope * at(ASKED)))
        curve, (_, *losses) = made()[0].more.of_loss[metric], made()[0].deciding.predictions[0].loss
        logits = [curve.lines[:, 0] - curve.lines[:, 1] * loss + curve.errors for loss in losses]
        low, high = (
            1 / (1 + np.exp(-np.quantile(one, q))) for one, q in zip(logits[::-1], (0.025, 0.975), strict=True)
        )
        told.append(
            f"{name} follows the loss: logit = {constant:.3f} - {-slope:.3f} * loss, over {runs} "
            f"(runs lie {spread:.3f} off it in logits); at {count(ASKED)} {middle:.4f} [{low:.4f}, {high:.4f}]."
        )
        n, value = np.array([(row["n_blocks"], row["test_metrics"][metric]) for row in ROWS], dtype=float).T
        u = np.log(n) - np.log(n).mean()
        grid = [-np.geomspace(3, 0.02, 60), np.geomspace(0.02, 3, 60)]
        fits = []
        for k in np.concatenate(grid):
            columns = np.column_stack([np.ones_like(u), k * u - np.exp(k * u) / 2])
            line = np.linalg.lstsq(columns, value)[0]
            fits.append((((value - columns @ line) ** 2).mean(), k, line[1]))
        square, k, w = min(fits)
        peak = f"peaks at {count(np.exp(np.log(n).mean()) * 2 ** (1 / k))}" if w > 0 else "grows on"
        second = made()[0].more.performance[metric][0]
        low, high = np.quantile(second.peaks, [0.025, 0.975], method="nearest")
        if np.isfinite(low):
            peak += f" (95 % band of the peak {count(low)} to {count(high) if high < 1e13 else 'more than 10T'})"
        hill = np.sqrt(np.mean([(v - at(size, metric)) ** 2 for size, v in zip(n, value, strict=True)]))
        apart = max(square, hill**2) / min(square, hill**2)
        assert f_test.sf(apart, len(n) - 3, len(n) - 3) >= 0.025
        alike = "; the runs do not tell the two apart"
        told.append(f"{name} by the Performance Law, another form: {peak}; it misses the runs by "
                    f"{np.sqrt(square):.4f}, the saturating law by {hill:.4f} (root mean square){alike}.")  # fmt: skip
    return told


def missing():
    single = ", ".join(count(n) for n in SIZES if len(of(n)) == 1)
    widest = max((n for n in SIZES if len(of(n)) > 1), key=lambda n: np.std(of(n), ddof=1) / mean(n))
    sd = np.std(of(widest), ddof=1)
    drops = {n: [row["evaluations"][-2]["valid_nll"] - row["evaluations"][-1]["valid_nll"] for row in ROWS
                 if row["n_blocks"] == n] for n in SIZES}  # fmt: skip
    falling = ", ".join(count(n) for n in SIZES if np.median(drops[n]) > 0.005)
    return [
        f"One seed only at {single}: nothing tells their noise there; two more seeds each would.",
        f"Seeds differ most at {count(widest)}: a standard deviation of {sd:.4f} nats "
        f"({100 * sd / mean(widest):.2f} % of the loss) over {len(of(widest))} runs.",
        f"At {falling} the valid loss still fell in the last epoch by over 0.005 nats: longer runs may lower it, and a "
        "law fitted to it may be too pessimistic there.",
        "Whether 10 epochs are enough is not known: no size was trained for twice as many as well.",
    ]


def challenges():
    rows = read(FOLDER / "challenges" / "challenges.jsonl")
    cells = {row["n_blocks"]: row for row in rows if row["n_blocks"] and row["setting"] == "last"
             and row["level"] == 5 and row["metric"] == "coverage@10"}  # fmt: skip
    covered = {n: row["value"] for n, row in cells.items()}
    values = ", ".join(f"{covered[n]:.3f} at {count(n)}" for n in sorted(covered))
    large = cells[max(covered)]
    gain = covered[max(covered)] / covered[min(covered)] - 1
    assert large["gain_lower"] < gain < large["gain_upper"]  # of a paired bootstrap over users
    drawn = [row for row in rows if row["noise_seeds"]]
    (draws,) = {row["noise_seeds"] for row in drawn}
    assert not any(row.get("draw_error") for row in drawn)
    models = {(row["model"], row["n_blocks"]) for row in rows}
    assert len(models) == len({row["run_id"] for row in rows})  # a training run each
    cases: dict[tuple, set] = {}
    for row in rows:
        place = tuple(row[name] for name in ("challenge", "setting", "level", "group", "metric"))
        cases.setdefault(place, set()).add(row["n"])
    assert all(len(counts) == 1 for counts in cases.values())  # the same cases
    return [
        f"Of the last 5 items alone the lists cover {values} of all items: {gain:+.0%} from the smallest size to the "
        f"largest ({large['gain_lower']:+.0%} to {large['gain_upper']:+.0%}).",
        f"Noise is drawn {draws} times, which leaves an unknown error.",
        "Every model is scored on the same cases of ml-1m; whiskers are 95 % intervals over users, and gains are "
        "relative to the smallest model. Each model was trained once; the intervals do not hold what another training "
        "seed would change.",
    ]


def known_by(fit, name):
    """What the resamples of a law say of its constants, in the words of the page."""
    exponents, E = fit.replicates[:, 2::2], np.exp(fit.replicates[:, 0])
    if np.mean((exponents >= 30 / 1.01) | (exponents <= 0.01 * 1.01)) > 0.025:
        return f"{name}not identified: the exponent runs into the end of the scanned range"
    low, high = np.quantile(exponents, [0.025, 0.975], axis=0)
    if (high / low).max() > 5:
        return f"{name}not identified: the 95 % band of the exponent spans more than a factor of 5"
    assert np.subtract(*np.quantile(E, [0.975, 0.025])) < np.ptp([row["test_nll"] for row in ROWS])
    return f"{name}identified"


def without_numbers():
    """Claims that name no number."""
    study = made()[0]
    by_n = {n: [row for row in every_row() if row["n_blocks"] == n] for n in SIZES}
    assert max(len({row["settings"]["epochs"] for row in rows}) for rows in by_n.values()) < 3
    assert max(len({(row["n_layers"], row["d_model"]) for row in rows}) for rows in by_n.values()) < 3
    names = dict.fromkeys(name for row in ROWS for name in row["settings"])
    of_size = ("n_layers", "hidden_size", "inner_size", "n_heads", "seed", "size", "data_fraction")
    apart = [n for n in names if len({str(row["settings"].get(n)) for row in ROWS}) > 1 and n not in of_size]
    (epochs,) = {row["settings"]["epochs"] for row in every_row()}
    return [
        f"Best use of a training budget, every interaction seen {epochs} times",
        "Not known yet",  # verdict() holds the band against what is asked for
        known_by(study.found.law.fit, "L(N) = E + (x0 / N)^alpha, "),
        known_by(study.deciding.law.fit, "Held-out sizes fitted too: "),
        known_by(study.joint.fit, "L(N, D) = E + (n0 / N)^alpha + (d0 / D)^beta, "),
        "Repeating the data: No size was trained for 3 or more different --epochs (each with its own schedule).",
        "No law of repeated data: it needs finished schedules of 3 or more different numbers of epochs.",
        "Shape at equal size: No N was trained in 3 or more shapes; recbole-scale sweep --equal_n 98.3K makes them.",
        f"the runs were not all given the same {', '.join(apart)}: tuning is part of what the law shows",
        # evidence() has a reason for each
        "Ranking quality against size: No ranking metric has a law of the fitted sizes; each has its reason in a note.",
    ]


# headings, labels and what tells how a figure or a table is to be read; nothing of these runs
CAPTIONS = [re.sub(r"\s+", " ", one) for one in re.split(r"\n(?! )", """
A doubling must win
A parabola in log N at equal FLOPs
Beside other models
Best sizes read off finished runs
Circles: runs; diamonds: held-out runs. Shaded: 95 % band of the verdict, dashed beyond the largest run.
Cold-start users
Cold-start users: Coverage@10
Cold-start users: NDCG@10
Constants and predictions
Copy
Data, epochs, shape and compute
Drawn as the loss is.
Each line has one training budget, softmax included; its best size is ringed where it lies between others. Losses in
  the middle of a run are read off its curve, before its learning rate has come down, so they are somewhat high, and
  more so for the large sizes.
Equal compute
Further laws
HR@10: how often the next item is among the first ten
Held out (95 % band of the mean of as many runs; error above 0: predicted too high)
Held-out size and rollouts
How sure:
Long-tail items
Long-tail items: NDCG@10
Loss against data
Loss against size
Loss per epoch
Means over seeds; all trainable parameters, embeddings included; budgets may differ between models; filtered: without
  the items that a user had, as many published tables are; of scores: a softmax over scores that no likelihood was
  trained for; -log p: of probabilities that the model gives
Means over seeds; loss is test_nll in nats, sd its standard deviation between seeds
Move the size
NDCG@10 of every model unless an axis says otherwise.
Points: means over seeds. Lines: L = E + (D0 / D)^alpha of each size; shaded: its 95 % band, if identified.
Predictions for one run, and the training cost
Predictions, held-out sizes fitted too
Ranking as a function of the loss, another form of it, repeated data
Residuals, and the law of every ranking metric
Robustness to noise in the history
Robustness to noise in the history: NDCG@10
Rollout: the smallest sizes fitted, every larger one predicted
Scaling report: ml-1m, ScaledSASRec
Shaded: 95 % band of the law: noise of its runs, an error of each size's own, other forms it might have. Dashed:
  beyond the fitted sizes. Dotted: what needs no model. Filled circles are fitted, open diamonds were held out. Below:
  what the law leaves over.
Size and data together
Size:
Sizes
Solid: valid loss; the mark is the best epoch, whose weights are tested. Dotted: train loss (with dropout). Valid
  rising while train falls is overfitting. The longest run of each size; the highest losses are cut off.
The command to run first:
The law and its evidence
Training budget:
What NDCG@10 costs, step by step
What else is missing
What it costs:
What would sharpen the estimate next
Where size helps: the challenge tasks
Where the width of the band comes from
Won by that
Would a bigger model pay on ml-1m?
parameters
predicted; 95 % band of the law
standard deviation between seeds
""".strip())]  # fmt: skip


def sentences(page):
    """Text outside figures, tables and commands, piece by piece; of the glossary and the settings only tables tell."""
    page = page[: page.index("<h2>Words")]
    page = re.sub(r"(?s)<(svg|script|style|code|table|head)\b.*?</\1>", "", page)
    tags = "p|li|h\\d|div|summary|section|figcaption|ul|ol|label|b|details|figure|main|header|output|span"
    parts = re.split(rf"</?(?:{tags})\b[^>]*>", page)
    told = (re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", part))).strip() for part in parts)
    return [one for one in told if one]


# words that hold a digit without telling a number of these runs
LITERAL = re.compile(
    r"(HR|NDCG|Coverage)@10|ml-1m|95 %|[xndDN]0|more than a factor of 5|3 or more different|3 or more shapes"
    r"|--equal_n 98\.3K|error above 0"
)


def test_every_sentence_is_explained_by_the_rows_or_is_a_caption():
    said = sentences(made()[1])
    explained = {*answer(), *steps(" ".join(said)), *cards(), *evidence(), *further(), *missing(), *challenges(),
                 *without_numbers()}  # fmt: skip
    assert [one for one in said if one not in explained and one not in CAPTIONS] == []
    assert explained <= set(said) and set(CAPTIONS) <= set(said)
    assert [one for one in CAPTIONS if re.search(r"\d", LITERAL.sub("", one))] == []
