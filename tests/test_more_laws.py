"""Laws besides the two of the loss give back what they were made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recbole_scale.errors import UserError
from recbole_scale.laws import repeated
from recbole_scale.laws.forms import _count
from recbole_scale.laws.isoflop import isoflop_optima
from recbole_scale.laws.loss import fit_power_law
from recbole_scale.laws.metric_of_loss import fit_metric_of_loss
from recbole_scale.laws.noise import Residuals, _best, noise_of
from recbole_scale.laws.observations import Observations
from recbole_scale.laws.performance import fit_performance_law
from recbole_scale.laws.repeated import _slopes, effective_data, fit_repeated_law


def test_effective_data_is_that_of_the_paper():
    unique, r = 1e6, 15.4  # R* of arXiv 2305.16264
    assert effective_data(unique, 1, r) == pytest.approx(unique)
    assert effective_data(unique, 0.25, r) == pytest.approx(unique / 4)
    assert effective_data(unique, 5, r) == pytest.approx(unique + unique * r * (1 - np.exp(-4 / r)))
    assert effective_data(unique, 1e6, r) == pytest.approx(unique * (1 + r))  # no number of epochs brings more


def test_every_resample_of_the_law_of_repeated_data_is_tried_with_every_r(monkeypatch):
    """Only near the r of the data some would end in a minimum of their own."""
    seen = []
    fit = repeated._fit
    monkeypatch.setattr(repeated, "_fit", lambda logs, y, *rest: seen.append(len(y)) or fit(logs, y, *rest))
    n, epochs = (grid.ravel() for grid in np.meshgrid([1e4, 1e5, 1e6], [1.0, 4.0, 16.0]))
    law = fit_repeated_law(n, np.full(9, 1e6), epochs, 5 + (1e3 / n) ** 0.3 + 0.5 / epochs, resamples=80)
    assert seen.count(80) == len(repeated._REPEATS) and len(law.draws) == 80
    low, high = law.interval(1e7, 1e6, [1.0, 16.0])
    lower, upper = law.interval(1e7, 1e6, [1.0, 16.0], new_run=1)
    assert (lower < low).all() and (upper > high).all()


def test_a_new_run_of_the_law_of_repeated_data_has_the_noise_of_its_own_place():
    n, epochs = (grid.ravel() for grid in np.meshgrid([1e4, 1e5, 1e6], [1.0, 4.0, 16.0]))
    law = fit_repeated_law(n, np.full(9, 1e6), epochs, 5 + (1e3 / n) ** 0.3 + 0.5 / epochs, resamples=80)
    one = {"sigma": np.array([0.01]), "slope": np.array([[-2.0, 1.0]]), "tau": np.array([0.003])}
    law = replace(law, draws=law.draws[:1], noise=replace(law.noise, **one))  # of the law nothing is open
    for place, log_sd in (((1e4, 1.0), 0.5), ((1e6, 1.0), -1.5), ((1e6, 16.0), -0.5), ((1e8, 64.0), -0.5)):
        (low, high), spread = law.interval(place[0], 1e6, place[1], new_run=4), 0.01 * np.exp(log_sd) / 2
        assert np.log(high / low) == pytest.approx(2 * 1.96 * np.hypot(spread, 0.003), rel=0.1)


def test_the_law_of_repeated_data_comes_back():
    n, unique, epochs = (a.ravel() for a in np.meshgrid([1e4, 1e5, 1e6], [1e5, 1e6], [1, 2, 5, 15, 40]))
    data = effective_data(unique, epochs, 8.0)
    loss = 4.0 + (1e4 / n) ** 0.3 + (2e4 / data) ** 0.4
    rng = np.random.default_rng(0)
    law = fit_repeated_law(n, unique, epochs, loss * np.exp(0.0005 * rng.standard_normal(len(n))), resamples=100)
    low, high = law.bands()["repeats"]
    assert low <= 8.0 <= high and low < law.repeats < high and law.identified
    assert law.draws[:, 5].std() < 1.0 and len(np.unique(law.draws[:, 5])) > 90  # between the values scanned
    assert law.predict(1e6, 1e6, 80) == pytest.approx(4.0 + 0.01**0.3 + (2e4 / effective_data(1e6, 80, 8.0)) ** 0.4,
                                                      rel=0.01)  # fmt: skip
    lower, upper = law.interval(1e6, 1e6, 80)
    assert lower < law.predict(1e6, 1e6, 80) < upper
    with pytest.raises(UserError, match="at least 3 different"):
        fit_repeated_law(n, unique, np.full(len(n), 10.0), loss)


def test_data_that_wear_off_at_once_are_told():
    n, unique, epochs = (a.ravel() for a in np.meshgrid([1e4, 1e5, 1e6], [1e5, 1e6], [1, 2, 3, 5]))
    loss = 4.0 + (1e4 / n) ** 0.3 + (2e4 / effective_data(unique, epochs, 0.8)) ** 0.4
    assert fit_repeated_law(n, unique, epochs, loss, resamples=80).repeats == pytest.approx(0.8, rel=0.05)


def test_a_metric_follows_the_loss():
    rng = np.random.default_rng(1)
    sizes = np.repeat([1, 2, 3, 4, 5], 3)
    loss = 6.2 - 0.1 * sizes + 0.02 * rng.standard_normal(15)
    metric = 1 / (1 + np.exp(-(4.0 - 1.1 * loss + 0.01 * rng.standard_normal(15))))
    law = fit_metric_of_loss(loss, metric, sizes)
    slope, intercept = np.polyfit(loss, np.log(metric / (1 - metric)), 1)
    assert (law.a, law.b) == (pytest.approx(intercept), pytest.approx(-slope))
    low, high = law.interval([5.5, 5.9])
    truth = 1 / (1 + np.exp(-(4.0 - 1.1 * np.array([5.5, 5.9]))))
    assert (low <= truth).all() and (truth <= high).all()
    assert law.interval(5.5, new_run=True)[1] > high[0]
    apart, alone = (fit_metric_of_loss(loss, metric, labels) for labels in (None, [f"{run:02}" for run in range(15)]))
    assert np.array_equal(apart.lines, alone.lines)  # without labels every run is a size of its own
    assert not np.array_equal(law.lines, alone.lines)  # with them, runs of one size share its error
    with pytest.raises(UserError, match="at least 4 runs"):
        fit_metric_of_loss([6, 5, 4], [0.1, 0.2, 0.3])


def test_the_performance_law_grows_on_or_peaks():
    x = np.geomspace(1e4, 1e7, 8)
    u = np.log(x / np.exp(np.log(x).mean()))
    grows = fit_performance_law(x, 0.2 + -0.05 * (-0.4 * u - 0.5 * np.exp(-0.4 * u)))
    assert grows.peak is None and grows.predict(1e9) > grows.predict(1e7) and np.isinf(grows.peaks).mean() > 0.9
    assert np.isinf(grows.peak_band[1])
    peaks = fit_performance_law(x, 0.2 + 0.03 * (0.5 * u - 0.5 * np.exp(0.5 * u)))
    assert peaks.k == pytest.approx(0.5, rel=0.1) and peaks.error < 1e-3
    assert peaks.predict(peaks.peak) > max(peaks.predict(peaks.peak / 3), peaks.predict(3 * peaks.peak))
    truth = peaks.middle * 2 ** (1 / 0.5)
    rng = np.random.default_rng(0)
    inside = []
    for seed in range(40):
        noisy = fit_performance_law(x, peaks.predict(x) + 0.0005 * rng.standard_normal(8), resamples=200, seed=seed)
        low, high = noisy.peak_band
        inside.append(low <= peaks.peak <= high)
    assert np.mean(inside) >= 0.85 and low < truth * 2 and high > truth / 2  # 95 % expected of 40
    falls = fit_performance_law(x, 0.2 - 0.01 * (u - u.min()) ** 2)
    assert falls.peak is not None and falls.peak < falls.middle
    with pytest.raises(UserError, match="4 sizes"):
        fit_performance_law([1, 2, 3], [0.1, 0.2, 0.3])
    for sizes, values in (
        ([0, 1, 2, 3], [0.1] * 4),
        ([1, 2, 3, 4], [0.1] * 3),
        ([1, 2, 3, 4], [0.1, 0.2, 0.3, np.nan]),
    ):
        with pytest.raises(UserError, match="equal length, sizes above 0"):
            fit_performance_law(sizes, values)


def test_the_valley_at_equal_flops_is_found_and_has_a_band():
    """At a budget C, L = 4 + (n0 / N)^a + (d0 / D)^b with D = C / (6 N) is lowest where both terms balance."""
    rows = [(n, 6 * n * d, 4 + (1e4 / n) ** 0.3 + (1e5 / d) ** 0.3) for n in np.geomspace(1e4, 1e7, 7)
            for d in np.geomspace(1e4, 1e9, 21)]  # fmt: skip
    n, flops, loss = map(np.array, zip(*rows, strict=True))
    (best,) = isoflop_optima(n, flops, loss, 1e13, noise=0.001)
    assert best.n == pytest.approx(np.sqrt(1e4 / 1e5 * 1e13 / 6), rel=0.35)  # the parabola is only near its floor
    assert best.lower < best.n < best.upper and best.inside == 1.0
    with pytest.raises(UserError, match="no budget"):
        isoflop_optima(n, flops, loss, 1.0, noise=0.001)


def test_draws_of_noise_hold_the_error_of_few_sizes_on_a_grid():
    """Four sizes, two amounts, four numbers of epochs, sizes 0.2 % off: the linearised law at eight times the size."""
    axes = np.meshgrid(np.geomspace(1e4, 1e6, 4), [1e5, 1e6], [1.0, 3.0, 10.0, 30.0])
    n, unique, epochs = (axis.ravel() for axis in axes)
    truth = np.array([4.0, 6.8e5, 0.2, 3e5, 0.3, 8.0])
    slopes, asked = _slopes(truth, n, unique, epochs), _slopes(truth, *np.array([[8e6], [1e6], [30.0]]))
    pull = np.linalg.pinv(slopes).T @ asked[0]
    left = np.eye(len(n)) - slopes @ np.linalg.pinv(slopes)
    logs = np.log(np.column_stack([n, epochs]))
    sizes = np.unique(n, return_inverse=True)[1]
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        error = 0.002 * rng.standard_normal(4)[sizes]
        error += 0.002 * np.exp(-2.9 * (np.log(n / 1e4) / np.log(1e2) - 0.5)) * rng.standard_normal(len(n))
        of = Residuals(left @ error, slopes, (logs - logs.min(axis=0)) / np.ptp(logs, axis=0), sizes)
        by_size, by_run = noise_of(of, 400, rng).errors(of, rng.standard_normal((400, len(n))), rng)
        low, high = np.quantile((by_size[:, sizes] + by_run) @ pull, [0.025, 0.975])
        held += low <= error @ pull <= high
    assert 90 <= held <= 99  # 87 with the prior of a ladder of four sizes


@pytest.mark.parametrize("amount", [0.0, -1.0, np.nan, np.inf])
def test_amounts_of_data_are_above_0(amount):
    n, epochs = np.repeat([1e4, 1e5, 1e6], 3), np.tile([1.0, 4.0, 16.0], 3)
    unique = np.full(9, 1e6)
    unique[4] = amount
    with pytest.raises(UserError, match="unique must be a list of numbers above 0"):
        fit_repeated_law(n, unique, epochs, np.full(9, 5.0))


def test_the_likelihood_is_the_profile_of_a_gaussian():
    # at its best variance, rest / runs, the log likelihood is -(log|V| + runs log(rest / runs)) / 2 and a constant
    by_hand = max(-0.5 * (0.0 + 4 * np.log(3.0 / 4)), -0.5 * (2.0 + 4 * np.log(1.0 / 4)))
    assert _best(np.array([0.0, 2.0]), np.array([3.0, 1.0]), 4) == pytest.approx(by_hand, rel=1e-12)


def test_the_shares_of_a_band_are_those_of_its_draws():
    x = np.repeat([1e3, 4e3, 1.6e4, 6.4e4, 2.6e5], 2)
    noise = 0.002 * np.random.default_rng(3).standard_normal(10)
    law = fit_power_law(x, (5.0 + (9e2 / x) ** 0.25) * np.exp(noise), list(enumerate(x)), resamples=200)
    shares = law.width(1e7)
    own, every = (
        np.subtract(*np.quantile(np.concatenate(draws), (0.975, 0.025)))
        for draws in ([law.fit.forms[0].log_law(law.fit.forms[0].replicates, np.log([[1e7]]))],
                      [form.log_law(form.replicates, np.log([[1e7]])) for form in law.fit.forms])
    )  # fmt: skip
    assert len(law.fit.forms) > 1 and sum(shares.values()) == pytest.approx(1.0)
    assert shares["form"] == pytest.approx(1.0 - (own / every) ** 2, rel=1e-9) and 0 < shares["form"] < 1


def test_another_count_of_size_is_known_at_every_size():
    def parameters(n):
        return n + 40 * np.sqrt(n) + 3000  # matrices, embeddings that grow with the width, the rest

    n = np.array([6e3, 2.4e4, 9.8e4, 3.9e5])
    seen = Observations.check({"x": n}, {"loss": 5 + (9e2 / n) ** 0.25}, None)
    ahead = np.array([1e3, 5e4, 1e7])
    assert np.exp(_count(seen, parameters(n))(np.log(ahead))) == pytest.approx(parameters(ahead), rel=1e-6)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_a_metric_at_its_end_has_no_logit(end):
    metric = np.linspace(0.1, 0.2, 8)
    metric[2] = end
    with pytest.raises(UserError, match="values between 0 and 1"):
        fit_metric_of_loss(np.linspace(6, 5, 8), metric)
