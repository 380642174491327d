"""Laws beside that of size: in size and data, metrics as a function of the loss, repeated data, what a gain costs."""

from __future__ import annotations

from recbole_scale.drawing import metric_name
from recbole_scale.fit.joint_output import OPTIMUM_HEAD, optimum_row
from recbole_scale.fit.law_output import learnt_nothing
from recbole_scale.fit.more_output import LENGTHS, LENGTHS_BAND, length_table, more_sentences, price_table
from recbole_scale.report.html import bullets, details, paragraph, section, table
from recbole_scale.report.report import Study
from recbole_scale.report.sections import constants_table, counts_of
from recbole_scale.text import show_count


def joint_section(study: Study) -> str:
    """The joint law in size and data, and how to spend a budget by it."""
    law, optimum = study.joint, study.optimum
    rows = [optimum_row(*one) for one in study.measured]
    read_off = details("Best sizes read off finished runs",
                       table(OPTIMUM_HEAD, rows, "A parabola in log N at equal FLOPs"))  # fmt: skip
    if law is None:
        why = f"No joint law in size and data: {study.joint_refusal}."
        return section("Size and data together", paragraph(why, "muted"), read_off)
    parts = [constants_table("L(N, D) = E + (n0 / N)^alpha + (d0 / D)^beta, " + law.message, law)]
    if optimum is not None:
        head = ["FLOPs", "N", "95 % band", "D", "95 % band", "loss", ""]
        body = [
            [
                f"{flops:.1e}", show_count(n), counts_of(n_low, n_high), show_count(d), counts_of(d_low, d_high),
                f"{loss:.3f}", "beyond the runs" if beyond else "",
            ]
            for flops, n, n_low, n_high, d, d_low, d_high, loss, beyond in zip(
                optimum.flops, optimum.n, *optimum.n_band, optimum.d, *optimum.d_band, optimum.loss,
                optimum.extrapolates, strict=True,
            )
        ]  # fmt: skip
        caption = f"Best use of a training budget, every interaction seen {optimum.epochs:.3g} times"
        parts.append(table(head, body, caption))
    return section("Size and data together", *parts, read_off)


def more_section(study: Study) -> str:
    """Further laws of the same rows, behind lines to click on."""
    more, found = study.more, study.deciding
    if more is None or found is None or learnt_nothing(found):
        return ""
    head, *steps = price_table(more.prices)
    first, *lengths = length_table(more, found) or [[]]
    told = [f"{one[:1].upper()}{one[1:]}." for one in more_sentences(more, found)]
    return section(
        "Further laws",
        details("Ranking as a function of the loss, another form of it, repeated data", bullets(told)),
        details(
            f"What longer training gives, {LENGTHS}",
            table(first, lengths, f"{LENGTHS_BAND[:1].upper()}{LENGTHS_BAND[1:]}"),
        ),
        details(f"What {metric_name(str(more.metric))} costs, step by step", table(head, steps)),
        bullets([f"{note[:1].upper()}{note[1:]}." for note in more.notes], "muted"),
    )
