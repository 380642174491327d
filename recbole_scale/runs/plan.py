"""What a run will cost and what it gave, as text for the terminal and as numbers for its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from recbole_scale.interfaces import ByKey, RunConfig
from recbole_scale.model.memory import MIB, Setup, available_memory, evaluation_peak, memory_plan, ways_to_fit
from recbole_scale.model.scaled_sasrec import ScaledSASRec, attention_rates, dropout_rates
from recbole_scale.model.sizes import (
    flops_per_interaction,
    load_size,
    parameter_groups,
    total_parameters,
)
from recbole_scale.runs.prepared import Prepared
from recbole_scale.runs.records import RunRow
from recbole_scale.settings import ScaledSASRecSettings, before_data
from recbole_scale.text import counted, metric_name, show_count, text_table
from recbole_scale.training import group, parallel


def costs(prepared: Prepared, network: object) -> RunRow:
    """Columns of a row that are known before training: sizes, parameter groups, FLOPs, data."""
    n_parameters = None  # RecBole's boosted trees have none
    if isinstance(network, torch.nn.Module):
        n_parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    n_users = prepared.dataset.user_num - 1
    known: RunRow = {"n_parameters": n_parameters, "n_users": n_users, "n_items": prepared.dataset.item_num - 1}
    if isinstance(network, ScaledSASRec):
        shape = network.shape
        valid, tested = (len(part.dataset) for part in (prepared.valid_data, prepared.test_data))  # one row a user
        with_row = (prepared.test_data._dataset.ranked or (0, tested))[1]
        groups = parameter_groups(shape)
        known |= {
            "users_valid": valid,
            "users_tested": tested,
            "users_dropped": max(0, n_users - with_row),
            "n_blocks": groups["n_blocks"],
            "n_blocks_exact": groups["n_blocks_exact"],
            "n_item_embedding": groups["n_item_embedding"],
            "n_positions": groups["n_positions"],
            "n_layers": shape.n_layers,
            "d_model": shape.d_model,
            "n_heads": shape.n_heads,
            "size": size_name(prepared.config),
            "flops_per_interaction": flops_per_interaction(shape),
            "unique_interactions": prepared.train_data.n_targets,
        }
    return known


def size_name(config: RunConfig) -> str | None:
    """Rung of the ladder, or None when explicit keys changed its shape."""
    rung = load_size(config["size"])
    same = all(config[key] == rung[key] for key in ("n_layers", "hidden_size", "n_heads", "inner_size"))
    return str(config["size"]) if same else None


def describe(prepared: Prepared, network: object, processes: int | None = None) -> str:
    """The resolved plan: model, parameters by group, data, steps, memory.

    ``processes``: how many will train together, if not those that run now.
    """
    config, known = prepared.config, costs(prepared, network)
    lines = {"data": _users_and_items(known)}
    if isinstance(network, ScaledSASRec):
        lines = _model_lines(config, network, known) | _data_lines(prepared, known)
        lines |= _cost_lines(prepared, network) | _memory_lines(prepared, network, processes or group.world_size())
    else:
        count = known["n_parameters"]
        lines["parameters"] = "none, it grows trees" if count is None else f"{count:,}"
    if drawn := ranked_users(prepared):
        lines["ranked"] = drawn
    title = f"{config['model']} on {config['dataset']}"
    return "\n".join([title, *(f"  {name:<11}{text}" for name, text in lines.items())])


def ranked_users(prepared: Prepared) -> str:
    """Which users are ranked, in words, where ``valid_users`` or ``test_users`` leave some out; else nothing."""
    told = []
    for name, data in (("valid", prepared.valid_data), ("test", prepared.test_data)):
        ranked = getattr(data._dataset, "ranked", None)
        told.append(f"{name} all users" if ranked is None else f"{name} {ranked[0]:,} of {ranked[1]:,} users")
    if all(one.endswith("all users") for one in told):
        return ""
    return ", ".join(told) + ", drawn by a hash of their names"


def _users_and_items(known: RunRow) -> str:
    return f"{counted(known['n_users'] or 0, 'user')}, {counted(known['n_items'] or 0, 'item')}"


def _model_lines(config: RunConfig, network: ScaledSASRec, known: RunRow) -> dict[str, str]:
    shape, rates = network.shape, dropout_rates(ScaledSASRecSettings.read(config))
    size = f"{known['size'] or 'own shape'}: {counted(shape.n_layers, 'layer')} x {shape.d_model}, "
    size += counted(shape.n_heads, "head")
    groups = f"N {show_count(parameter_groups(network.shape)['n_blocks'])} (blocks exact {known['n_blocks_exact']:,})"
    groups += f", items {known['n_item_embedding']:,}, positions {known['n_positions']:,}"
    falling = f"{rates[0]:g} (bottom) to {rates[-1]:g} (top)"
    if config["dropout_rates"] is not None and config["hidden_dropout_prob"] is None:
        falling = ", ".join(f"{rate:g}" for rate in rates) + " (bottom to top)"
    loss = f"exact softmax over {counted(shape.n_items, 'item')}"
    if network.sampled is not None:
        loss = (
            f"sampled softmax, {network.sampled.n_samples:,} of {shape.n_items:,} items, power {config['sce_power']:g}"
        )
    switches = [name for name in ("activation_checkpointing", "compile") if config[name]]
    return {
        "size": f"{size}, length {shape.max_length}",
        "parameters": f"{groups}; all {total_parameters(shape):,}",
        "dropout": falling if len(set(rates)) > 1 else f"{rates[0]:g}",
        "loss": loss,
        "precision": ", ".join([network.precision, *switches]),
    }


def _data_lines(prepared: Prepared, known: RunRow) -> dict[str, str]:
    loader, config = prepared.train_data, prepared.config
    valid, test = (len(part.dataset) for part in (prepared.valid_data, prepared.test_data))
    data = f"{_users_and_items(known)}, {counted(loader.n_targets, 'training target')}"
    windows = f"{len(loader.windows):,} of up to {loader.max_length}, stride {loader.stride}"
    steps = f"{len(loader):,} an epoch of up to {counted(loader.token_budget, 'target')}, "
    steps += counted(config["epochs"], "epoch")
    decided = [f"{key} {config[key]:g} (not {before:g})" for key, before in before_data(config).items()]
    by_data = ", ".join(decided) + ", since that suits a log as sparse or small as this; what you set wins"
    return {
        "data": f"{data}, {valid:,} valid, {test:,} test",
        **({"by data": by_data} if decided else {}),
        "windows": f"{windows}, {100 * loader.padding:.1f} % padding",
        "steps": f"{steps}, {len(loader) * config['epochs']:,} in all",
    }


def _cost_lines(prepared: Prepared, network: ScaledSASRec) -> dict[str, str]:
    loader, shape = prepared.train_data, network.shape
    flops = flops_per_interaction(shape)
    each, epoch = (show_count(count, "G") for count in (flops, flops * loader.n_targets))
    compute = f"{each}FLOP a target, {epoch}FLOP an epoch, softmax included"
    return {"compute": compute}


def training_setup(config: ByKey, network: ScaledSASRec, tokens: int, processes: int = 1) -> Setup:
    """What the memory of a run depends on besides the model's shape; ``tokens`` are those of an optimizer step."""
    device, settings = config["device"], ScaledSASRecSettings.read(config)
    mode = parallel.choose_mode(config["parallel"], network, device, processes)
    return Setup(
        tokens=tokens,
        candidates=network.shape.n_items if network.sampled is None else network.sampled.n_samples,
        chunk=network.softmax_chunk,
        dropout=max(dropout_rates(settings)) > 0,
        attn_dropout=max(attention_rates(settings)) > 0,
        precision=network.precision,
        activation_checkpointing=network.activation_checkpointing,
        accumulation_steps=settings.accumulation_steps,
        optimizer_states={"adamw": 2, "adam": 2, "sparse_adam": 2}.get(str(config["learner"]).lower(), 1),
        parallel=mode,
        devices=processes,
        shards=parallel.shards_of(mode, settings.shard_group, config["nproc"], processes),
        cut_items=settings.cut_items and mode == "fsdp",
        device=device.type,
    )


