"""The agent is killed before every change of a file of its identity; what is left is the old one or the new one, whole.

A process plays one story in children that it forks. Python's audit events tell of each call that changes a folder, and
of each open; calls of ``fsync`` and of writes are counted, too. A child kills itself (SIGKILL) before the call of its
number. Then a new process looks at what is left, plays the story to its end, and looks again.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PLAY = '''
import json, os, signal, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dsops.api.v1.enrolment_pb2 import EnrolReply
from dsops.clock import ManualClock, SystemClock
from dsops_agent.config import Enrolment
from dsops_agent.credentials import Credentials
from dsops_agent.enrol import Applicant
from dsops_agent.identity import IdentityFolder
from dsops_agent.renewal import Renewer

place, story = Path(sys.argv[1]), sys.argv[2]
CA = ec.generate_private_key(ec.SECP256R1())
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "fsync"}
NAME = lambda cn: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
START = datetime.now(UTC)
asked = []


def reply(csr_der):
    key = x509.load_der_x509_csr(csr_der).public_key()
    asked.append(csr_der)
    builder = x509.CertificateBuilder().subject_name(NAME("cam-1")).issuer_name(NAME("ca")).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(START)
    pem = builder.not_valid_after(START + timedelta(days=90)).sign(CA, hashes.SHA256())
    pem = pem.public_bytes(serialization.Encoding.PEM)
    return EnrolReply(certificate_pem=pem, ca_pem=pem, fleet="f", broker="b:1", store="s:2", topic_prefix="p")


def applicant(folder, root):
    config = Enrolment.model_validate({"address": "h:1", "ca": root / "ca", "token": root / "token"})
    return Applicant("cam-1", config, folder, {}, lambda request: reply(request.csr_der), SystemClock())


def enrol(root):
    folder = IdentityFolder(root / "identity")
    folder.sweep()
    asking = applicant(folder, root)
    found = folder.load("cam-1")
    asking.new_token()
    return found or asking.enrol(asking.new_token())


def renew(root):
    folder = IdentityFolder(root / "identity")
    folder.sweep()
    clock = ManualClock(START + timedelta(days=66))
    credentials = Credentials(folder, folder.load("cam-1"), clock, lambda: None)
    if credentials.current.number == 1:
        ask = lambda identity, csr: reply(csr)
        Renewer("cam-1", folder, credentials, None, ask, clock).step()
    credentials.tls()
    credentials.accepted()
    return credentials.current


def prepare(root):
    root.mkdir()
    (root / "token").write_text("secret")
    if story == "renew":
        enrol(root)


def armed(root, at):
    """Play until the call of this number; return False when the story has fewer."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
        return status == signal.SIGKILL
    seen = [0]

    def hook(event, arguments):
        if event not in CHANGES:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        seen[0] += 1
        if seen[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sync = os.fsync
    os.fsync = lambda handle: (hook("fsync", ()), sync(handle))[1]
    sys.addaudithook(hook)
    {"enrol": enrol, "renew": renew}[story](root)
    os._exit(0)


def look(root):
    """Return what a new process finds, and what it makes of it."""
    folder = IdentityFolder(root / "identity")
    found = folder.load("cam-1")  # raises when it is broken
    number = found.number if found else 0
    request = folder._folder / str(number + 1) / "device.csr"
    known = request.read_bytes() if request.exists() else b""
    asked.clear()
    end = {"enrol": enrol, "renew": renew}[story](root)
    left = sorted(path.name for path in folder._folder.iterdir())
    return {
        "found": number,
        "end": end.number,
        "had_asked": bool(known),
        "asks_for_the_same": asked == [known],
        "asks": len(asked),
        "left": left,
        "leftovers": [path.name for path in folder._folder.rglob(".*")],
        "token": (root / "token").exists(),
        "modes": sorted({path.stat().st_mode & 0o777 for path in folder._folder.rglob("*.key")}),
    }


at, results = 0, []
while True:
    at += 1
    root = place / str(at)
    prepare(root)
    if not armed(root, at):
        break
    results.append(look(root))
print(json.dumps(results))
'''


def play(place: Path, story: str) -> list[dict[str, object]]:
    done = subprocess.run([sys.executable, "-c", PLAY, str(place), story], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert isinstance(results, list)
    return results


@pytest.mark.parametrize(("story", "before", "after"), [("enrol", 0, 1), ("renew", 1, 2)])
def test_a_kill_at_any_point_leaves_the_old_identity_or_the_new_one(
    tmp_path: Path, story: str, before: int, after: int
) -> None:
    results = play(tmp_path, story)
    assert len(results) > 25
    found = [result["found"] for result in results]
    assert found == sorted(found)  # type: ignore[type-var]
    assert set(found) == {before, after}
    for result in results:
        assert result["end"] == after, result
        assert result["left"] == [str(after), "active", "content.key"]
        assert (result["leftovers"], result["modes"], result["token"]) == ([], [0o600], False), result
        assert result["asks"] == (1 if result["found"] == before else 0), result
        assert result["asks_for_the_same"] == (result["found"] == before and result["had_asked"]), result
    assert any(result["asks_for_the_same"] for result in results)
