"""One ingest server in a process of its own: prints its port, serves until its standard input ends.

A file ``die-NAME`` in its folder has it die by SIGKILL after its next commit and before the acknowledgement.

    python ingest_process.py DATABASE_URL FOLDER NAME
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from dsops.clock import SystemClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.db.database import Database
from dsops_controller.fleet.ca import Authority
from dsops_controller.fleet.enrolment import Enrolment, ReplySettings
from dsops_controller.fleet.renewal import Renewal
from dsops_controller.fleet.standing import Changes
from dsops_controller.server.ingest import Endpoint, IngestServer, Services, Tls


class Mortal(IngestServer):
    """Dies between commit and acknowledgement when it is told to."""

    order = Path()

    async def _answer(self, context: Any, data: bytes) -> None:
        if self.order.exists():
            self.order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        await super()._answer(context, data)


def main(url: str, folder: Path, name: str) -> None:
    clock, db = SystemClock(), Database(url)
    authority, inbox = Authority.load(folder / "ca", clock), Inbox(db, clock)
    told = ReplySettings("fleet", "localhost:1", "localhost:2", "dsops/v1")
    services = Services(
        db, inbox, Enrolment(db, authority, clock, told), Renewal(db, authority, clock, told), Changes(db), clock
    )
    pair = (folder / "server.key").read_bytes(), (folder / "server.crt").read_bytes()
    local = Endpoint("127.0.0.1", 0)
    Mortal.order = folder / f"die-{name}"
    server = Mortal(services, Tls(*pair, authority.certificate_pem), local, local)
    inbox.start()
    print(server.start()[0], flush=True)
    sys.stdin.read()
    server.stop(0.2)
    inbox.stop()
    db.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
