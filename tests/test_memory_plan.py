"""The memory plan: bytes kept for backward as autograd counts them, and advice that leads to a fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from recbole.data.interaction import Interaction
from test_cli import call
from test_model import make_config, make_model

from recbole_scale.data.windows import TARGET_LIST
from recbole_scale.errors import UserError
from recbole_scale.model.memory import (
    GPU_LOGITS,
    MemoryPlan,
    Setup,
    evaluation_peak,
    memory_plan,
    saved_by_block,
    softmax_chunk,
    ways_to_fit,
)
from recbole_scale.model.sizes import Shape, load_size, parameter_groups, total_parameters
from recbole_scale.runs import plan as run_plan

GIB = 1 << 30
SHAPES = {"tiny": {}, "small": load_size("small") | {"attn_dropout_prob": None}}


def shape_of(size: str, n_items: int = 26_427) -> Shape:
    return Shape.from_config(make_config(**load_size(size)), n_items)


def saved_bytes(model, items: torch.Tensor) -> int:
    """Bytes of all tensors that autograd keeps in the forward pass, each storage once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(items)
    del out
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("attn_rate", [0.0, 0.1])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_bytes_of_a_block_are_those_that_autograd_keeps(rate, attn_rate, precision):
    items = torch.randint(1, 31, (6, 50))
    settings = {"hidden_dropout_prob": rate, "attn_dropout_prob": attn_rate, "precision": precision}
    kept = [saved_bytes(make_model(n_layers=n, **settings).train(), items) for n in (2, 5)]
    shape = make_model(n_layers=2).shape
    setup = Setup(300, 30, 64, dropout=rate > 0, attn_dropout=attn_rate > 0, precision=precision)
    casts = 0 if precision == "float32" else 2 * 12 * 64 * 64  # weights once more in bfloat16
    per_position = ((kept[1] - kept[0]) / 3 - casts) / items.numel()
    assert saved_by_block(shape, setup) == pytest.approx(per_position, rel=0.03)


def test_checkpointing_keeps_one_input_a_block():
    items = torch.randint(1, 31, (6, 50))
    kept = [saved_bytes(make_model(n_layers=n, activation_checkpointing=True).train(), items) for n in (2, 5)]
    assert (kept[1] - kept[0]) / 3 == pytest.approx(4 * 64 * items.numel(), rel=0.01)


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_weights_gradients_and_states_are_those_of_a_step(size):
    model = make_model(n_items=50, **load_size(size))
    optimizer = torch.optim.AdamW(model.parameters())
    items = torch.randint(1, 51, (2, 50))
    model.calculate_loss(Interaction({"item_id_list": items, TARGET_LIST: items})).backward()
    optimizer.step()
    found = memory_plan(model.shape, Setup(100, 50, 64))
    assert found.weights == sum(p.nbytes for p in model.parameters())
    assert found.gradients == sum(p.grad.nbytes for p in model.parameters())
    states = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    assert found.optimizer == sum(t.nbytes for t in states)


def test_the_peak_is_the_larger_of_backward_and_update():
    found = MemoryPlan(10, 10, 20, activations=50, logits=5, framework=1)
    assert found.peak == 1 + 30 + 55
    assert replace(found, gradients=80).peak == 1 + 30 + 80
    assert replace(found, gradients_stay=True).peak == 1 + 30 + 65
    assert sum(found.groups.values()) == 96


def test_every_switch_saves_what_it_says():
    shape, setup = shape_of("medium"), Setup(4096, 26_427, 79)
    base = memory_plan(shape, setup)
    parts = memory_plan(shape, replace(setup, accumulation_steps=4))
    assert parts.activations == pytest.approx(base.activations / 4, rel=0.01) and parts.gradients_stay
    again = memory_plan(shape, replace(setup, activation_checkpointing=True))
    assert again.activations < 0.45 * base.activations and again.weights == base.weights
    half = memory_plan(shape, replace(setup, precision="bf16_weights"))
    assert (half.weights, half.gradients, half.optimizer) == (
        base.weights // 2,
        base.gradients // 2,
        base.optimizer // 2,
    )
    sgd = memory_plan(shape, replace(setup, optimizer_states=1))
    assert sgd.optimizer == base.optimizer // 2
    ddp = memory_plan(shape, replace(setup, parallel="ddp", devices=2))
    assert ddp.weights == base.weights and ddp.activations == pytest.approx(base.activations / 2, rel=0.01)
    fsdp = memory_plan(shape, replace(setup, parallel="fsdp", devices=8))
    assert fsdp.optimizer == base.optimizer // 8 and fsdp.weights < base.weights
    sampled = memory_plan(shape_of("tiny", 1_000_000), Setup(1024, 8192, 256))
    assert sampled.logits < memory_plan(shape_of("tiny", 1_000_000), Setup(1024, 1_000_000, 64)).logits


