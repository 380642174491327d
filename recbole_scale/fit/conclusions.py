"""What a ladder supports before its law is read: whether anything was learnt, and what an open law still tells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.special

from recbole_scale.fit.references import COUNTING, GUESSING, LAST_ITEM, reference_losses
from recbole_scale.fit.rows import Row
from recbole_scale.fit.sizes import Ends, ends_of, size_means
from recbole_scale.fit.tables import number
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.laws.metrics import MetricLaw
from recbole_scale.laws.observations import MIN_SIZES
from recbole_scale.text import show_count

AHEAD = 10.0  # times the largest size, where a law that is not identified is read
LEARNT = 0.1  # nats below uniform guessing that show that something was learnt
LEARN_FIRST = "Train longer before asking about size."


def unlearnt(rows: Sequence[Row], loss: float) -> str:
    """That a loss is no better than guessing or counting, as a clause; empty where it is better or nothing is known."""
    known = reference_losses(rows)
    guessing, counting = known.get(GUESSING), known.get(COUNTING)
    if guessing is not None and loss > guessing - LEARNT:
        return f"its loss, {loss:.3f} nats, is that of guessing among all items ({guessing:.3f})"
    if counting is not None and loss > counting:
        return f"its loss, {loss:.3f} nats, is not below that of popularity ({counting:.3f})"
    return ""


def means_along(rows: Sequence[Row], x: str, column: str) -> list[tuple[float, float, int]]:
    """Every value of ``x`` with the mean of a column or test metric there and its runs, smallest first."""
    values: dict[float, list[float]] = {}
    for row in rows:
        value = row.get(column, (row.get("test_metrics") or {}).get(column))
        if isinstance(value, int | float):
            values.setdefault(float(row[x]), []).append(float(value))
    return [(size, float(np.mean(values[size])), len(values[size])) for size in sorted(values)]


def unlearnt_smallest(rows: Sequence[Row], x: str, loss: str) -> str:
    """That the runs of smallest ``x`` have not learnt yet, as a clause; empty where they have."""
    smallest, mean, _ = means_along(rows, x, loss)[0]
    nothing = unlearnt(rows, mean)
    what = "amount of data" if x == "unique_interactions" else "size"
    return f"the smallest {what} ({show_count(smallest)}) has not learnt yet: {nothing}" if nothing else ""


def past_the_best(rows: Sequence[Row], x: str, loss: str) -> Ends | None:
    """The sizes of a ladder whose largest is worse than another by more than its runs differ; None where it is not."""
    if x != "n_blocks":
        return None
    ends = ends_of(size_means(rows, loss, None))
    return ends if ends.noise is not None and ends.over_the_top else None


def why_not_told(rows: Sequence[Row], x: str, loss: str, size: float) -> str:
    """Why the rows let no law speak of a size, as a clause; empty where it may."""
    if unlearnt_smallest(rows, x, loss):
        return "the smallest has not learnt yet"
    ends = past_the_best(rows, x, loss)
    if ends is None or size <= ends.best.n:
        return ""
    return f"{show_count(ends.large.n)} is already worse than {show_count(ends.best.n)}, and the law only falls"


def past_sentence(rows: Sequence[Row], x: str, loss: str) -> str:
    """That the largest size is worse than another one, and what to do about it, as a sentence; else empty."""
    ends = past_the_best(rows, x, loss)
    if ends is None:
        return ""
    sizes = [size for size, *_ in means_along(rows, x, loss)]
    beyond = ",".join(show_count(size) for size in sizes if size > ends.best.n)
    enough = sum(size <= ends.best.n for size in sizes) >= MIN_SIZES
    return (
        f"The largest size, {show_count(ends.large.n)}, is worse than {show_count(ends.best.n)}, by "
        f"{ends.large.loss - ends.best.loss:.3f} nats: no power law holds past that"
        f"{f'; --holdout {beyond} fits one up to there' if enough else ''}."
    )


def split_clause(rows: Sequence[Row], x: str, loss: str) -> str:
    """That valid and test loss have another best size, as a clause; empty where they agree or rows lack one of them."""
    names = {"best_valid_nll": "valid", "test_nll": "test"}
    if x != "n_blocks" or loss not in names or not all(number(row, name) for row in rows for name in names):
        return ""
    best = {told: min(means_along(rows, x, name), key=lambda one: one[1])[0] for name, told in names.items()}
    if best["valid"] == best["test"]:
        return ""
    said = " and ".join(f"{show_count(size)} by the {told} loss" for told, size in best.items())
    return f"the best size is {said}, so which of the two is better is not settled"


def reference_sentence(rows: Sequence[Row]) -> str:
    """The losses that need no model, as a sentence; empty where rows tell of none."""
    (first, *rest) = [f"{name} {value:.3f}" for name, value in reference_losses(rows).items()] or [""]
    return f"{first[:1].upper()}{', '.join([first[1:], *rest])} nats." if first else ""


def above_last_item(rows: Sequence[Row], best: float) -> str:
    """That the lowest loss is no better than what the last item alone gives, as a sentence; else empty."""
    known = reference_losses(rows).get(LAST_ITEM)
    if known is None or best < known:
        return ""
    return f"No size is better than the last item alone: {best:.3f} against {known:.3f} nats."


def range_against_now(law: PowerLaw | MetricLaw, larger: float, at: float, now: float, runs: int) -> str:
    """The range of a law at a size ``larger`` against the mean of ``runs`` at ``at``, as a clause; empty without one.

    It is a gain, or a loss, where the difference is one with 95 % certainty, the errors of that mean included.
    """
    inner = law.inner if isinstance(law, MetricLaw) else law
    if inner.fit.errors is None:
        return ""
    ahead = law.draws(larger) if isinstance(law, MetricLaw) else law.fit.draws(larger)
    error = inner.fit.errors.noise.of_new_runs(inner.fit.seen.places(np.log([[at]])), runs)[:, 0]
    measured = now * np.exp(error * np.random.default_rng(0).standard_normal(len(error)))
    less, more = percentiles(measured - ahead, 0.95)
    if isinstance(law, MetricLaw):
        less, more = -more, -less
    verdict = "a gain" if less > 0 else "a loss" if more < 0 else "cannot be told from no gain"
    (lower, upper), (form, unit) = law.interval(larger), (".4f", "") if isinstance(law, MetricLaw) else (".2f", " nats")
    half = -scipy.special.ndtri(0.025) * float(np.median(error)) * now
    return f"{lower:{form}} to {upper:{form}}{unit}, now {now:{form}} ± {half:{form}}: {verdict}"
