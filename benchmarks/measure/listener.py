"""The controller's link in a process of its own hears what devices say: ``python -m measure.listener PORT KEYS``."""

import sys
import threading
from pathlib import Path

from dsops.errors import BrokerUnreachable
from dsops.topics import Topics
from dsops_controller.server.link import Link, LinkSettings
from dsops_controller.server.tls import Credentials
from measure.broker import HOST, PREFIX
from measure.child import wait_for_end_of_input
from measure.sender import WAIT_S, Silent


def main() -> None:
    """Connect, and listen until the end of the input."""
    port, folder = sys.argv[1:]
    at = Path(folder)
    keys = Credentials(at / "ca.crt", at / "controller.crt", at / "controller.key")
    listener, stop = Silent(), threading.Event()
    filters = ((Topics(PREFIX).every_up(), 1),)
    link = Link(LinkSettings(HOST, int(port), keys.ca, keys.certificate, keys.key, "controller", filters), listener)
    thread = threading.Thread(target=link.run, args=(stop,))
    thread.start()
    if not listener.up.wait(WAIT_S):
        raise BrokerUnreachable("the controller got no session")
    wait_for_end_of_input()
    stop.set()
    link.wake()
    thread.join()


if __name__ == "__main__":
    main()
