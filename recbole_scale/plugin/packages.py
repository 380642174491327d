"""Packages that a few of RecBole's models and switches need and RecBole does not install, told in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recbole_scale.errors import UserError

# the module that is imported: what pip calls it
PIP_NAMES = {
    "dgl": "dgl",
    "faiss": "faiss-cpu",  # NCL
    "hyperopt": "hyperopt",
    "lightgbm": "lightgbm",
    "plotly": "plotly",
    "sklearn": "scikit-learn",
    "torch_geometric": "torch-geometric",
    "torch_scatter": "torch-scatter",
    "wandb": "wandb",
    "xgboost": "xgboost",
}


@contextmanager
def missing_package_told(what: str) -> Iterator[None]:
    """Turn the import error of such a package inside the block into a sentence; ``what`` needs it.

    Raises:
        UserError: naming ``what``, the module and the command that installs it.
    """
    try:
        yield
    except ImportError as failure:
        cause = failure if failure.name else failure.__context__  # RecBole raises a nameless one for wandb
        module = str(getattr(cause, "name", None) or "").partition(".")[0]
        if module not in PIP_NAMES:
            raise
        raise UserError(f"{what} needs {module}; pip install {PIP_NAMES[module]} installs it") from failure
