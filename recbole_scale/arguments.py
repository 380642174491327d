"""The head that every command's options share: one spelling of values, no abbreviations, one sentence for a mistake."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import textwrap
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, NoReturn

from recbole_scale.errors import UserError, nearest, shown
from recbole_scale.settings import find_settings_file, load_settings_file, parse_arguments, parse_value
from recbole_scale.settings.recbole_keys import RecBoleSettings
from recbole_scale.settings.typed import defaults
from recbole_scale.terminal import COMMANDS

_PLACES = ("FILE", "DIR", "PATH")  # metavars of values that may hold commas and spaces
NEGATIVE = r"-[\d.]"  # how a value begins that is no option
_SPACE = "\0"  # argparse takes --topk=[5, 10] for a word of the list before it, because of the space
_ALSO_ROWS = ("--runs", "--results_file")  # --rows has had these names, and the setting is called so
# settings of several processes, for commands whose runs are one each
ONE_PROCESS = dict.fromkeys(
    ("nproc", "world_size", "ip", "port", "group_offset", "offset", "local_rank"),
    "each of its runs is one process; run_recbole trains on several",
)


class _Help(argparse.HelpFormatter):
    """Help as wide as the terminal: prose is filled, a command that is too long goes on behind a backslash."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return filled(text, width)


def filled(text: str, width: int) -> str:
    """Prose filled to ``width`` letters; indented lines stay, but for commands, continued as shells read them."""
    lines: list[str] = []
    for line in text.replace("\\\n", "").splitlines():
        words = " ".join(line.split())
        if not line.startswith("  "):
            joins = lines and lines[-1] and not lines[-1].startswith("  ") and not lines[-1].endswith(":")
            lines += [f"{lines.pop()} {words}"] if joins and words else [words]
        else:
            lines.append(f"  {words}" if re.match(COMMANDS, words) else line)
    return "\n".join(_fitted(line, width) for line in lines)


def _fitted(line: str, width: int) -> str:
    command, known = re.match(COMMANDS, line.strip()), re.match(r"  [\w-]+ {2,}", line)  # a name and what it means
    if len(line) <= width or (line.startswith("  ") and not command and not known):
        return line
    indent = " " * (6 if command else known.end() if known else 0)
    keep = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
    return (" \\\n" if command else "\n").join(textwrap.wrap(line, width - 2 * bool(command), **keep))  # type: ignore[arg-type]


def whole_number(text: str) -> int:
    """A whole number that fits into 64 bits, as counts and seeds must."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not '{text[:40]}'") from None
    if not -(2**63) <= value < 2**63:
        raise argparse.ArgumentTypeError(f"is {text[:20]}..., but must be a whole number below 2**63")
    return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, not '{text[:40]}'")
    return value


def word(text: str) -> str:
    """A value that is there: an empty one would be taken for an option that is not given."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text


def place(text: str) -> str:
    """A file or folder as a setting names it: ``1`` would be read as a number, ``./1`` is what was meant."""
    return text if parse_value(word(text)) == text else f"./{text}"


