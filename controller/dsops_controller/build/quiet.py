"""Keeps other libraries' talk off the terminal."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard what libraries print and warn within the block; errors are raised as ever.

    LiteRT's C++ part writes to file descriptor 2 directly, so that is turned to the null device for the time. The
    block should be the one thing that the process does.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_null_descriptor(2))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _null_descriptor(descriptor: int) -> Iterator[None]:
    saved = os.dup(descriptor)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)
        os.close(null)
