"""Runs the commands of the documents as they are written, on small data; nothing here needs a test tool.

    python tests/helpers/document_commands.py README.md     # in the environment that `make quickstart` has made

Every data set named in a document is a small one in the folder's ``dataset/``; a command that would take long is
shortened by the substitutions below, and by nothing else.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "results/README.md",
    *(f"docs/{p.name}" for p in sorted(ROOT.glob("docs/*.md"))),
]
DATA_SETS = ("ml-100k", "ml-1m", "my-log")
SHORTER = {  # what is written, and what is run
    "--seeds 1 2 3": "--seeds 1",
    "--seeds 2": "--seeds 1",
    "--epochs 10": "--epochs 1",
    "--epochs=20": "--epochs=1 --dry_run",  # a search starts Ray; tests/test_search.py carries searches out
    "--budget 60s": "--budget 1s",
    "--challenges long_tail robustness": "--challenges long_tail robustness --ratios 0.5 --seeds 1",
    "--hours 1": "--minutes 5 --dry_run",  # the verb's own tests carry studies out
    "--nproc=2": "--nproc=2 --dry_run",  # tests/test_parallel.py trains on two processes
}
EVERY_RUN = ["--epochs=1"]  # of run_recbole, where the document says no number


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[str]:
    """Every line of a document's shell blocks, continued lines joined, remarks left out."""
    lines = [line for block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [
        line for line in (re.sub(r"\s#.*", "", line).strip() for line in lines) if line and not line.startswith("#")
    ]


def small_log(path: Path, users: int = 40, items: int = 120) -> None:
    """Users who mostly step to the next item on a ring."""
    dice = random.Random(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        item = dice.randrange(items)
        for time in range(dice.randrange(5, 25)):
            lines.append(f"u{user}\ti{item}\t{time + 1}")
            item = (item + 1) % items if dice.random() < 0.8 else dice.randrange(items)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def furnish(folder: Path) -> None:
    """What a reader has who comes to a document: a clone's rows, the data sets, a CSV of his own."""
    shutil.copytree(ROOT / "results", folder / "results")
    for name in DATA_SETS:
        small_log(folder / "dataset" / name / f"{name}.inter")
    rows = (folder / "dataset" / "my-log" / "my-log.inter").read_text().splitlines()[1:]
    (folder / "log.csv").write_text("uid,iid,ts\n" + "\n".join(row.replace("\t", ",") for row in rows) + "\n")


def run(command: str) -> None:
    """Run one command of a document in this process and this folder; raises where it ends with another code than 0."""
    for written, shorter in SHORTER.items():
        command = command.replace(written, shorter)
    words = shlex.split(command)
    if words[:2] == ["make", "quickstart"] or words[0] in ("make", "source", "pip", "git"):
        return check_shell(words)
    if words[0] == "bash":
        code = os.system(
            shlex.join(["env", f"PYTHON={sys.executable}", "bash", str(ROOT / words[1]), *words[2:], "--dry_run"])
        )
        assert code == 0, command
        return None
    if words[:2] == ["python", "-m"]:
        assert words[2] == "pytest", command  # a test file that exists
        assert (ROOT / words[-1]).exists(), command
        return None
    if words[0] == "python":
        assert (ROOT / words[1]).is_file(), command
        return None
    from recbole_scale import cli
    from recbole_scale.errors import exit_code

    if words[0] == "recbole-scale":
        main: Callable[[], int | None] = lambda: cli.run_verb(words[1:])  # noqa: E731
    else:
        more = EVERY_RUN if words[0] == "run_recbole" and "--epochs" not in command and "--dry_run" not in words else []
        sys.argv = [*words, *more]
        main = {"run_recbole": cli._run_recbole, "run_hyper": cli._run_hyper}[words[0]]
    code = exit_code(main)
    assert code == 0, f"{command} ended with {code}"
    return None


def check_shell(words: list[str]) -> None:
    """What sets up an environment is run by .ci/run itself; here its parts must exist."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), words


def run_document(name: str) -> None:
    """Run a document's shell and Python blocks, in the order in which they stand, in a furnished folder."""
    text = (ROOT / name).read_text("utf-8")
    home, given = os.getcwd(), sys.argv
    with tempfile.TemporaryDirectory() as folder:
        furnish(Path(folder))
        os.chdir(folder)
        try:
            for language, block in re.findall(r"```(bash|python)\n(.*?)```", text, flags=re.DOTALL):
                if language == "python":
                    exec(compile(block, name, "exec"), {"__name__": "block"})
                else:
                    for command in commands(f"```bash\n{block}```"):
                        print(f"$ {command}", flush=True)
                        run(command)
        finally:
            os.chdir(home)
            sys.argv = given


if __name__ == "__main__":
    for document in sys.argv[1:]:
        run_document(document)
