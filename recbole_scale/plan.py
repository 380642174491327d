"""What a run will cost and what it gave, as text for the terminal and as numbers for its row."""

from __future__ import annotations

from typing import Any

from recbole_scale.model.scaled_sasrec import ScaledSASRec, dropout_rates
from recbole_scale.model.sizes import (
    flops_per_interaction,
    load_size,
    memory_plan,
    parameter_groups,
    total_parameters,
)


def costs(prepared: Any, network: Any) -> dict[str, Any]:
    """Columns of a row that are known before training: sizes, parameter groups, FLOPs, data."""
    n_parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    known: dict[str, Any] = {
        "n_parameters": n_parameters,
        "n_users": prepared.dataset.user_num - 1,
        "n_items": prepared.dataset.item_num - 1,
    }
    if isinstance(network, ScaledSASRec):
        shape = network.shape
        known |= parameter_groups(shape)
        known |= {"n_layers": shape.n_layers, "d_model": shape.d_model, "n_heads": shape.n_heads}
        known |= {"size": size_name(prepared.config), "flops_per_interaction": flops_per_interaction(shape)}
        known |= {"unique_interactions": prepared.train_data.n_targets}
    return known


def size_name(config: Any) -> str | None:
    """Rung of the ladder, or None when explicit keys changed its shape."""
    rung = load_size(config["size"])
    same = all(config[key] == rung[key] for key in ("n_layers", "hidden_size", "n_heads", "inner_size"))
    return str(config["size"]) if same else None


def describe(prepared: Any, network: Any) -> str:
    """The resolved plan: model, parameters by group, data, steps, memory."""
    config, known = prepared.config, costs(prepared, network)
    lines = {"data": f"{known['n_users']:,} users, {known['n_items']:,} items"}
    if isinstance(network, ScaledSASRec):
        lines = _model_lines(config, network, known) | _data_lines(prepared, known) | _cost_lines(prepared, network)
    else:
        lines["parameters"] = f"{known['n_parameters']:,}"
    title = f"{config['model']} on {config['dataset']}"
    return "\n".join([title, *(f"  {name:<11}{text}" for name, text in lines.items())])


def _model_lines(config: Any, network: Any, known: dict[str, Any]) -> dict[str, str]:
    shape, rates = network.shape, dropout_rates(config)
    size = f"{known['size'] or 'own shape'}: {shape.n_layers} layers x {shape.d_model}, {shape.n_heads} heads"
    groups = f"N {_short(known['n_blocks'])} (blocks exact {known['n_blocks_exact']:,})"
    groups += f", items {known['n_item_embedding']:,}, positions {known['n_positions']:,}"
    falling = f"{rates[0]:g} (bottom) to {rates[-1]:g} (top)"
    return {
        "size": f"{size}, length {shape.max_length}",
        "parameters": f"{groups}; all {total_parameters(shape):,}",
        "dropout": falling if rates[0] != rates[-1] else f"{rates[0]:g}",
    }


def _data_lines(prepared: Any, known: dict[str, Any]) -> dict[str, str]:
    loader, config = prepared.train_data, prepared.config
    valid, test = (len(part.dataset) for part in (prepared.valid_data, prepared.test_data))
    data = f"{known['n_users']:,} users, {known['n_items']:,} items, {loader.n_targets:,} training targets"
    windows = f"{len(loader.windows):,} of up to {loader.max_length}, stride {loader.stride}"
    steps = f"{len(loader):,} an epoch of up to {loader.token_budget:,} targets, {config['epochs']} epochs"
    return {
        "data": f"{data}, {valid:,} valid, {test:,} test",
        "windows": f"{windows}, {100 * loader.padding:.1f} % padding",
        "steps": f"{steps}, {len(loader) * config['epochs']:,} in all",
    }


def _cost_lines(prepared: Any, network: Any) -> dict[str, str]:
    loader, shape = prepared.train_data, network.shape
    dropout = max(dropout_rates(prepared.config)) > 0
    attn_rate = prepared.config["attn_dropout_prob"]
    attn_dropout = dropout if attn_rate is None else attn_rate > 0
    memory = memory_plan(shape, loader.token_budget, network.softmax_chunk, dropout, attn_dropout)
    flops = flops_per_interaction(shape)
    parts = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in memory.items())
    return {
        "compute": f"{_short(flops)}FLOP a target, {_short(flops * loader.n_targets)}FLOP an epoch, softmax included",
        "memory": f"{sum(memory.values()) / 2**20:,.0f} MiB estimated at the peak of a step: {parts}",
    }


def _short(value: float) -> str:
    """A count in three digits: 98.3K, 9.44M."""
    for unit in ("", "K", "M", "G", "T", "P", "E"):
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}Z"


def results_table(valid: dict[str, float] | None, test: dict[str, float] | None) -> str:
    """Metrics of the best epoch on valid and of the same model on test, one metric a line."""
    valid, test = valid or {}, test or {}
    names = list(dict.fromkeys([*test, *valid]))
    width = max([len(name) for name in names] + [6])
    rows = [f"{'metric':<{width}}  {'valid':>9}  {'test':>9}"]
    for name in names:
        rows.append(f"{name:<{width}}  {_cell(valid.get(name))}  {_cell(test.get(name))}")
    return "\n" + "\n".join(rows)


def _cell(value: float | None) -> str:
    return " " * 9 if value is None else f"{value:>9.4f}"
