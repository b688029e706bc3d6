"""What a mutant is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One check left out.

    Attributes:
        name: What is not checked any more.
        file: The source, relative to the repository, or in an installed package.
        before: The text that is replaced; it stands there once.
        after: What stands there in the mutant.
        killers: Tests, each of which must fail (a parametrized one in at least one case).
    """

    name: str
    file: str
    before: str
    after: str
    killers: tuple[str, ...]
