"""The root of the error tree."""

from typing import ClassVar


class DsopsError(Exception):
    """Root of every expected failure.

    Args:
        what: One line that says what happened.
        why: One line that says why, when it is known.
        hint: One line that says what to do.
        details: Machine-readable facts (names, sizes, digests); never secrets.
    """

    code: ClassVar[str] = "error"
    default_hint: ClassVar[str] = ""

    def __init__(self, what: str, *, why: str = "", hint: str = "", **details: str | int | float | bool) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint or self.default_hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form: ``code``, ``message``, ``why``, ``hint``, ``details``."""
        return {"code": self.code, "message": self.what, "why": self.why, "hint": self.hint, "details": self.details}
