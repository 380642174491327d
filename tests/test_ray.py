"""A Ray worker knows our names as soon as it unpickles one of our functions, or RecBole's after them."""

from __future__ import annotations

import sys

import pytest
from conftest import QUICK

import recbole_scale

ray = pytest.importorskip("ray", reason="Ray is not installed (make setup installs it)")


def test_a_run_in_a_ray_worker_equals_one_here(walk):
    here = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)["nll"]
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        settings = {**QUICK, "data_path": str(walk / "dataset")}
        there = ray.get(ray.remote(recbole_scale.run).remote("ScaledSASRec", "walk", config_dict=settings))["nll"]
    finally:
        ray.shutdown()
    assert there == pytest.approx(here, abs=1e-4)  # a worker may have fewer threads


def test_ray_tune_is_found_when_asked_for():
    from recbole_scale.plugin.compat import load_ray_tune

    assert load_ray_tune().__name__ == "ray.tune"


def test_an_old_ray_is_refused_in_one_sentence(monkeypatch):
    from recbole_scale.errors import UserError
    from recbole_scale.plugin import compat

    monkeypatch.setattr(compat, "version", lambda name: {"ray": "2.6.3"}[name])
    with pytest.raises(
        UserError, match=r'Ray 2.6.3 is installed, which .*; pip install -U "ray\[tune\]>=2.50" replaces'
    ):
        compat.load_ray_tune()


def test_a_ray_without_its_tune_is_told_in_one_sentence(monkeypatch):
    from recbole_scale.errors import UserError
    from recbole_scale.plugin.compat import load_ray_tune

    monkeypatch.delattr(ray, "tune", raising=False)
    monkeypatch.setitem(sys.modules, "ray.tune", None)
    with pytest.raises(UserError, match=r'ray.tune cannot be imported; pip install -U "ray\[tune\]>=2.50" mends it'):
        load_ray_tune()
