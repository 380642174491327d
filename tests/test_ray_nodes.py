"""A Ray cluster of two nodes on this machine: what a run gets, what no node holds, and a worker that dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import QUICK

from recbole_scale.errors import UserError
from recbole_scale.runs.ray_cluster import at_once, check_nodes, nodes_of, share_of_a_run
from recbole_scale.runs.records import COLUMNS, read_rows
from recbole_scale.search.folder import trials
from recbole_scale.sweep import on_ray
from recbole_scale.sweep.engine import Gate, RowsFile
from recbole_scale.sweep.sweep import Point

pytest.importorskip("ray", reason="Ray is not installed (make setup installs it)")


@pytest.fixture(scope="module")
def two_nodes():
    """A head with two CPUs, and a node with one CPU and what Ray is told is a GPU."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
    cluster.add_node(num_cpus=1, num_gpus=1, **small)
    cluster.wait_for_nodes()
    with on_ray.joined(cluster.address) as ray:
        yield SimpleNamespace(ray=ray, address=cluster.address)
    cluster.shutdown()


@pytest.mark.slow
def test_shares_are_of_nodes_and_what_none_holds_is_refused(two_nodes, tmp_path):
    nodes = nodes_of(two_nodes.ray)
    assert sorted((node["CPU"], node.get("GPU", 0.0)) for node in nodes) == [(1.0, 1.0), (2.0, 0.0)]
    share = share_of_a_run(nodes, None, None)
    assert share == {"CPU": 1.0, "GPU": 1.0} and at_once(nodes, share, "a run") == 1
    assert at_once(nodes, share_of_a_run(nodes, None, 0.0), "a run") == 3
    with pytest.raises(UserError, match="a run asks for 2 CPU and 1 GPU, but no node of the cluster holds that"):
        at_once(nodes, share_of_a_run(nodes, 2.0, 1.0), "a run")
    check_nodes(two_nodes.ray, [str(tmp_path / "shared")])
    assert list((tmp_path / "shared").iterdir()) == []


@pytest.mark.slow
def test_a_node_that_does_not_see_the_folder_is_named(two_nodes, folder):
    """Workers stand in another folder than this process, so that its own ``/proc/self/cwd`` is not theirs."""
    private = "/proc/self/cwd/private"
    with pytest.raises(UserError, match=f"the node {socket.gethostname()} does not see {private}; runs need a folder"):
        check_nodes(two_nodes.ray, [private])
    assert list((folder / "private").iterdir()) == []


@pytest.mark.slow
def test_a_node_that_cannot_import_the_package_is_named(two_nodes, folder):
    """In real workers, whose package of this name fails as one does that lacks what it needs."""
    broken = folder / "broken" / "recbole_scale"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import pyarrow_of_another_machine\n")
    elsewhere = {"env_vars": {"PYTHONPATH": str(broken.parent)}}
    there = SimpleNamespace(
        nodes=two_nodes.ray.nodes,
        get=two_nodes.ray.get,
        remote=lambda **told: two_nodes.ray.remote(**told, runtime_env=elsewhere),
    )
    with pytest.raises(UserError, match=rf"the node {socket.gethostname()} cannot import recbole_scale there .Module"):
        check_nodes(there, [str(folder)])


@pytest.mark.slow
def test_a_search_by_the_clusters_address_ends_with_its_best_trial(two_nodes, walk):
    space = walk / "my.hyper"
    space.write_text("learning_rate choice [0.001, 0.01]\n")
    settings = [f"--{name}={value}".replace(" ", "") for name, value in {**QUICK, "epochs": 1}.items()]
    words = ["-c", "from recbole_scale.cli import run_hyper_command; run_hyper_command()", "--dataset=walk"]
    words += [
        f"--params_file={space}",
        "--num_samples=2",
        "--no_halving",
        f"--ray_address={two_nodes.address}",
        "--gpus_per_trial=0",
        "--folder=found",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words, *settings], cwd=walk, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ended = trials(str(walk / "found"))
    assert [trial.result()["status"] for trial in ended] == ["finished", "finished"]
    assert all((trial.folder / "pid").exists() for trial in ended) and (walk / "found" / "best.yaml").exists()


@pytest.mark.slow
def test_a_search_on_the_cluster_refuses_what_no_node_holds(two_nodes, tmp_path):
    from recbole_scale.search.plan import SearchPlan
    from recbole_scale.search.ray_search import _resources

    plan = SimpleNamespace(gpus_per_trial=None, cpus_per_trial=2, settings={}, folder=str(tmp_path))
    assert SearchPlan.__dataclass_fields__.keys() >= vars(plan).keys()
    with pytest.raises(UserError, match="a trial asks for 2 CPU and 1 GPU, but no node of the cluster holds that"):
        _resources(plan)
    plan.gpus_per_trial = 0
    assert _resources(plan) == {"cpu": 2, "gpu": 0}


@pytest.mark.slow
def test_the_row_of_a_lost_worker_is_whole_and_names_its_host(two_nodes, tmp_path, monkeypatch):
    def dies(point, cpus, board, rows, until):
        import ray

        ray.get(board.note.remote(point.run_id, socket.gethostname(), 0))
        os._exit(1)

    monkeypatch.setattr(on_ray, "_on_worker", dies)
    point = Point("1x8", "walk", {"seed": 1, "hidden_size": 8}, (), "lost-run", 768, 10, 1, 1.0, digest="d")
    rows = RowsFile(str(tmp_path / "rows.jsonl"))
    options = {"num_cpus": 1, "num_gpus": 0, "max_retries": 0}
    told = []
    on_epoch = lambda point, epoch: told.append(epoch)  # noqa: E731 (an object of the engine's in other runs)
    [(_, row)] = on_ray._run_all(two_nodes.ray, [(point, point)], options, rows, on_epoch, Gate())
    assert row["status"] == "failed" and row["run_id"] == "lost-run" and row["n_blocks"] == 768
    assert row["error"].startswith(f"the worker on {socket.gethostname()} was lost: ")
    [kept] = read_rows(rows.path).to_dict("records")
    assert set(kept) == set(COLUMNS) and kept["run_id"] == "lost-run" and kept["data_digest"] == "d"