def test_xlarge_trains_on_one_gpu_of_80_gb_without_sharding():
    """26,427 items, the shipped batch; and in float32 it would not fit, which bf16 mends."""
    shape = shape_of("xlarge")
    chunk = 80 * GIB // 64 // (4 * shape.n_items)
    setup = Setup(load_size("xlarge")["train_batch_size"], shape.n_items, chunk, precision="bf16", device="cuda")
    found = memory_plan(shape, setup)
    assert 4 * total_parameters(shape) * 4 < found.peak < 80e9
    float32 = replace(setup, precision="float32")
    assert memory_plan(shape, float32).peak > 80e9
    assert [text for text, _ in ways_to_fit(shape, float32, int(80e9))] == ["precision: bf16"]


def test_xlarge_takes_a_step_on_a_cpu_with_24_gb_in_bf16_weights():
    shape = shape_of("xlarge")
    setup = Setup(1024, shape.n_items, 79, precision="bf16_weights", attn_dropout=False)
    assert memory_plan(shape, setup).peak < 24e9


def test_advice_is_in_order_of_cost_and_each_estimate_holds():
    shape = shape_of("xlarge")
    setup = Setup(16384, shape.n_items, 1000, device="cuda")
    ways = ways_to_fit(shape, setup, 12 * GIB)
    assert [text.split(":")[0] for text, _ in ways] == [
        "precision",
        "accumulation_steps",
        "activation_checkpointing",
        "parallel",
    ]
    peaks = [peak for _, peak in ways]
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] <= 12 * GIB
    devices = int(ways[-1][0].split()[-2])
    turned = replace(setup, precision="bf16", activation_checkpointing=True, parallel="fsdp", devices=devices,
                     accumulation_steps=int(ways[1][0].split()[-1]))  # fmt: skip
    assert memory_plan(shape, turned).peak == peaks[-1]
    assert ways_to_fit(shape, setup, 1000 * GIB) == []


def test_advice_takes_the_mildest_setting_that_is_enough():
    shape, setup = shape_of("medium"), Setup(4096, 26_427, 79, precision="bf16")
    enough = memory_plan(shape, replace(setup, accumulation_steps=4)).peak
    assert ways_to_fit(shape, setup, enough) == [("accumulation_steps: 4", enough)]


def test_where_nothing_is_enough_each_advice_is_its_strongest():
    shape, setup = shape_of("medium"), Setup(4096, 26_427, 79, device="cuda")
    ways = [text for text, _ in ways_to_fit(shape, setup, 0)]
    assert "accumulation_steps: 32" in ways and "parallel: fsdp with 64 devices" in ways


def test_blocks_travel_in_bf16_where_products_are_in_bf16():
    shape = shape_of("medium")
    wide, low = (
        memory_plan(shape, Setup(4096, 26_427, 79, device="cuda", parallel="fsdp", devices=4, precision=precision))
        for precision in ("float32", "bf16")
    )
    block = parameter_groups(shape)["n_blocks_exact"] // shape.n_layers
    assert wide.weights - low.weights == 2 * (4 - 2) * block  # the block at work and the next one


