"""What a signing event is about, before anybody signed: the next version of every role that must change. Pure.

Each function takes an :class:`Edit` over what is published and says what shall be otherwise; several may follow one
another in one event.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError
from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Role, Root, TargetFile, Targets

from dsops import strictjson
from dsops.errors import Conflict, InvalidInput, NotFound
from dsops.ids import model_name
from dsops.manifest import Frozen, first_problem
from dsops.trust import DIRECTOR_PATH, Director, Policy, model_role, policy_path
from dsops_controller.trust.events import Event, Info
from dsops_controller.trust.holders import holder_of, named
from dsops_controller.trust.keys import OnlinePublic, tuf_key
from dsops_controller.trust.policies import check_floor
from dsops_controller.trust.published import Published
from dsops_controller.trust.roles import (
    FLEET,
    POLICY,
    ROOT,
    TARGETS,
    lifetime,
    new_targets,
    path_prefix,
    read_role,
    sign_role,
)

MAX_KEYS = 9
SERVER = "the server"


@dataclass(frozen=True)
class Group:
    """Keys of which a number must sign."""

    keys: Sequence[Key]
    threshold: int

    def __post_init__(self) -> None:
        """Check that it can be.

        Raises:
            InvalidInput: The threshold cannot be met, or a key comes twice.
        """
        check_threshold(len(self.keys), self.threshold)
        if len({key.keyid for key in self.keys}) != len(self.keys):
            raise InvalidInput("one key is given twice", why=", ".join(map(holder_of, self.keys)))


@dataclass
class Edit:
    """The roles that are changed in one event: each is one version higher, with a whole life ahead.

    Attributes:
        base: What is published; None for a first event.
        now: The time.
        roles: The roles that were taken up so far.
        small: The small targets that change.
    """

    base: Published | None
    now: datetime
    roles: dict[str, Root | Targets] = field(default_factory=dict)
    small: dict[str, bytes] = field(default_factory=dict)

    @property
    def root(self) -> Root:
        """Root, to be changed."""
        role = self.take(ROOT)
        assert isinstance(role, Root)
        return role

    def targets(self, name: str = TARGETS) -> Targets:
        """Return a role other than root, to be changed."""
        role = self.take(name)
        assert isinstance(role, Targets)
        return role

    def take(self, name: str) -> Root | Targets:
        """Return a role to be changed; its version rises once.

        Raises:
            NotFound: There is no such role.
        """
        if name not in self.roles:
            self.roles[name] = self._next(name)
        return self.roles[name]

    def put(self, role: str, path: str, value: Frozen) -> None:
        """Let a role sign a small target."""
        data = strictjson.dumps(value.model_dump(mode="json"))
        self.small[path] = data
        self.targets(role).targets[path] = TargetFile.from_data(path, data, ["sha256"])

    def event(self, kind: str, title: str, fleet: str) -> Event:
        """Return the event, without a signature."""
        documents = {name: sign_role(role, ()) for name, role in self.roles.items()}
        return Event(Info(kind=kind, title=title, created=self.now, fleet=fleet), self.base, documents, self.small)

    def _next(self, name: str) -> Root | Targets:
        if self.base is None:
            return Root(consistent_snapshot=True, version=1) if name == ROOT else new_targets(name, 1, self.now)
        state = self.base.state
        present = state.roots[-1] if name == ROOT else state.roles.get(name)
        if present is None:
            raise NotFound(f"there is no role {name}", why=f"there are {', '.join([ROOT, *sorted(state.roles)])}")
        role = read_role(present).signed
        role.version += 1
        role.expires = self.now + lifetime(name)
        return role


def director(fleet: str, online: OnlinePublic) -> Director:
    """Return whose directives a new fleet believes.

    Raises:
        InvalidInput: It is not a fleet's name.
    """
    try:
        return Director(fleet=fleet, keys=(online.director,))
    except ValidationError as error:
        raise InvalidInput(f"{fleet!r} is not a fleet's name", why=first_problem(error)) from error


def found(edit: Edit, fleet: str, online: OnlinePublic, people: Mapping[str, Group]) -> None:
    """Draw up the first state of a fleet.

    Args:
        edit: Over nothing.
        fleet: Its name.
        online: The server's public keys.
        people: Who signs ``root``, ``targets``, ``fleet`` and ``policy``.

    Raises:
        InvalidInput: It is not a fleet's name.
    """
    keys = director(fleet, online)
    root = edit.root
    root.expires = edit.now + lifetime(ROOT)
    for name in (ROOT, TARGETS):
        _set_keys(root, root.roles[name], people[name].keys, people[name].threshold)
    for name, pem in (("snapshot", online.snapshot), ("timestamp", online.timestamp)):
        root.add_key(named(tuf_key(pem), SERVER), name)
    for name in (FLEET, POLICY):
        _delegate(edit.targets(), name, people[name])
        edit.targets(name)
    edit.put(FLEET, DIRECTOR_PATH, keys)


def grant(edit: Edit, model: str, owners: Group, floor: int = 1) -> None:
    """Give a model owners, a role that they sign, and a first policy.

    Raises:
        InvalidInput: The name is not a model's.
        Conflict: The model has owners.
    """
    name = model_role(model_name(model))
    assert edit.base is not None
    if name in edit.base.state.roles:
        hint = f"change them: dsops trust rotate {name}"
        raise Conflict(f"model {model} has an owner", hint=hint)
    edit.roles[name] = new_targets(name, 1, edit.now)
    _delegate(edit.targets(), name, owners)
    edit.put(POLICY, policy_path(model), Policy(model=model, floor=floor))


def set_policy(edit: Edit, policy: Policy) -> None:
    """Replace a model's policy.

    Raises:
        NotFound: Nobody was granted the model.
        Conflict: The floor would fall.
    """
    assert edit.base is not None
    check_floor(edit.base.policy(policy.model), policy.floor)
    edit.put(POLICY, policy_path(policy.model), policy)


def renew(edit: Edit, roles: Iterable[str]) -> None:
    """Take roles up as they are, for another life.

    Raises:
        NotFound: There is no such role.
    """
    for name in roles:
        edit.take(name)


def replace_online(edit: Edit, role: str, pem: str) -> None:
    """Let a new key of the server take the place of those it has for ``snapshot``, ``timestamp`` or ``director``.

    Raises:
        UntrustedBundle: It is not a key.
    """
    if role == "director":
        assert edit.base is not None
        present = edit.base.director()
        edit.put(FLEET, DIRECTOR_PATH, present.model_copy(update={"keys": (pem,), "threshold": 1}))
        return
    root = edit.root
    _set_keys(root, root.roles[role], [named(tuf_key(pem), SERVER)], 1)


def replace_people(edit: Edit, name: str, add: Sequence[Key], remove: Sequence[str], threshold: int | None) -> None:
    """Change who signs a role; the role itself is signed again by its new keys.

    Args:
        edit: What is changed.
        name: ``root``, ``targets``, ``fleet``, ``policy`` or ``model-<m>``.
        add: Keys that join.
        remove: Names of holders that leave, or the first eight or more digits of their keys' ids.
        threshold: How many must sign from now on; None: as many as now.

    Raises:
        NotFound: There is no such role, or no such holder.
        InvalidInput: The threshold cannot be met, or nothing would change.
    """
    if not add and not remove and threshold is None:
        raise InvalidInput(f"nothing would change of {name}", hint="give --add, --remove or --threshold")
    edit.take(name)
    by = edit.root if name in (ROOT, TARGETS) else edit.targets()
    role = by.get_delegated_role(name)
    keys = {keyid: by.get_key(keyid) for keyid in role.keyids}
    for who in remove:
        del keys[_find(keys, who, name)]
    keys |= {key.keyid: key for key in add}
    _set_keys(by, role, list(keys.values()), threshold or role.threshold)


def check_threshold(keys: int, threshold: int) -> None:
    """Check that a number of keys can reach a threshold.

    Raises:
        InvalidInput: It cannot.
    """
    if not 1 <= threshold <= keys <= MAX_KEYS:
        raise InvalidInput(f"{threshold} of {keys} keys cannot be", why=f"1 <= threshold <= keys <= {MAX_KEYS}")


def _find(keys: Mapping[str, Key], who: str, role: str) -> str:
    found_ = [k for k, key in keys.items() if holder_of(key) == who or (len(who) >= 8 and k.startswith(who.lower()))]
    if len(found_) != 1:
        holders = ", ".join(f"{holder_of(key)} ({keyid[:8]})" for keyid, key in keys.items())
        what = "several keys of" if found_ else "no key of"
        raise NotFound(f"{role} has {what} {who!r}", why=f"it has {holders}", hint="give the id's first eight digits")
    return found_[0]


def _delegate(targets: Targets, name: str, group: Group) -> None:
    if targets.delegations is None:
        targets.delegations = Delegations(keys={}, roles={})
    assert targets.delegations.roles is not None
    role = DelegatedRole(name, [], threshold=1, terminating=True, paths=[f"{path_prefix(name)}*"])
    targets.delegations.roles[name] = role
    _set_keys(targets, role, group.keys, group.threshold)


def _set_keys(by: Root | Targets, role: Role, keys: Sequence[Key], threshold: int) -> None:
    """Let exactly these keys sign a role; a key that no role names any more goes."""
    check_threshold(len(keys), threshold)
    where = by.delegations if isinstance(by, Targets) else by
    assert where is not None
    where.keys.update({key.keyid: key for key in keys})
    role.keyids, role.threshold = [key.keyid for key in keys], threshold
    used = {keyid for other in (where.roles or {}).values() for keyid in other.keyids}
    for keyid in set(where.keys) - used:
        del where.keys[keyid]
