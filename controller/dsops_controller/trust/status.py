"""How far an event is: which signatures each pending role has, and whose it waits for. Pure."""

from dataclasses import dataclass

from dsops.errors import UnsignedMetadata
from dsops_controller.trust.events import Event
from dsops_controller.trust.holders import holder_of
from dsops_controller.trust.roles import ROOT


@dataclass(frozen=True)
class Need:
    """What one pending role needs of one group of keys.

    Attributes:
        role: The role.
        by: Who asks for it: empty, or for a root that follows another "root now" and "new root".
        threshold: Signatures that are needed.
        signed: Holders that signed.
        missing: Holders that did not.
    """

    role: str
    by: str
    threshold: int
    signed: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def is_met(self) -> bool:
        """Whether there are enough."""
        return len(self.signed) >= self.threshold

    @property
    def sentence(self) -> str:
        """The need as a line for people."""
        name = f"{self.role} ({self.by})" if self.by else self.role
        more = f", missing: {', '.join(self.missing)}" if self.missing and not self.is_met else ""
        spare = f", may still sign: {', '.join(self.missing)}" if self.missing and self.is_met else ""
        return f"{name} {len(self.signed)}/{self.threshold} signatures{more}{spare}"


def needs(event: Event) -> tuple[Need, ...]:
    """Return what every pending role needs.

    Raises:
        UntrustedBundle: No delegation names a pending role.
    """
    found = []
    for name, role in event.roles.items():
        event.keys(name)
        delegators = event.delegators(name)
        words = ("root now", "new root") if name == ROOT and len(delegators) == 2 else ("",)
        for word, delegator in zip(words, delegators, strict=True):
            result = delegator.get_verification_result(name, role.payload, role.signatures)
            signed, missing = (
                tuple(sorted(map(holder_of, keys.values()))) for keys in (result.signed, result.unsigned)
            )
            found.append(Need(name, word, result.threshold, signed, missing))
    return tuple(found)


def check_complete(event: Event) -> None:
    """Check that every pending role has its signatures.

    Raises:
        UnsignedMetadata: One has too few; the text says whose are missing.
    """
    open_ = [need.sentence for need in needs(event) if not need.is_met]
    if open_:
        raise UnsignedMetadata("the event has too few signatures", why="; ".join(open_))