def test_chunks_follow_the_cache_on_a_cpu_and_free_memory_on_a_gpu(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert softmax_chunk(3706, cpu) == (8 << 20) // (4 * 3706)
    assert softmax_chunk(10_000_000, cpu) == 64
    for free, size in ((64 * GIB, GIB), (GIB, GPU_LOGITS[0]), (1000 * GIB, GPU_LOGITS[1])):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert softmax_chunk(1000, gpu) == size // 4000


def test_the_dry_run_says_what_fits_and_what_to_turn(walk, monkeypatch):
    import recbole_scale

    settings = {"show_progress": False, "topk": [5], "size": "small", "train_batch_size": 2048}
    told = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings, dry_run=True)["plan"]
    assert "on each device at the peak of a step (weights" in told and "fits into the" in told
    assert "precision  float32" in told
    monkeypatch.setattr(run_plan, "available_memory", lambda *_: 70 << 20)
    told = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings, dry_run=True)["plan"]
    assert "does NOT fit into the 70 MiB free here" in told and "accumulation_steps: " in told
    monkeypatch.setattr(run_plan, "available_memory", lambda *_: 1 << 20)
    told = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings, dry_run=True)["plan"]
    assert "not enough: take a smaller size" in told and "lower eval_batch_size" in told


def test_available_memory_is_a_number_this_machine_has():
    import os

    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < run_plan.available_memory(torch.device("cpu")) <= whole


def test_ranking_memory_grows_with_rows_times_items():
    shape = shape_of("tiny", 1_000_000)
    found = memory_plan(shape, Setup(1024, 8192, 256))
    more = evaluation_peak(shape, 512, found) - evaluation_peak(shape, 256, found)
    assert more == 3 * 4 * 256 * 1_000_001


def test_under_fsdp_each_process_ranks_with_the_whole_model():
    shape, setup = shape_of("xlarge"), Setup(16384, 26_427, 79)
    alone = memory_plan(shape, setup)
    cut = memory_plan(shape, replace(setup, parallel="fsdp", devices=8))
    expected = cut.framework + alone.weights + alone.weights // 8 + alone.optimizer // 8 + 3 * 4 * 256 * 26_428
    assert evaluation_peak(shape, 256, cut) == expected > cut.framework + cut.weights + cut.optimizer


def test_a_cut_table_of_ten_million_items_is_never_whole_in_a_step():
    """8 processes, 512 numbers an item: 20 GB gathered, and as much again of its gradient, against 2.6 GB of each."""
    shape = replace(shape_of("base"), n_items=10_000_000, d_model=512)
    setup = Setup(tokens=65_536, candidates=10_000_000, chunk=256, parallel="fsdp", devices=8, device="cuda")
    gathered, cut = (memory_plan(shape, replace(setup, cut_items=on)) for on in (False, True))
    table = 4 * 512 * 10_000_000
    assert gathered.weights - cut.weights == gathered.gradients - cut.gradients == pytest.approx(table, rel=1e-3)
    assert cut.weights < 1.2 * table / 8 and cut.logits < gathered.logits / 4
    assert cut.weights + cut.gathered == gathered.weights + gathered.gathered  # ranking takes it whole


def test_a_dry_run_for_many_processes_plans_for_each_of_them_in_one(walk, monkeypatch, capsys):
    def plan(*more: str) -> dict[str, int]:
        arguments = ["--dataset=walk", "--topk=[5]", "--size=medium", "--train_batch_size=4096", "--dry_run", *more]
        code, out, err = call(monkeypatch, capsys, *arguments)
        assert code == 0, err
        line = next(line for line in (out + err).splitlines() if line.startswith("  memory"))
        return {"line": line} | dict(re.findall(r"(weights|optimizer|activations) ([\d,]+)", line))

    alone, two, auto = plan(), plan("--nproc=2", "--parallel=fsdp"), plan("--nproc=2")
    assert "on each device at" in alone["line"] and "on each of 2 devices (fsdp) at" in two["line"]
    assert "on each of 2 devices (ddp) at" in auto["line"]
    number = {name: [int(found[name].replace(",", "")) for found in (alone, two, auto)]
              for name in ("weights", "optimizer", "activations")}  # fmt: skip
    assert number["optimizer"] == pytest.approx([72, 36, 72], abs=1)
    assert number["activations"][0] == pytest.approx(2 * number["activations"][1], rel=0.01)
    assert number["weights"][1] < number["weights"][0] == number["weights"][2]


def test_a_flag_that_is_neither_true_nor_false_is_one_sentence():
    for key in ("activation_checkpointing", "compile"):
        with pytest.raises(UserError, match=key):
            make_model(**{key: "maybe"})
