"""What the demonstration counts of deliveries: bytes that devices fetched, of bundles and of documents."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsops import dsse
from dsops.bundle import Bundle
from dsops.directive import PAYLOAD_TYPE, DeltaOffer, Directive
from dsops.messages import TrustPack
from dsops.needs import needs_of
from dsops_controller.demo.commands import Json
from dsops_controller.demo.stage import MODEL, Stage


@dataclass(frozen=True)
class Mark:
    """A moment: what each device had fetched until then, and the trust documents that there were.

    Attributes:
        fetched: Bytes of bundles, deltas and documents, by device and source.
        documents: What the head of the trust metadata led to: length by digest.
    """

    fetched: Mapping[str, Mapping[str, int]]
    documents: Mapping[str, int]


class Counter:
    """Reads what agents say of their sources.

    Args:
        stage: Where they run.
        devices: Their names.
    """

    def __init__(self, stage: Stage, devices: tuple[str, ...]) -> None:
        self._stage = stage
        self._devices = devices

    def status(self, device: str) -> Json:
        """Return a device's status file."""
        return json.loads((self._stage.home(device) / "state" / "status.json").read_text())

    def mark(self) -> Mark:
        """Remember this moment. Devices must have nothing under way."""
        return Mark({device: self._fetched(device) for device in self._devices}, self._documents())

    def fetched_since(self, mark: Mark, device: str, source: str = "") -> int:
        """Return how many bytes a device has fetched since then, from one source or from all."""
        return sum(
            count - mark.fetched[device].get(name, 0)
            for name, count in self._fetched(device).items()
            if source in ("", name)
        )

    def documents_since(self, mark: Mark, bundle: Path) -> int:
        """Return the bytes of the documents that came since then with one bundle: of trust, and what it needs."""
        new = sum(length for digest, length in self._documents().items() if digest not in mark.documents)
        return new + len(needs_of(Bundle.open(bundle).manifest, bundle.stat().st_size).encode())

    def delta_of(self, device: str) -> DeltaOffer | None:
        """Return the delta that a device's newest directive offers."""
        envelope = base64.b64decode(self._stage.client.directive(device)["envelope"])
        directive = Directive.model_validate_json(dsse.decode(envelope, PAYLOAD_TYPE).content())
        return directive.slots[MODEL].delta

    def was_made_of_a_delta(self, device: str, sha256: str) -> bool:
        """Return whether the device's log says that it made a bundle of a delta."""
        log = self._stage.processes.logs / f"agent-{device}.log"
        return f"made {sha256[:16]} of a delta" in log.read_text(errors="replace")

    def is_connected(self, device: str) -> bool:
        """Return whether a device says that it has a session with the broker."""
        return bool(self.status(device)["connected"])

    def has_installed(self, device: str, sha256: str) -> bool:
        """Return whether a device says in its status that it runs a bundle for good."""
        model = self.status(device)["models"][MODEL]
        return bool(model["active"] == sha256 and model["install"] == "committed")

    def problem(self, device: str) -> str:
        """Return the code of what ended a device's newest install, or an empty text."""
        problem = self.status(device)["models"][MODEL]["problem"]
        return str(problem["code"]) if problem else ""

    def _fetched(self, device: str) -> Mapping[str, int]:
        return {source["name"]: int(source["total_bytes"]) for source in self.status(device)["sources"]}

    def _documents(self) -> Mapping[str, int]:
        pack: TrustPack = self._stage.client.trust_pack(MODEL)
        return {digest: len(data) for digest, data in pack.documents().items()}
