"""Exit codes: one table from the type of an error to its code, and the sentence on stderr."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from gemma4_gguf import errors

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_BUG = 70  # sysexits.h EX_SOFTWARE
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141

# The first row whose type fits counts, so a subclass stands above its base.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.QuantTypeError, EXIT_USAGE),
    (errors.OptionError, EXIT_USAGE),
    (errors.CheckpointError, 3),
    (errors.HubError, 4),
    (errors.OutputError, 5),
    (errors.GGUFError, 6),
    (errors.EngineError, 7),
    (errors.MediaError, 8),
    (errors.MessageError, 9),
    (errors.ContextFullError, 10),
    (errors.TemplateError, 11),
    (errors.SchemaError, 12),
    (errors.GrammarError, 12),
    (errors.IncompleteReplyError, 13),
    (errors.InvalidReplyError, 13),
    (errors.Gemma4Error, EXIT_FAILURE),
)

_QUOTES = "'\""
_OPTION = re.compile(
    r"(?<![\w./-])(?P<name>[a-z][a-z_]*)(?P<assigned>=(?P<value>'[^']*'|\"[^\"]*\"|None|True|False|…|-?\d+(?:\.\d+)?)?)?(?![\w(])"
)
_OTHER_NAMES = {"thinking": "think", "projector_type": "mmproj_type"}


def exit_code(error: BaseException) -> int:
    """The exit code of an error.

    Args:
        error: of any type.

    Returns:
        EXIT_BUG for one that the library does not raise on purpose.
    """
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), EXIT_BUG)


def report(error: Exception, flags: Mapping[str, str] | None = None) -> int:
    """Writes one sentence to stderr.

    Args:
        error: what ended the command.
        flags: how its options are typed, by their names in Python.

    Returns:
        The exit code.
    """
    from gemma4_gguf.cli.output import hint

    code = exit_code(error)
    if code != EXIT_BUG:
        hint("[red]error:[/] ", in_words_of_the_command(str(error), flags or {}))
    elif isinstance(error, OSError | MemoryError):  # the machine's fault, in a place where nothing expects it
        code = EXIT_FAILURE
        what = getattr(error, "strerror", None) or str(error) or "Out of memory"
        name = getattr(error, "filename", None)
        hint("[red]error:[/] ", f"{name}: {what}." if name is not None else f"{what}.")
    else:
        hint("[red]bug:[/] ", f"{type(error).__name__}: {error}")
        hint("", "Please report it with the traceback that GEMMA4_GGUF_DEBUG=1 shows.")
    sys.stderr.flush()
    return code


def in_words_of_the_command(message: str, flags: Mapping[str, str]) -> str:
    """A message of the library with its options as they are typed.

    Args:
        message: names options as in Python: `projector=`, `device='cpu'`, `n_ctx`.
        flags: how they are typed.

    Returns:
        The same with `--mmproj`, `--device cpu`, `--ctx`.
    """

    def typed(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        flag = flags.get(_OTHER_NAMES.get(name, name))
        # A bare word may be just a word, unless it is spelled as no word is.
        if flag is None or (found["assigned"] is None and "_" not in name):
            return found[0]
        if value in ("None", "False"):
            negated = f"--no-{flag.removeprefix('--')}"
            return negated if not flag.startswith("--no-") else flag
        return flag if value in (None, "True", "…") else f"{flag} {value.strip(_QUOTES)}"

    if flags:
        message = re.sub(r"\bforce \((--force)\)", r"\1", message).replace(", or None", ", or leave it out")
    return _OPTION.sub(typed, message)
