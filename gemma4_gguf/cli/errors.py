"""Exit codes: one table from the type of an error to its code, and the sentence on stderr."""

from __future__ import annotations

import sys

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


def exit_code(error: BaseException) -> int:
    """The exit code of an error.

    Args:
        error: of any type.

    Returns:
        EXIT_BUG for one that the library does not raise on purpose.
    """
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), EXIT_BUG)


def report(error: Exception) -> int:
    """Writes one sentence to stderr.

    Args:
        error: what ended the command.

    Returns:
        The exit code.
    """
    from gemma4_gguf.cli.output import hint

    code = exit_code(error)
    if code == EXIT_BUG:
        hint(f"[red]bug:[/] {type(error).__name__}: ", str(error))
        hint("", "Please report it with the traceback that GEMMA4_GGUF_DEBUG=1 shows.")
    else:
        hint("[red]error:[/] ", str(error))
    sys.stderr.flush()
    return code
