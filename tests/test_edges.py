"""Single values by hand, at the places where a small slip goes unseen by larger tests."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from challenge_data import cases_of, histories_of
from torch import nn
from torch.nn import functional as F

from recbole_scale.challenges.kinds import cold_start, long_tail, robustness
from recbole_scale.challenges.scoring import rank_targets
from recbole_scale.challenges.windows import write_window_data
from recbole_scale.compare.significance import paired_bootstrap
from recbole_scale.data.histories import in_time_order, time_order
from recbole_scale.data.rows import HistoryRows
from recbole_scale.data.splits import split_histories
from recbole_scale.data.windows import Windows, batch_windows, cut_windows, padding_share
from recbole_scale.errors import UserError
from recbole_scale.files import Held, locked, unwritten
from recbole_scale.laws.budget import compute_optimal
from recbole_scale.laws.forms import TWO_TERMS, _other_forms
from recbole_scale.laws.loss import fit_joint_law
from recbole_scale.laws.metrics import fit_metric_law
from recbole_scale.laws.noise import Residuals, _levels, _likelihood, _prior
from recbole_scale.laws.observations import Observations
from recbole_scale.model.layers import DecoderBlock
from recbole_scale.model.sampled_softmax import SampledSoftmax, sampled_cross_entropy
from recbole_scale.model.sizes import Shape, flops_per_interaction
from recbole_scale.model.softmax import ChunkedCrossEntropy
from recbole_scale.training.budget import TimeBudget
from recbole_scale.training.guard import FEWEST, Guard
from recbole_scale.training.optimizers import clipped_norm

# Data -----------------------------------------------------------------------------------------------------------------


def test_a_log_grouped_by_user_but_unsorted_in_time_is_not_in_order():
    assert not in_time_order(np.array([1, 1, 2]), np.array([2, 1, 3]))
    assert not in_time_order(np.array([1, 1]), np.array([2, 1]))
    assert in_time_order(np.array([1, 1, 2]), np.array([1, 1, 0]))
    assert not in_time_order(np.array([2, 1]), np.array([1, 2]))


def test_the_order_of_rows_is_by_user_then_time_then_file():
    user, time = np.array([2, 1, 2, 1, 1]), np.array([5.5, 3.0, 1.0, 3.0, 2.0])
    assert time_order(user, time).tolist() == [4, 1, 3, 2, 0]  # fractions of a second: two keys
    assert time_order(user, np.floor(time)).tolist() == [4, 1, 3, 2, 0]  # whole seconds: one key


def rows_of(phase: str, order: np.ndarray | None = None) -> HistoryRows:
    histories = histories_of([5, 6, 7, 8], [3, 4, 5])
    dataset = SimpleNamespace(
        histories=histories,
        split=split_histories(histories, {"LS": "valid_and_test"}),
        max_item_list_len=3,
        uid_field="user_id",
        iid_field="item_id",
        item_list_length_field="item_length",
        config={"LIST_SUFFIX": "_list", "TIME_FIELD": "timestamp"},
    )
    return HistoryRows(dataset, phase, order)


def test_columns_and_counts_of_rows_on_demand():
    rows = rows_of("all")
    assert rows["item_id"].tolist() == [6, 7, 8, 4, 5]
    assert rows["user_id"].tolist() == [1, 1, 1, 2, 2]
    assert rows.counts("user_id").tolist() == [0, 3, 2]
    assert rows.counts("item_id").tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert rows_of("test")["item_id"].tolist() == [8, 5]


def test_rows_can_be_put_in_another_order():
    rows = rows_of("all", order=np.array([1, 0]))
    assert rows["user_id"].tolist() == [2, 2, 1, 1, 1]
    rows.sort("user_id")
    assert rows["user_id"].tolist() == [1, 1, 1, 2, 2] and rows["item_id"].tolist() == [6, 7, 8, 4, 5]
    rows.sort("item_id")
    assert rows["item_id"].tolist() == [4, 5, 6, 7, 8] and rows["user_id"].tolist() == [2, 2, 1, 1, 1]


def test_padding_by_hand():
    windows = cut_windows(np.array([0, 5]), np.array([5, 3]), 10, 10, None)  # 4 and 2 inputs
    assert windows.length.tolist() == [4, 2]
    assert padding_share(windows, [(2, 4)]) == pytest.approx(2 / 8)
    assert padding_share(windows, [(1, windows.length[one].item()) for one in batch_windows(windows, 4, None)]) == 0.0
    empty = Windows(*(np.zeros(0, dtype=np.int64) for _ in range(3)))
    assert padding_share(empty, []) == 0.0


# Model ----------------------------------------------------------------------------------------------------------------


def test_gradients_of_a_scaled_loss_are_scaled():
    torch.manual_seed(0)
    hidden, weight, index = torch.randn(7, 4), torch.randn(5, 4), torch.randint(0, 5, (7,))
    ours, theirs = [[t.clone().requires_grad_() for t in (hidden, weight)] for _ in range(2)]
    (0.25 * ChunkedCrossEntropy.apply(*ours, index, 3)).backward()
    (0.25 * F.cross_entropy(F.linear(*theirs), index)).backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_no_more_than_a_chunk_of_logits_exists(monkeypatch: pytest.MonkeyPatch):
    rows = []
    product = torch.mm
    monkeypatch.setattr(torch, "mm", lambda h, w, out: rows.append(len(out)) or product(h, w, out=out))
    ChunkedCrossEntropy.apply(torch.randn(10, 4), torch.randn(5, 4), torch.zeros(10, dtype=torch.long), 4)
    assert rows == [4, 4, 2]


def test_flops_by_hand():
    shape = Shape(n_layers=2, d_model=8, n_heads=2, inner_size=64, n_items=1000, max_length=50)
    n = 2 * (4 * 8 * 8 + 2 * 8 * 64)
    assert flops_per_interaction(shape) == 6 * n + 12 * 2 * 50 * 8 + 6 * 8 * 1000


def test_the_epsilon_of_a_block_is_the_one_asked_for():
    block, x = DecoderBlock(8, 2, 16, eps=0.1), 0.1 * torch.randn(2, 3, 8)
    for norm in (block.ln_attn, block.ln_ffn):
        torch.testing.assert_close(norm(x), F.layer_norm(x, (8,), eps=0.1))
        assert not torch.allclose(norm(x), F.layer_norm(x, (8,)))


def test_a_draw_of_the_target_itself_is_no_other_item():
    hidden, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 1.0]])
    items, correction = torch.tensor([0, 1]), torch.tensor([0.0, math.log(2.0)])
    loss = sampled_cross_entropy(hidden, weight, torch.tensor([0]), items, correction, chunk=8)
    assert loss.item() == pytest.approx(math.log(math.exp(1.0) + math.exp(0.5) / 2) - 1.0, abs=1e-6)


def test_as_many_samples_as_items_are_all_items_once():
    sampled = SampledSoftmax(np.full(3, 1 / 3), 3)
    items, correction = sampled.draw()
    assert items.tolist() == [0, 1, 2] and correction.tolist() == [0.0, 0.0, 0.0]
    assert SampledSoftmax(np.full(3, 1 / 3), 2).draw()[1].tolist() == pytest.approx([math.log(2 / 3)] * 2)


# Training -------------------------------------------------------------------------------------------------------------


def test_the_first_spike_is_called_right_after_the_fewest_losses():
    early, late = Guard(2.0), Guard(2.0)
    for _ in range(FEWEST - 1):
        early.see(1.0, 1.0)
    assert early.see(9.0, 1.0) is None
    for _ in range(FEWEST):
        late.see(1.0, 1.0)
    assert "spike" in (late.see(2.1, 1.0) or "") and late.spikes == 1


def test_a_parameter_without_gradient_has_no_part_in_the_norm():
    with_gradient, without = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    with_gradient.grad = torch.tensor([3.0, 4.0])
    assert clipped_norm([with_gradient, without], None).item() == pytest.approx(5.0)
    assert clipped_norm([with_gradient, without], None, of_gradients=False).item() == pytest.approx(math.sqrt(5.0))


def test_the_guard_remembers_a_hundred_losses():
    guard = Guard(None)
    for step in range(150):
        assert guard.see(float(step), 1.0) is None
    assert guard.recent == [float(step) for step in range(50, 150)]


def test_a_schedule_follows_the_clock(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("recbole_scale.training.budget.perf_counter", lambda: now[0])
    limited, free = TimeBudget(100.0), TimeBudget(None)
    limited.start()
    now[0] = 20.0
    assert [limited.total_steps(step, 70) for step in (0, 10, 99)] == [70, 50, 495]
    assert free.total_steps(10, 70) == 70 and not limited.look() and not free.look()
    limited.stop()
    now[0] = 1000.0  # an evaluation
    limited.start()
    assert limited.used == 20.0 and not limited.spent
    now[0] = 1080.0
    assert limited.look() and limited.total_steps(10, 70) == 11  # a step further, whatever the clock says


# Files and settings ---------------------------------------------------------------------------------------------------


def test_a_lock_is_waited_for_as_long_as_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import filelock

    waits = []

    def acquire(self, timeout, poll_interval):
        waits.append(timeout)
        raise filelock.Timeout(self.lock_file)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    for wait in ({}, {"wait": 2.5}):
        with pytest.raises(Held, match="somebody has it"), locked(tmp_path / "lock", "somebody has it", **wait):
            pass
    assert waits == [0.0, 2.5]


def test_a_file_that_cannot_be_written_is_told_with_the_reason():
    said = [str(unwritten("f", fault, what)) for fault, what in (
        (PermissionError(13, "Permission denied", "f"), ""), (OSError("odd"), ""), (OSError(28, "No space left"), ""),
        (PermissionError(13, "Permission denied", "f"), "--out"), (OSError("Odd"), "--out"))]  # fmt: skip
    assert said == [
        "cannot write 'f': Permission denied", "cannot write 'f': odd",
        "no space left on the disk while writing 'f': nothing was written",
        "--out f could not be written (permission denied)", "--out f could not be written (odd)",
    ]  # fmt: skip


# Statistics and laws --------------------------------------------------------------------------------------------------


def test_a_clear_difference_has_the_smallest_p_that_the_samples_allow():
    found = paired_bootstrap(np.full(50, 0.3), samples=99)
    assert found.p == 1 / 100 and (found.mean, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))


@pytest.mark.parametrize("epochs", [0, -1, math.nan, math.inf])
def test_epochs_of_a_budget_are_finite_and_above_zero(epochs: float):
    n, d = np.meshgrid(np.geomspace(1e4, 1e7, 4), np.geomspace(1e5, 1e8, 4))
    loss = 4 + (1e5 / n) ** 0.3 + (1e6 / d) ** 0.4
    law = fit_joint_law(n.ravel(), d.ravel(), loss.ravel(), resamples=0)
    with pytest.raises(UserError, match="epochs must be a finite number above 0"):
        compute_optimal(law, 1e15, 6.0, epochs=epochs)
    with pytest.raises(UserError, match="a budget must be a finite number of FLOPs above 0"):
        compute_optimal(law, [1e15, epochs], 6.0)  # as odd a budget


def test_the_likelihood_of_the_noise_is_that_of_its_covariance():
    """By whole matrices: a block a size, whose mean has ``calm**2`` times the variance of its runs' mean, and tau's."""
    rng = np.random.default_rng(3)
    sizes = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    r, X, log_sd = rng.standard_normal(8), rng.standard_normal((8, 3)), 0.5 * rng.standard_normal((5, 8))
    levels = np.abs(rng.standard_normal((5, 2))) + 0.3
    expected = []
    for sd, (calm, ratio) in zip(np.exp(log_sd), levels, strict=True):
        V = np.diag(sd**2)
        for at in (np.flatnonzero(sizes == size) for size in range(4)):
            V[np.ix_(at, at)] += (calm**2 - 1) / (sd[at] ** -2).sum() + ratio**2
        inverse = np.linalg.inv(V)
        A = X.T @ inverse @ X
        left = r - X @ np.linalg.solve(A, X.T @ inverse @ r)
        expected.append((np.linalg.slogdet(V)[1], np.linalg.slogdet(A)[1], left @ inverse @ left))
    log_v, log_a, rest = _likelihood(r, X, log_sd, levels, np.eye(4)[sizes])
    truth = np.array(expected)
    np.testing.assert_allclose(log_v, truth[:, 0], rtol=1e-9)
    np.testing.assert_allclose(np.diff(log_a), np.diff(truth[:, 1]), rtol=1e-5)  # the columns' scale is left out
    np.testing.assert_allclose(rest, truth[:, 2], rtol=1e-6)


@pytest.mark.parametrize(("sizes", "runs", "calm"), [(3, 2, 0.55), (3, 1, 0.0), (6, 2, 0.4), (6, 1, 0.0)])
def test_the_prior_of_the_noise_adds_up_to_one(sizes: int, runs: int, calm: float):
    number = np.repeat(np.arange(sizes), runs)
    places = (number / (sizes - 1))[:, None]
    residuals = Residuals(np.zeros(len(number)), np.ones((len(number), 2)), places, number)
    prior, levels = _prior(residuals), _levels(residuals)
    assert len(prior) == len(levels) and prior.sum() == pytest.approx(1.0)
    assert prior[levels[:, 0] < 1].sum() == pytest.approx(calm)  # only runs repeated can lie off more than their means


@pytest.mark.parametrize(("sizes", "runs", "there"), [(5, 6, True), (5, 5, False), (4, 8, False)])
def test_two_power_terms_are_thought_of_where_they_can_be_told(sizes: int, runs: int, there: bool):
    x = np.geomspace(1e4, 1e7, sizes)[np.arange(runs) % sizes]
    loss = 5 + (1e3 / x) ** 0.3
    seen = Observations.check({"x": x}, {"loss": loss}, None)
    forms = _other_forms(seen, (math.log(1e-3), math.log(loss.min())), math.inf, None)
    assert [form.name for form in forms] == [TWO_TERMS] * there


def test_a_limit_below_the_highest_mean_is_held_there():
    x = np.repeat([1e4, 1e5, 1e6, 1e7], 2)
    held = fit_metric_law(x, np.repeat([0.10, 0.18, 0.20, 0.19], 2), resamples=0)
    assert held.held and held.limit == pytest.approx(0.20) and "held at the highest mean" in held.message
    free = fit_metric_law(x, 0.2 / (1 + (2e4 / x) ** 0.5), resamples=0)
    assert not free.held and free.limit == pytest.approx(0.2, rel=1e-3) and "held" not in free.message


# Challenges -----------------------------------------------------------------------------------------------------------


def test_every_item_can_be_drawn_and_no_other():
    rng = np.random.default_rng(0)
    assert set(robustness.uniform(rng, 5)(2000)) == {1, 2, 3, 4, 5}
    counts = np.array([7, 0, 10, 0])  # padding, then items 1, 2, 3
    drawn = robustness.popular(rng, counts)(6000)
    assert set(drawn) == {1, 2, 3}
    np.testing.assert_allclose(np.bincount(drawn, minlength=4)[1:] / 6000, [1 / 13, 11 / 13, 1 / 13], atol=0.02)


def test_the_number_of_changed_items_rounds_halves_up():
    assert robustness.changed(np.array([1, 5, 10, 4]), 0.3).tolist() == [0, 2, 3, 1]
    assert robustness.changed(np.array([1]), 0.5).tolist() == [1]


def test_groups_of_popularity_by_hand():
    counts = np.array([0, 40, 30, 20, 10, 0])
    # middles of the interactions: 0.20, 0.55, 0.80, 0.95 of all; item 5 never occurs
    assert long_tail.item_groups(counts)[1:].tolist() == [0, 2, 3, 3, 3]
    assert long_tail.item_groups(np.array([0, 4, 3, 2, 1]), "equal_items")[1:].tolist() == [0, 1, 2, 3]


def test_a_history_of_exactly_a_length_belongs_to_it():
    base = cases_of(([1, 2], 3), ([1, 2, 3, 4], 5), ([1, 2, 3, 4, 5], 6))
    sets = cold_start.make_cases(base, (2, 4))
    found = {(s.setting, s.level): s.case.tolist() for s in sets}
    everybody = {("all", 2): [0, 1, 2], ("all", 4): [0, 1, 2]}
    assert found == {("last", 2): [1, 2], ("last", 4): [1, 2], ("short", 2): [0], ("short", 4): [1]} | everybody


def test_equal_scores_rank_the_smaller_id_first():
    scores = torch.tensor([[0.0, 1.0, 1.0, 1.0, 2.0]])
    assert [rank_targets(scores.clone(), torch.tensor([item]))[0].item() for item in (1, 2, 3, 4)] == [2, 3, 4, 1]


def test_a_window_of_one_interaction_is_a_window(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    rows = [f"u\ti{t}\t{t}" for t in range(6)] + [f"v\ti{t}\t{t}" for t in range(5)]
    (folder / "d.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows) + "\n")
    made, long, short = write_window_data(folder / "d.inter", tmp_path, window=1)
    assert (long, short) == (1, 1)
    held_out = (made / "d-cut1.windows").read_text().splitlines()[1:]
    assert held_out == ["u\ti5\t5\t1\t5"]
    with pytest.raises(UserError, match="must be at least 1"):
        write_window_data(folder / "d.inter", tmp_path, window=0)
