"""Whether a holder may build on what an event calls published. Pure.

The copy of what is published comes from a server that may be hostile, and a signature shall never be lent to what its
holder never saw: the difference that is shown before signing says something only if what it starts from is true. It
is, if the holder's own key signed that very role; or if it follows, each step signed by enough keys, from a root that
the holder's key signed or that the holder brings along.
"""

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key
from tuf.api.metadata import Targets

from dsops.errors import UntrustedBundle
from dsops_controller.trust.events import Event
from dsops_controller.trust.roles import ROOT, TARGETS, SignedRole, check_signatures, read_role
from dsops_controller.trust.state import TrustState


def check(event: Event, name: str, key: Key, known_root: bytes | None) -> None:
    """Check that a key may sign a pending role.

    Args:
        event: The event.
        name: The role.
        key: The public half of the holder's key.
        known_root: A root that the holder knows from elsewhere.

    Raises:
        UntrustedBundle: Nothing that the holder knows leads to what the event calls published.
    """
    if event.base is None or _is_empty(event, name):
        return
    check_state(event.base.state, name, key, known_root)


def check_state(state: TrustState, name: str, key: Key, known_root: bytes | None) -> None:
    """Check that a role of ``state`` was signed by the key, or follows from a root that the holder knows.

    Raises:
        UntrustedBundle: It does not.
    """
    published = read_role(state.roots[-1]) if name == ROOT else state.signed.get(name)
    if published is not None and signed_by(published, key):
        return
    roots = [read_role(data) for data in state.roots]
    start = _start(roots, key, known_root)
    for before, after in zip(roots[start:], roots[start + 1 :], strict=False):
        check_signatures(after, before.root)
        check_signatures(after, after.root)
    if name == ROOT:
        return
    targets = state.signed[TARGETS]
    check_signatures(targets, roots[-1].root)
    if name != TARGETS and published is not None:
        check_signatures(published, targets.targets)


def signed_by(role: SignedRole, key: Key) -> bool:
    """Return whether a key signed a role."""
    signature = role.signatures.get(key.keyid)
    if signature is None:
        return False
    try:
        key.verify_signature(signature, role.payload)
    except UnverifiedSignatureError:
        return False
    return True


def _start(roots: list[SignedRole], key: Key, known_root: bytes | None) -> int:
    """Return the place of the first root that the holder knows."""
    if known_root is not None:
        known = read_role(known_root).payload
        for place, role in enumerate(roots):
            if role.payload == known:
                return place
        raise UntrustedBundle("the event does not build on the root that you gave", why="its base/ is of another fleet")
    for place, role in enumerate(roots):
        if signed_by(role, key):
            return place
    raise UntrustedBundle(
        "nothing that the event calls published is signed by your key",
        why="somebody may have made it up, to have you sign a change that you do not see",
        hint="give a root that you know: --known-root 1.root.json, from another holder or from a device",
    )


def _is_empty(event: Event, name: str) -> bool:
    """Return whether a role is new and names nothing: there is nothing yet that a signature could be lent to."""
    signed = event.roles[name].signed
    return event.before(name) is None and isinstance(signed, Targets) and not signed.targets and not signed.delegations
