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
    config = prepared.config
    known = costs(prepared, network)
    lines = [f"{config['model']} on {config['dataset']}"]
    data = f"{known['n_users']:,} users, {known['n_items']:,} items"
    if not isinstance(network, ScaledSASRec):
        return "\n".join([*lines, _line("data", data), _line("parameters", f"{known['n_parameters']:,}")])
    loader, shape = prepared.train_data, network.shape
    rates = dropout_rates(config)
    batch = int(config["train_batch_size"])
    memory = memory_plan(shape, batch, network.softmax_chunk, max(rates) > 0)
    steps = len(loader)
    flops = known["flops_per_interaction"]
    lines += [
        _line("size", f"{known['size'] or 'own shape'}: {shape.n_layers} layers x {shape.d_model}, {shape.n_heads} heads, "
              f"length {shape.max_length}"),
        _line("parameters", f"N {_short(known['n_blocks'])} (blocks exact {known['n_blocks_exact']:,}), items "
              f"{known['n_item_embedding']:,}, positions {known['n_positions']:,}; all {total_parameters(shape):,}"),
        _line("dropout", f"{rates[0]:g} (bottom) to {rates[-1]:g} (top)" if rates[0] != rates[-1] else f"{rates[0]:g}"),
        _line("data", f"{data}, {loader.n_targets:,} training targets, "
              f"{len(prepared.valid_data.dataset):,} valid, {len(prepared.test_data.dataset):,} test"),
        _line("windows", f"{len(loader.windows):,} of up to {loader.max_length}, stride {loader.stride}, "
              f"{100 * loader.padding:.1f} % padding"),
        _line("steps", f"{steps:,} an epoch of up to {batch:,} targets, {config['epochs']} epochs, "
              f"{steps * config['epochs']:,} in all"),
        _line("compute", f"{_short(flops)}FLOP a target, {_short(flops * loader.n_targets)}FLOP an epoch, softmax included"),
        _line("memory", f"{sum(memory.values()) / 2**20:,.0f} MiB at the peak of a step: "
              + ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in memory.items())),
    ]  # fmt: skip
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    return f"  {name:<11}{text}"


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
