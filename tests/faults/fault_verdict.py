"""What is wrong after a fault."""

from dataclasses import dataclass, field


@dataclass
class Verdict:
    """What is wrong after a fault.

    Attributes:
        bricked: The device does not start, or serves nothing although it served something.
        lost: What it had acknowledged is gone.
        broken: Another invariant does not hold.
        end: How it ended.
        repeated: Events that were told twice.
    """

    bricked: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    end: str = ""
    repeated: int = 0
