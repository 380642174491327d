"""The documented defaults as the YAML that a run reads; ``python -m recbole_scale.settings.write`` writes it."""

from __future__ import annotations

from typing import Any

from recbole_scale.settings.keys import DataSettings, ModelSettings, TrainingSettings
from recbole_scale.settings.package_keys import FMLPRecSettings, PackageSettings
from recbole_scale.settings.reading import properties_folder
from recbole_scale.settings.typed import Settings

_COMMENT = 32  # column of the comments, as in RecBole's own files
_OPEN = """# Defaults of ScaledSASRec. Order of precedence: these < the size's file < config files < --key=value.
# Written by: python -m recbole_scale.settings.write
"""
_EVALUATION = """
# Evaluation: leave-one-out in exact time order, full ranking
eval_args:
  split: {'LS': 'valid_and_test'}
  order: TO
  group_by: user
  mode: full
repeatable: True
metrics: [Recall, NDCG, ItemCoverage, NLL]
topk: [5, 10, 50]
# chooses the checkpoint and counts patience; the best by NLL (with NLL here: by NDCG@10) is kept and tested as well
valid_metric: NDCG@10           # (str) Unset and not measured: the nearest ranking metric that is. Sweeps take NLL.
eval_batch_size: 256            # (int) Users ranked at once: rows of V scores.
metric_decimal_place: 6         # (int) A law is fitted to NLL; four places would round its curve away.
"""


def lines(part: type[Settings], as_comment: bool = False) -> str:
    """One line a key: value, type, documentation; ``as_comment``: behind a #."""
    return "".join(
        f"{'# ' * as_comment}{one.name}: {_value(one.default)}".ljust(_COMMENT - 1)
        + f" # ({one.kind.type}) {one.doc}\n"
        for one in part.documented()
    )


def _value(value: Any) -> str:
    if value is None:
        return "~"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_value(one)}" for name, one in value.items()) + "}"
    return str(value).replace("e-0", "e-")


def scaled_sasrec_yaml() -> str:
    """``properties/model/ScaledSASRec.yaml``."""
    size, *model = lines(ModelSettings).splitlines(keepends=True)
    parts = [
        _OPEN + size,
        "# Model\n" + "".join(model),
        "# Data\n" + lines(DataSettings),
        "# Training\n" + lines(TrainingSettings),
        "# Of any model; these defaults are set for every one\n" + lines(PackageSettings, as_comment=True),
    ]
    return "\n".join(parts) + _EVALUATION


def fmlprec_yaml() -> str:
    """``properties/model/FMLPRec.yaml``."""
    head = "# Defaults of FMLPRec (arXiv 2202.13556). Everything else is RecBole's default for sequential models.\n"
    return f"{head}# Written by: python -m recbole_scale.settings.write\n{lines(FMLPRecSettings)}"


FILES = {"ScaledSASRec.yaml": scaled_sasrec_yaml, "FMLPRec.yaml": fmlprec_yaml}

if __name__ == "__main__":
    for name, text in FILES.items():
        (properties_folder() / "model" / name).write_text(text(), "utf-8")
