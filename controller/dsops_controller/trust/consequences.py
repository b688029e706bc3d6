"""What follows when somebody can sign for roles that are not theirs, in words. Pure."""

from collections.abc import Collection

from dsops.errors import UntrustedBundle
from dsops.trust import Policy, model_role
from dsops_controller.trust.bundle_roles import read_facts
from dsops_controller.trust.policy_words import ring_words
from dsops_controller.trust.published import Published
from dsops_controller.trust.roles import FLEET, POLICY, ROOT, TARGETS, model_of

_ONLINE_PAIR = frozenset({"snapshot", "timestamp"})


def consequences(published: Published, roles: Collection[str]) -> list[str]:
    """Return what whoever can sign for ``roles`` could do; what is implied by a stronger one is left out."""
    if ROOT in roles:
        return ["replace every key of the fleet and so make every device run anything; needs only to reach the broker"]
    how = "" if set(roles) >= _ONLINE_PAIR else ", once it is published: the operator's token or the server's keys"
    if TARGETS in roles:
        models = ", ".join(published.state.models) or "no model yet"
        return [f"name new owners, policy keys and director, and so make every device run anything ({models}){how}"]
    lines = [f"{line}{how}" for role in roles if (line := _of_role(published, role))]
    return lines + _online(published, roles)


def _of_role(published: Published, role: str) -> str:
    if role == FLEET:
        return "name another director: direct every device within the policy, and lock this controller out"
    if role == POLICY:
        told = "; ".join(f"{model}: {_choice(published, model, None)}" for model in published.state.models)
        return f"open every ring: any device may then have what owners approved ({told or 'nothing'}); floors only rise"
    model = model_of(role)
    if model is None:
        return ""
    policy = published.policy(model)
    listed = "; ".join(f"release {number} on {ring_words(ring)}" for number, ring in sorted(policy.rings.items()))
    others = f"a new release on {ring_words(policy.default_ring)}"
    within = f"{others}{'; ' + listed if listed else ''}"
    return f"approve any bytes as {model} from release {policy.floor} on: by the policy, {within}"


def _online(published: Published, roles: Collection[str]) -> list[str]:
    lines = []
    if "director" in roles:
        chosen = [(model, _choice(published, model, published.policy(model))) for model in published.state.models]
        told = "; ".join(f"{model}: {choice}" for model, choice in chosen)
        lines.append(f"choose what devices run among what was approved, within the policy ({told or 'nothing'})")
    if set(roles) >= _ONLINE_PAIR:
        lines.append("hide new versions from devices, and block updates until root names other keys; forge no role")
    elif "timestamp" in roles:
        until = published.state.snapshot_content.expires
        lines.append(
            f"hold devices at what is published now, until {until:%Y-%m-%d} (snapshot), and block updates until root "
            "names another key"
        )
    elif "snapshot" in roles:
        lines.append("nothing: a snapshot counts only under a timestamp")
    return lines


def _choice(published: Published, model: str, policy: Policy | None) -> str:
    """Return the approved releases from the floor on; with a policy, each with the devices that may have it."""
    floor = published.policy(model).floor
    found = set()
    for target in published.state.signed[model_role(model)].targets.targets.values():
        try:
            found.add(read_facts(target).release)
        except UntrustedBundle:  # devices refuse it
            continue
    numbers = sorted(number for number in found if number >= floor)
    if policy is None:
        return ", ".join(f"release {number}" for number in numbers) or "nothing"
    rings = [(number, policy.rings.get(str(number), policy.default_ring)) for number in numbers]
    return ", ".join(f"release {number} on {ring_words(ring)}" for number, ring in rings) or "nothing"