def seed_number(text: str) -> int:
    """A seed of numpy's generators, which take none below 0."""
    if (value := whole_number(text)) < 0:
        raise argparse.ArgumentTypeError(f"is {value}, but must be at least 0")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0, such as a price."""
    if (value := number(text)) <= 0:
        raise argparse.ArgumentTypeError(f"is {value:g}, but must be a number above 0")
    return value


def print_version() -> None:
    """What ``--version`` prints, looked up when it is asked for."""
    print(f"recbole-scale {version('recbole-scale')}")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> NoReturn:
        print_version()
        parser.exit()


class CommandParser(argparse.ArgumentParser):
    """Options as ``--key value`` or ``--key=value``, with ``-`` or ``_`` in the key; lists by space or comma.

    Args:
        prog: the command as it is typed.
        description: what it does, in a sentence.
        examples: lines that work as they stand.
        decided: settings of a run that the command decides by itself, each with what says so in their place.
        stated: what it decides on, where that may be said as well.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        examples: str = "",
        decided: Mapping[str, str] | None = None,
        stated: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=_Help,
            allow_abbrev=False,
        )
        self.register("type", int, whole_number)
        self.register("type", float, number)
        self.register("type", None, word)
        self._negative_number_matcher = re.compile(NEGATIVE)  # argparse's own knows -1, and takes -1x8 for an option
        self.takes_settings = False  # whether what is no option of ours is a setting of a run
        self.decided, self.stated = decided or {}, {"nproc": 1, **(stated or {})}
        self.add_argument(
            "--version", nargs=0, action=_Version, dest=argparse.SUPPRESS, help="show the version and stop"
        )

    def error(self, message: str) -> NoReturn:
        """Every mistake is a sentence."""
        raise UserError(f"{message}; {self.prog} --help shows the options")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """The options; one that does not exist is refused with the nearest that does."""
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            self._refuse(rest[0].partition("=")[0])
        return options

    def _refuse(self, name: str) -> NoReturn:
        raise UserError(
            f"there is no option {name}{nearest(name, self._option_string_actions)}"
            if name.startswith("-")
            else f"the word '{name[:100]}' belongs to no option; {self.prog} --help shows them"
        )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse's, on arguments in one spelling."""
        given = sys.argv[1:] if args is None else list(args)
        options, rest = super().parse_known_args(self._spelled(given), namespace)
        return options, [argument.replace(_SPACE, " ") for argument in rest]

    def parse_with_settings(self, args: Sequence[str] | None = None) -> tuple[Any, dict[str, Any]]:
        """The options, and everything else as settings of a run."""
        self.takes_settings = True
        options, rest = self.parse_known_args(args)
        for argument in rest:
            near = get_close_matches(argument, self._option_string_actions, cutoff=0.85)  # --dryrun
            if "=" not in argument and (near or not argument.startswith("-")):
                self._refuse(argument)
        settings = parse_arguments(rest)
        self.check_settings(settings)
        return options, settings

    def check_settings(self, settings: Mapping[str, Any], file: str = "") -> None:
        """Refuse settings that the command would override in silence.

        Raises:
            UserError: saying what decides in place of the setting.
        """
        for name, value in settings.items():
            way = self.decided.get(name.rpartition(".")[2])
            if way and (name, value) not in self.stated.items():
                raise UserError(f"{f'{file}: ' if file else ''}{self.prog} decides {name} itself: {way}")

    def check_files(self, paths: Iterable[str], but: Sequence[str] = ()) -> None:
        """As :meth:`check_settings` of config files, which may hold ``but``, and state RecBole's defaults."""
        usual = defaults(RecBoleSettings).items()
        for path in paths:
            found = load_settings_file(find_settings_file(path)).items()
            self.check_settings({k: v for k, v in found if k not in but and (k, v) not in usual}, path)

    def _spelled(self, args: Sequence[str]) -> list[str]:
        """Known options with underscores; the values of a list one by one; a setting in one word with its value."""
        spelled: list[str] = []
        left = deque(args)
        while left:
            argument = left.popleft()
            if not argument.startswith("-"):
                spelled.append(argument)
                continue
            key, equals, value = argument.partition("=")
            key = key.replace("-", "_").replace("__", "--", 1) if key.startswith("--") else key
            key = "--rows" if key in _ALSO_ROWS and "--rows" in self._option_string_actions else key
            value = os.path.expanduser(value) if value.startswith("~") else value  # as a shell does after a space
            action = self._option_string_actions.get(key)
            if action is None:
                setting = f"{key}{equals}{value}"
                if self.takes_settings and key.startswith("--"):
                    setting = _one_word(key, [value] if equals else [], left)
                spelled.append(setting.replace(" ", _SPACE))
            elif isinstance(action, argparse._StoreTrueAction):
                spelled += [key] * _flag(key, [value] if equals else [], left)
            elif action.nargs == "+":
                words = [value] if equals else []
                while left and _is_word(left[0]):
                    words.append(left.popleft())
                spelled += [key, *self._split(words, action.metavar)]
            else:
                spelled.append(key + equals + value)
        return spelled

    @staticmethod
    def _split(words: list[str], metavar: Any) -> list[str]:
        """The values of a list, which may stand in brackets and with commas between; places are as they are."""
        if metavar in _PLACES:
            return words
        if metavar == "COL=VALUE":  # a value may hold blanks
            return [word.strip(",") for word in words]
        return [one for word in words for one in word.strip("[]").replace(",", " ").split()]


def _is_word(argument: str) -> bool:
    """Whether an argument is a value and no option; negative numbers are values."""
    return not argument.startswith("-") or bool(re.match(NEGATIVE, argument))


def _one_word(key: str, words: list[str], left: deque[str]) -> str:
    """``--key=value`` of a setting whose value may stand in words of its own: ``--topk [5, 10]``, ``--topk 5 10``."""
    start = words[0] if words else ""
    opened = not start.strip() or sum(map(start.count, "[{")) > sum(map(start.count, "]}"))
    while opened and left and _is_word(left[0]):
        words.append(left.popleft())
    words = [word for word in words if word not in ("", "=")] or words[:1]
    if not words:
        return key
    if len(words) == 1 or words[0][:1] in ("[", "{"):
        return f"{key}={' '.join(words)}"
    return f"{key}=[{', '.join(word.strip(',') for word in words)}]"


def _flag(key: str, words: list[str], left: deque[str]) -> bool:
    """Whether a switch is on: it stands alone, or with True or False as settings have them."""
    if not words and left and isinstance(parse_value(left[0]), bool):
        words = [left.popleft()]
    value = parse_value(words[0]) if words else True
    if not isinstance(value, bool):
        raise UserError(f"{key} is {shown(value)}, but must be True or False")
    return value


def file_names(value: Sequence[str] | None) -> list[str]:
    """Names of files as RecBole takes them, several in one value with blanks between; a file's own blanks stay."""
    return [
        name for word in value or () for name in ([word] if os.path.isfile(word) else re.split(r"[\s,]+", word)) if name
    ]