def _memory_lines(prepared: Prepared, network: ScaledSASRec, processes: int) -> dict[str, str]:
    config, shape = prepared.config, network.shape
    setup = training_setup(config, network, prepared.train_data.token_budget, processes)
    plan = memory_plan(shape, setup)
    parts = ", ".join(f"{name} {_mib(size)}" for name, size in plan.groups.items())
    already = sum(p.numel() * p.element_size() for p in network.parameters())
    free = available_memory(config["device"], already, processes)
    place = "of this GPU" if setup.device == "cuda" else "free here for each process"
    ranking = evaluation_peak(shape, int(config["eval_batch_size"]), plan)
    devices = f"each of {processes} devices ({setup.parallel})" if processes > 1 else "each device"
    found = f"about {_mib(plan.peak)} MiB on {devices} at the peak of a step ({parts})"
    fits = f"fits into the {_mib(free)} MiB {place}" if plan.peak <= free else _advice(shape, setup, free, place)
    lines = {"memory": found, "": fits}
    if ranking > free:
        lines["ranking"] = (
            f"{_mib(ranking)} MiB, more than there is; lower eval_batch_size ({config['eval_batch_size']})"
        )
    return lines


def _advice(shape: Any, setup: Setup, free: int, place: str) -> str:
    ways = ways_to_fit(shape, setup, free)
    steps = "; then ".join(f"{text} (about {_mib(peak)} MiB)" for text, peak in ways)
    end = "" if ways and ways[-1][1] <= free else ", and that is not enough: take a smaller size or a larger device"
    return f"does NOT fit into the {_mib(free)} MiB {place}; turn on, cheapest first: {steps or 'nothing left'}{end}"


