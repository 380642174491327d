"""What a Python user meets: a law that shows its bands and draws itself, a run that can be kept quiet."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from recbole_scale import fit_joint_law, fit_power_law

X = np.repeat([1e3, 4e3, 1.6e4, 6.4e4, 2.56e5], 2)
LOSS = 5.0 + (100 / X) ** 0.4 + np.tile([-0.002, 0.002], 5)


def test_a_law_shows_its_constants_with_their_bands():
    law = fit_power_law(X, LOSS)
    shown = re.fullmatch(r"PowerLaw\((.+); (identified|not identified: .+)\)", repr(law))
    assert shown is not None, repr(law)
    told = re.findall(r"(\w+) = ([\d.e+-]+) \[([\d.e+-]+), ([\d.e+-]+)\]", shown[1])
    assert [name for name, *_ in told] == ["E", "x0", "alpha"]
    for name, *numbers in told:
        value, low, high = map(float, numbers)
        assert value == pytest.approx(getattr(law, name), rel=1e-3)
        assert (low, high) == pytest.approx(law.bands()[name], rel=1e-3) and low <= value <= high


def test_a_law_draws_its_points_its_line_and_its_band():
    law = fit_power_law(X, LOSS)
    axes = law.plot()
    (line,) = axes.get_lines()
    grid, drawn = line.get_data()
    np.testing.assert_allclose(drawn, law.predict(grid))
    points, *_ = (found for found in axes.collections if len(found.get_offsets()) == len(X))
    np.testing.assert_allclose(points.get_offsets(), np.stack([X, LOSS], axis=1))
    assert axes.get_xscale() == "log" and len(axes.collections) == 2  # the points and the band
    assert law.plot(axes) is axes  # into a figure of the user's own

    n, d = np.repeat([1e3, 4e3, 1.6e4, 6.4e4], 3), np.tile([1e4, 1e5, 1e6], 4)
    joint = fit_joint_law(n, d, 4.0 + (100 / n) ** 0.4 + (50 / d) ** 0.3)
    assert len(joint.plot().get_lines()) == 3  # a line for each amount of data


def test_a_run_in_a_notebook_writes_what_is_asked_for(walk):
    """A notebook is no terminal: a line an epoch and no bar; nothing with the two settings that docs/api.md names."""
    own = {"n_layers": 1, "hidden_size": 16, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 10, "epochs": 2, "topk": [5, 10]}
    code = (
        "import sys, recbole_scale\n"
        f"recbole_scale.run('ScaledSASRec', 'walk', config_dict={own})\n"
        "print('then', flush=True); print('then', file=sys.stderr, flush=True)\n"
        f"recbole_scale.run('ScaledSASRec', 'walk', config_dict={own | {'show_progress': False, 'state': 'warning'}})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    out, err = (text.split("then\n") for text in (done.stdout, done.stderr))
    assert [out[1], err[1]] == ["", ""]
    assert "\r" not in out[0] + err[0] and "\x1b" not in out[0] + err[0]
    lines = (out[0] + err[0]).splitlines()
    assert sum("epoch   " in line for line in lines) == 2 and len(lines) < 60, "\n".join(lines)
