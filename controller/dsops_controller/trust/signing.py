"""One holder's signatures on an event. Pure but for the key."""

from collections.abc import Iterable

from dsops.errors import InvalidInput
from dsops_controller.trust import anchor
from dsops_controller.trust.events import Event
from dsops_controller.trust.holders import holder_of
from dsops_controller.trust.signers import OpenKey


def may_sign(event: Event, key: OpenKey) -> tuple[str, ...]:
    """Return the pending roles that a key may sign.

    Raises:
        InvalidInput: There is none.
    """
    names = tuple(name for name in event.roles if key.public.keyid in event.keys(name))
    if not names:
        holders = sorted({holder_of(known) for name in event.roles for known in event.keys(name).values()})
        why = f"its id is {key.public.keyid[:8]}...; the event waits for {', '.join(holders)}"
        raise InvalidInput(f"{key.uri} may sign nothing in this event", why=why, hint="is it the right key?")
    return names


def check(event: Event, key: OpenKey, known_root: bytes | None = None) -> tuple[str, ...]:
    """Return the pending roles that a key may sign, where its holder knows what they build upon.

    Args:
        event: The event.
        key: The holder's key.
        known_root: A root that the holder knows, when the key signed nothing of this fleet before.

    Raises:
        InvalidInput: The key may sign nothing.
        UntrustedBundle: Nothing that the holder knows leads to what the event calls published.
    """
    names = may_sign(event, key)
    for name in names:
        anchor.check(event, name, key.public, known_root)
    return names


def sign(event: Event, key: OpenKey, names: Iterable[str]) -> Event:
    """Return the event with a key's signature on some roles (of :func:`check`).

    Raises:
        InvalidInput: The key cannot be used.
    """
    for name in names:
        event = event.with_signature(name, key.sign(event.roles[name].payload))
    return event
