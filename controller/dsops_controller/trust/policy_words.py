"""A policy, and what changes in it, in words. Pure."""

from dsops.trust import Policy, Ring


def describe(before: Policy | None, after: Policy) -> list[str]:
    """Return what devices may run by ``after``, or what of it differs from ``before``."""
    lines = []
    if before is None or before.floor != after.floor:
        was = f" (now {before.floor})" if before else ""
        falls = "; THE FLOOR FALLS" if before and after.floor < before.floor else ""
        lines.append(f"{after.model}: no release below {after.floor}{was}{falls}")
    for release in sorted({*after.rings, *(before.rings if before else ())}, key=_number):
        old, new = (before.rings.get(release) if before else None), after.rings.get(release)
        if old != new or (before is None and new):
            lines.append(f"{after.model} release {release}: {_change(old, new)}")
    if before is None or before.default_ring != after.default_ring:
        lines.append(f"{after.model}, every release without a line of its own: {_change(None, after.default_ring)}")
    return lines


def ring_words(ring: Ring | None) -> str:
    """Return who is inside a ring."""
    if ring is None:
        return "no device"
    share = f"{ring.fraction * 100:g} % of the devices"
    parts = ["every device"] if ring.fraction == 1 else [share] if ring.fraction else []
    if ring.canary and ring.fraction < 1:
        parts.append(", ".join(ring.canary))
    return " and ".join(parts) or "no device"


def _change(old: Ring | None, new: Ring | None) -> str:
    if old is None:
        return ring_words(new)
    if new is None:
        return f"no line of its own any more (now {ring_words(old)})"
    drawn = "; other devices are drawn" if old.salt != new.salt else ""
    return f"{ring_words(new)} (now {ring_words(old)}){drawn}"


def _number(release: str) -> tuple[int, str]:
    return (int(release) if release.isdecimal() else -1, release)
