"""The one place that spells MQTT topics. At most 7 slashes, ``{dev}`` is the CN of the device's certificate."""

import re
from dataclasses import dataclass

from dsops.ids import DeviceId, device_id

_UP = re.compile(r"d/([^/]+)/up/(conn|state|ack|need)")


@dataclass(frozen=True)
class Topics:
    """Builds and parses the topics below one prefix."""

    prefix: str = "dsops/v1"

    def desired(self, device: str) -> str:
        """Retained directive (DSSE) to one device."""
        return f"{self.prefix}/d/{device}/dn/desired"

    def command(self, device: str) -> str:
        """Commands of bounded life to one device."""
        return f"{self.prefix}/d/{device}/dn/cmd"

    def chunk_answer(self, device: str) -> str:
        """Chunks sent to one device that could not get them as retained messages."""
        return f"{self.prefix}/d/{device}/dn/chunk"

    def down(self, device: str) -> str:
        """Everything addressed to one device (a filter)."""
        return f"{self.prefix}/d/{device}/dn/#"

    def connection(self, device: str) -> str:
        """Retained birth and death (the will) of one device."""
        return f"{self.prefix}/d/{device}/up/conn"

    def state(self, device: str) -> str:
        """Retained observed state of one device, signed by it."""
        return f"{self.prefix}/d/{device}/up/state"

    def ack(self, device: str) -> str:
        """Results of commands."""
        return f"{self.prefix}/d/{device}/up/ack"

    def need(self, device: str) -> str:
        """Request for chunks that did not come as retained messages."""
        return f"{self.prefix}/d/{device}/up/need"

    def every_up(self) -> str:
        """Everything that devices say (a filter)."""
        return f"{self.prefix}/d/+/up/#"

    def trust(self) -> str:
        """Retained head of the fleet's trust metadata: the TUF timestamp."""
        return f"{self.prefix}/t/head"

    def chunk(self, digest: str) -> str:
        """One retained raw chunk of a bundle, or one document of the trust metadata, by its SHA-256."""
        return f"{self.prefix}/c/{digest}"

    def controller(self) -> str:
        """Retained controller state."""
        return f"{self.prefix}/ctl/state"

    def parse_up(self, topic: str) -> tuple[DeviceId, str] | None:
        """Return the device and the last level (``conn``, ``state``, ``ack`` or ``need``), or None for other topics."""
        found = _UP.fullmatch(topic.removeprefix(f"{self.prefix}/"))
        return (device_id(found[1]), found[2]) if found else None

    def parse_chunk(self, topic: str) -> str | None:
        """Return the digest of a chunk's topic, or None for other topics."""
        head = f"{self.prefix}/c/"
        return topic.removeprefix(head) if topic.startswith(head) else None
