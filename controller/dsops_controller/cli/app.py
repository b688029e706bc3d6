"""The program ``dsops``: the one place where an error becomes text and an exit code.

It imports nothing that an extra brings, so that a missing extra is an error like any other.
"""

import errno
import importlib
import itertools
import json
import os
import sys
import traceback
from collections.abc import Sequence

from dsops.errors import DsopsError, InvalidInput, MissingExtra, NoSpace
from dsops.exits import Exit, describe, exit_code

DEBUG = "--debug"


def main() -> None:
    """Run the command line and exit with its code (see :mod:`dsops.exits`)."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command, print what there is to say, and return the exit code."""
    try:
        code = _command([word for word in arguments if word != DEBUG])
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except DsopsError as error:
        return _fail(error, arguments)
    except OSError as error:
        return _fail(_from_host(error), arguments)
    except Exception as error:  # a fault of ours: the traceback only for who asks for it
        if DEBUG in arguments:
            raise
        hint = f"run it again as: dsops {DEBUG} ..., and report what it shows"
        return _fail(DsopsError("the command broke", why=f"{type(error).__name__}: {error}", hint=hint), arguments)


def _command(arguments: Sequence[str]) -> int:
    try:
        root = importlib.import_module("dsops_controller.cli.root")
    except ImportError as error:
        if (error.name or "").startswith("dsops"):
            raise
        raise MissingExtra(
            "the command line needs the extra 'client'",
            why=f"{error.name} is not installed",
            hint="pip install 'dsops[client]'",
        ) from error
    code: int = root.run(arguments)
    return code


def _fail(error: DsopsError, arguments: Sequence[str]) -> int:
    """Print an error in three lines (what, why, what to do), or as JSON when the command was asked for JSON."""
    if DEBUG in arguments:
        traceback.print_exc()
    sys.stderr.write((json.dumps(error.as_dict()) if _wants_json(arguments) else describe(error)) + "\n")
    return exit_code(error)


def _from_host(error: OSError) -> DsopsError:
    what = f"cannot use {error.filename}" if error.filename else "the operating system refused"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(what, why=error.strerror or str(error))
    return InvalidInput(what, why=error.strerror or str(error), hint="check the path, and who may use it")


def _wants_json(arguments: Sequence[str]) -> bool:
    pairs = itertools.pairwise(arguments)
    apart = any(name in {"-o", "--output"} and value == "json" for name, value in pairs)
    return apart or "-ojson" in arguments or "--output=json" in arguments


if __name__ == "__main__":
    main()