def _mib(size: float) -> str:
    return f"{size / MIB:,.0f}"


def results_table(row: RunRow) -> str:
    """Metrics of a run's row: the best epoch on valid and of the same model on test, one metric a line.

    Ranked lists stand there twice where they were made twice: of all items, and filtered of what a user had.
    """
    columns = [row["best_valid_metrics"] or {}, row["test_metrics"] or {}]
    filtered = [row.get("best_valid_metrics_filtered") or {}, row.get("test_metrics_filtered") or {}]
    head = ["valid", "test"]
    if any(filtered):
        columns += filtered
        head += ["valid filtered", "test filtered"]
    names = list(dict.fromkeys([*columns[1], *columns[0]]))
    one_held_out = "LS" in (row.get("split") or {})  # so that Recall is the hit rate
    rows = [["metric", *head]]
    for name in names:
        found = [column.get(name) for column in columns]
        rows.append([metric_name(name, one_held_out), *("" if value is None else f"{value:.4f}" for value in found)])
    return "\n" + text_table(rows)


def other_best(valid_metric: str, both: Mapping[str, Any]) -> str:
    """A line about the model that is best by the other kind of metric, where it is another one than the chosen."""
    kinds = [name.removeprefix("best_epoch_") for name in both if name.startswith("best_epoch_")]
    if len({both[f"best_epoch_{kind}"] for kind in kinds}) < 2:
        return ""
    other = "ranking" if valid_metric.lower() == "nll" else "nll"
    shown = {name: value for name, value in both[f"test_metrics_{other}"].items() if name in ("nll", "ndcg@10")}
    told = ", ".join(f"{metric_name(name)} {value:.4f}" for name, value in shown.items())
    by = "NLL" if other == "nll" else other
    return f"\n\nbest by {by}: the model of epoch {both[f'best_epoch_{other}']}, test {told}"
