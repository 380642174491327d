"""Scaling laws of the loss: one power law in size or in data, and the joint law in both.

``L(x) = E + (x0 / x)^alpha`` with x the number of parameters or of interactions (Zhang et al., arXiv 2311.11351,
section 3), and ``L(n, d) = E + (n0 / n)^alpha + (d0 / d)^beta`` (Hoffmann et al., arXiv 2203.15556, equation 2).
Plain numpy: no files, no RecBole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws.fit import WIDEST, Fit, percentiles
from recbole_scale.laws.fitting import Array
from recbole_scale.laws.observations import Observations

Self = TypeVar("Self", bound="Law")
RESAMPLES = 1000
_NO_FLOOR = -np.inf
_WHY = {
    "no_band": "there are no more runs than constants, so nothing is left to tell noise from law",
    "not_judged": "no resamples were asked for, so there is no band to judge by",
    "one_line": "n and d grow together in these rows, so their two terms cannot be told apart",
    "flat": "the loss does not fall as size or data grows",
    "edge": "the exponent runs into the end of the scanned range",
    "wide": f"the 95 % band of the exponent spans more than a factor of {WIDEST:g}",
    "unknown_floor": "the 95 % band of E is wider than the whole gain over the sizes measured",
    "floor": "the 95 % band of E reaches 0",
}


@dataclass(frozen=True, repr=False)
class Law:
    """A fitted law. Its bands hold the noise of runs, an error of each size's own, and other forms it might have."""

    fit: Fit = field(repr=False)

    def __repr__(self) -> str:
        bands = self.bands()
        shown = ", ".join(
            f"{name} = {value:.4g}" + (f" [{bands[name][0]:.4g}, {bands[name][1]:.4g}]" if self.fit.errors else "")
            for name, value in self.constants().items()
        )
        return f"{type(self).__name__}({shown}; {self.message})"

    @property
    def identified(self) -> bool:
        """Whether the data fix the constants; when not, predictions inside the data may still be good."""
        return not self.fit.reasons

    @property
    def message(self) -> str:
        """One sentence: 'identified', or 'not identified' and why."""
        if self.identified:
            return "identified"
        return "not identified: " + "; ".join(_WHY[reason] for reason in self.fit.reasons)

    @property
    def residuals(self) -> Array:
        """log(loss / law) of every row, in the order given."""
        return self.fit.residuals

    @property
    def lack_of_fit(self) -> float:
        """p value that the sizes miss the law no more than their runs differ; nan without repeated sizes.

        Where it is small (below 0.01) something other than noise sets the sizes apart, such as unequal tuning or
        another form. The bands know of both; the constants are then those of a law that does not hold exactly.
        """
        return self.fit.lack_of_fit

    @property
    def forms(self) -> tuple[str, ...]:
        """The other forms that the rows do not rule out, which the bands hold as well."""
        return tuple(form.name for form in self.fit.forms[1:])

    def widened(self: Self, factor: float) -> Self:
        """The same law with bands ``factor`` times as wide, as its errors on held-out sizes may ask for."""
        return replace(self, fit=replace(self.fit, widening=self.fit.widening * factor))

    def bands(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Band of every constant by name at probability ``level``; nan without resamples."""
        lower, upper = percentiles(self.fit.constants(self.fit.replicates), level)
        return {name: (float(low), float(high)) for name, low, high in zip(self._names(), lower, upper, strict=True)}

    def constants(self) -> dict[str, float]:
        """The fitted constants by name."""
        return {name: float(getattr(self, name)) for name in self._names()}

    @staticmethod
    def _names() -> tuple[str, ...]:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class PowerLaw(Law):
    """L(x) = E + (x0 / x)^alpha. ``E`` is in the unit of the loss (nats), ``x0`` in that of x."""

    E: float
    x0: float
    alpha: float

    def predict(self, x: ArrayLike) -> Any:
        """Loss at size ``x``, in its shape."""
        return self.fit.predict(x)

    def interval(self, x: ArrayLike, level: float = 0.95, *, new_run: int = 0) -> tuple[Any, Any]:
        """Lower and upper end of the band of the law at ``x``, each in its shape; nan without resamples.

        The band is that of the law; ``new_run`` widens it by the errors of the mean of so many runs of a new size.
        """
        return self.fit.interval(x, level=level, new_run=new_run)

    def width(self, x: float) -> dict[str, float]:
        """Shares of the band's squared width at ``x``: ``noise`` of runs, errors of each ``size``, other ``form``s."""
        return self.fit.width(x)

    def plot(self, axes: Any = None) -> Any:
        """Draw the rows, the law and its band on matplotlib ``axes`` (new ones by default), and return them."""
        import matplotlib.pyplot as plt

        axes = plt.subplots()[1] if axes is None else axes
        x, loss = np.exp(self.fit.seen.logs[:, 0]), np.exp(self.fit.seen.y)
        grid = np.geomspace(x.min() / 1.5, 8 * x.max(), 200)
        (line,) = axes.plot(grid, self.predict(grid), label=f"E = {self.E:.4g}, alpha = {self.alpha:.3g}")
        lower, upper = self.interval(grid)
        if np.isfinite(lower).all():
            axes.fill_between(grid, lower, upper, color=line.get_color(), alpha=0.2, linewidth=0, label="95 % band")
        axes.scatter(x, loss, color=line.get_color(), s=18, label="runs")
        axes.set(xscale="log", xlabel="x", ylabel="loss (nats)")
        axes.legend()
        return axes

    @staticmethod
    def _names() -> tuple[str, ...]:
        return "E", "x0", "alpha"


@dataclass(frozen=True, repr=False)
class JointLaw(Law):
    """L(n, d) = E + (n0 / n)^alpha + (d0 / d)^beta, with n parameters and d interactions."""

    E: float
    n0: float
    alpha: float
    d0: float
    beta: float

    def predict(self, n: ArrayLike, d: ArrayLike) -> Any:
        """Loss at size ``n`` and data ``d``, broadcast together."""
        return self.fit.predict(n, d)

    def interval(self, n: ArrayLike, d: ArrayLike, level: float = 0.95, *, new_run: int = 0) -> tuple[Any, Any]:
        """Lower and upper end of the band of the law, as :meth:`PowerLaw.interval`."""
        return self.fit.interval(n, d, level=level, new_run=new_run)

    def width(self, n: float, d: float) -> dict[str, float]:
        """Shares of the band's squared width at ``n`` and ``d``, as :meth:`PowerLaw.width`."""
        return self.fit.width(n, d)

    def plot(self, axes: Any = None) -> Any:
        """Draw the rows and the law against n, a line for each amount of data, on matplotlib ``axes``; return them."""
        import matplotlib.pyplot as plt

        axes = plt.subplots()[1] if axes is None else axes
        n, d = np.exp(self.fit.seen.logs).T
        grid = np.geomspace(n.min() / 1.5, 8 * n.max(), 200)
        for amount in np.unique(d):
            (line,) = axes.plot(grid, self.predict(grid, amount), label=f"d = {amount:.3g}")
            axes.scatter(n[d == amount], np.exp(self.fit.seen.y[d == amount]), color=line.get_color(), s=18)
        axes.set(xscale="log", xlabel="n", ylabel="loss (nats)")
        axes.legend()
        return axes

    @staticmethod
    def _names() -> tuple[str, ...]:
        return "E", "n0", "alpha", "d0", "beta"


def fit_power_law(
    x: ArrayLike,
    loss: ArrayLike,
    groups: Sequence[Any] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    other_count: ArrayLike | None = None,
) -> PowerLaw:
    """Fit L(x) = E + (x0 / x)^alpha to measured losses, with 95 % bands.

    Summed Huber loss (delta 1e-3) on log residuals; the exponent is scanned and the best points of the scan are
    polished, so the answer depends on no start. The same rows in any order give the same answer.

    Args:
        x: [n] parameters or interactions, above 0, at least 3 different ones
        loss: [n] loss in nats, above 0
        groups: [n] label of the run a row comes from, as (size, seed); rows of a run are resampled together, and None
            makes every row a run
        resamples, seed: resamples behind the bands (0 for none), and the seed of their draws
        other_count: [n] another count of size, such as all parameters where x has those without embeddings: unless the
            rows rule it out, the bands hold a law in that too

    Raises:
        UserError: fewer than 3 sizes, columns of different length, or a row that is not a finite number above 0
    """
    seen = Observations.check({"x": x}, {"loss": loss}, groups)
    return power_law_of(seen, floor=_NO_FLOOR, resamples=resamples, seed=seed, other_count=other_count)


def power_law_of(
    seen: Observations,
    *,
    floor: float,
    resamples: int,
    seed: int,
    ceiling: float = np.inf,
    other_count: ArrayLike | None = None,
) -> PowerLaw:
    """Fit the power law to checked rows whose log E cannot lie below ``floor`` or above ``ceiling``."""
    fit = Fit.to(seen, floor=floor, ceiling=ceiling, resamples=resamples, seed=seed, other_count=other_count)
    return PowerLaw(fit, *map(float, fit.constants(fit.theta)))


def fit_joint_law(
    n: ArrayLike,
    d: ArrayLike,
    loss: ArrayLike,
    groups: Sequence[Any] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> JointLaw:
    """Fit L(n, d) = E + (n0 / n)^alpha + (d0 / d)^beta; the rest is as in :func:`fit_power_law`.

    ``n`` and ``d`` must vary apart from each other (a grid, or several data fractions for each of several sizes);
    where they do not, the answer says that it is not identified.

    Raises:
        UserError: as :func:`fit_power_law`, and fewer than 5 different pairs of n and d
    """
    seen = Observations.check({"n": n, "d": d}, {"loss": loss}, groups)
    pairs = len(np.unique(seen.logs, axis=0))
    if pairs < 5:
        raise UserError(f"a joint law has 5 constants, but these rows hold only {pairs} different pairs of n and d")
    fit = Fit.to(seen, floor=_NO_FLOOR, resamples=resamples, seed=seed)
    return JointLaw(fit, *map(float, fit.constants(fit.theta)))
