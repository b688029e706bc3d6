"""What this device may believe: TUF metadata of its fleet on disk, refreshed from trust packs, asked offline."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tuf.api._payload import TargetFile
from tuf.api.exceptions import DownloadError, LengthOrHashMismatchError, RepositoryError

from dsops.clock import Clock, utc_text
from dsops.errors import StateDamaged, UntrustedBundle
from dsops.files import write_atomically
from dsops.ids import model_name
from dsops.messages import TrustPack
from dsops.trust import DIRECTOR_PATH, Director, Policy, SignedTarget, model_role, policy_path
from dsops_agent.trust.updater import DurableUpdater, ensure_folder, local_files, sweep

_DIRECTOR_ROLE = "fleet"
_POLICY_ROLE = "policy"
_MAX_TARGET_BYTES = 64 * 1024


class TrustStore:
    """The fleet's trust metadata. One thread at a time.

    Answers come from verified, unexpired metadata only; they need no network. Versions never fall: TUF compares each
    refresh with what is on disk. Trusted time is the later of the host's clock and the newest moment at which a pack
    was accepted. That moment lies before the expiry of what was accepted then, so a clock that once ran ahead cannot
    lock the device out for longer than that metadata was valid.

    Args:
        folder: The store's folder (``trust``).
        root: The first root's bytes, embedded at enrolment.
        clock: The host's clock.

    Raises:
        StateDamaged: The folder cannot be written.
    """

    def __init__(self, folder: Path, root: bytes, clock: Clock) -> None:
        self._metadata = folder / "metadata"
        self._targets = folder / "targets"
        self._time_path = folder / "last_good_time"
        self._root = root
        self._clock = clock
        with _host_errors():
            ensure_folder(self._metadata / "root_history")
            ensure_folder(self._targets)
            sweep(self._metadata)
            for leftover in (*self._targets.glob("*/.*.tmp"), *folder.glob(".*.tmp")):
                leftover.unlink(missing_ok=True)

    def now(self) -> datetime:
        """Return trusted time: never before a moment that was trusted earlier."""
        return max(self._clock.now(), self._last_good())

    def knows(self, model: str) -> bool:
        """Return whether a pack of the model was ever accepted."""
        return (self._targets / model_name(model) / "policy.json").is_file()

    def accept(self, model: str, pack: TrustPack) -> None:
        """Verify a model's pack and keep it durably.

        Raises:
            UntrustedBundle: TUF's rules refuse it, or something is missing in it. Metadata that was verified before
                the fault was met stays, for versions may only rise.
            NoSpace: The disk is full.
            StateDamaged: The disk fails.
        """
        model = model_name(model)
        now = self.now()
        files, targets = _files(pack)
        with _host_errors(), _refusals(f"the trust pack of {model}"):
            updater = DurableUpdater(self._metadata, files, root=self._root, now=now)
            updater.refresh()
            director = _small_target(updater, DIRECTOR_PATH, _DIRECTOR_ROLE, targets)
            policy = _small_target(updater, policy_path(model), _POLICY_ROLE, targets)
            Director.decode(director)
            Policy.decode(policy)
            updater.signed_target(f"{model}/0", model_role(model))  # loads and keeps the model's role
            place = self._targets / model
            ensure_folder(place)
            write_atomically(place / "director.json", director)
            write_atomically(place / "policy.json", policy)
            write_atomically(self._time_path, utc_text(now).encode())

    def director(self) -> Director:
        """Return whose directives to believe.

        Raises:
            UntrustedBundle: No pack was accepted yet, or the metadata has expired.
        """
        copies = sorted(self._targets.glob("*/director.json"))
        return Director.decode(self._stored(DIRECTOR_PATH, _DIRECTOR_ROLE, copies))

    def policy(self, model: str) -> Policy:
        """Return a model's policy.

        Raises:
            UntrustedBundle: No pack of the model was accepted yet, or the metadata has expired.
        """
        copies = [self._targets / model_name(model) / "policy.json"]
        return Policy.decode(self._stored(policy_path(model), _POLICY_ROLE, copies))

    def target(self, model: str, path: str) -> SignedTarget | None:
        """Return what a model's owners signed under a name; None when they signed nothing.

        Raises:
            UntrustedBundle: The stored metadata has expired, or is not that of the newest pack.
        """
        found = self._query(path, model_role(model_name(model)))
        if found is None or "sha256" not in found.hashes:
            return None
        custom = found.unrecognized_fields.get("custom")
        facts = custom if isinstance(custom, dict) else {}
        return SignedTarget(found.path, found.hashes["sha256"], found.length, facts)

    def _query(self, path: str, role: str) -> TargetFile | None:
        with _host_errors(), _refusals(f"the stored trust metadata for {path}"):
            files = local_files(self._metadata)
            updater = DurableUpdater(self._metadata, files, root=self._root, now=self.now())
            return updater.signed_target(path, role)

    def _stored(self, path: str, role: str, copies: list[Path]) -> bytes:
        signed = self._query(path, role) if any(copy.is_file() for copy in copies) else None
        if signed is None:
            raise UntrustedBundle(f"{path} is not known yet", why="no trust pack that signs it was accepted")
        for copy in copies:
            with contextlib.suppress(FileNotFoundError, LengthOrHashMismatchError):
                data = copy.read_bytes()
                signed.verify_length_and_hashes(data)
                return data
        raise UntrustedBundle(f"{path} is out of date", why="the newest trust pack has not come yet")

    def _last_good(self) -> datetime:
        try:
            return datetime.fromisoformat(self._time_path.read_text())
        except FileNotFoundError:
            return datetime.min.replace(tzinfo=UTC)
        except (OSError, ValueError) as error:
            raise StateDamaged("the last trusted time cannot be read", why=str(error)) from error


def _files(pack: TrustPack) -> tuple[dict[str, bytes], dict[str, bytes]]:
    try:
        return pack.files(), pack.target_files()
    except ValueError as error:
        raise UntrustedBundle("the trust pack is not valid", why=f"base64: {error}") from error


def _small_target(updater: DurableUpdater, path: str, role: str, targets: dict[str, bytes]) -> bytes:
    signed = updater.signed_target(path, role)
    if signed is None:
        raise UntrustedBundle(f"{path} is not signed by role {role}")
    data = targets.get(path)
    if data is None:
        raise UntrustedBundle(f"{path} is missing in the trust pack")
    if signed.length > _MAX_TARGET_BYTES:
        raise UntrustedBundle(f"{path} is too long", why=f"{signed.length} bytes, {_MAX_TARGET_BYTES} allowed")
    signed.verify_length_and_hashes(data)
    return data


@contextlib.contextmanager
def _refusals(what: str) -> Iterator[None]:
    try:
        yield
    except (RepositoryError, DownloadError) as error:
        raise UntrustedBundle(f"{what} is refused", why=f"{type(error).__name__}: {error}"[:500]) from error


@contextlib.contextmanager
def _host_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateDamaged("the trust folder cannot be used", why=str(error.strerror or error)) from error
