"""What libraries import and a device does not use is not loaded, and is the same as ever when somebody uses it."""

import os
import subprocess
import sys

import pytest

from dsops_agent.late import POSTPONED

CONTROL = """
import dsops_agent.cli, dsops_agent.launching
dsops_agent.cli.leave_out("pkcs11")
dsops_agent.cli.leave_out("boto3")
import dsops_agent.app
"""
DATA = "import dsops_agent.runtime.__main__"
PART_OF = {
    "asyncio": "asyncio.events",
    "calendar": "calendar",
    "cryptography.hazmat.backends.openssl.backend": "cryptography.hazmat.bindings.openssl.binding",
    "cryptography.hazmat.primitives.serialization.ssh": "cryptography.hazmat.primitives.serialization.ssh",
    "difflib": "difflib",
    "dsops.sample_sealing": "cryptography.hazmat.primitives.hpke",
    "dsops.sealing": "cryptography.hazmat.primitives.hpke",
    "dsops.tflite_lint.checks_operators": "dsops.tflite_lint.operator_table",
    "dsops.tflite_lint.linting": "dsops.tflite_lint.checks_tensors",
    "email.utils": "email._parseaddr",
    "google.protobuf.internal.python_message": "google.protobuf.text_format",
    "grpc.aio": "grpc.aio._channel",
    "http.client": "email.message",
    "importlib.metadata": "importlib.metadata._meta",
    "locale": "locale",
    "pydantic.json_schema": "pydantic.json_schema",
    "securesystemslib._gpg.functions": "securesystemslib._gpg.common",
    "securesystemslib._vendor.ed25519.ed25519": "securesystemslib._vendor.ed25519.ed25519",
    "stringprep": "stringprep",
    "tempfile": "tempfile",
    "tokenize": "tokenize",
    "tuf.ngclient.urllib3_fetcher": "urllib3",
    "urllib.request": "urllib.error",
    "zstandard": "zstandard.backend_c",
}
"""A module that comes with each, and with nothing else that an agent loads."""
USES = (
    "import asyncio\nassert asyncio.run(asyncio.sleep(0, 7)) == 7",
    "from asyncio import run, sleep\nassert run(sleep(0, 7)) == 7",
    """
import asyncio.events, sys
assert sys.modules["asyncio"].events is asyncio.events is sys.modules["asyncio.events"]
assert asyncio.events.__spec__.origin.endswith("events.py")
""",
    "import datetime\nassert datetime.datetime.strptime('2026-11-28', '%Y-%m-%d').weekday() == 5",
    "import inspect, linecache\nassert inspect.getsource(inspect.signature).startswith('def signature')",
    "import asyncio as one\nimport asyncio as other\nassert one.Event is other.Event",
    "import importlib.metadata\nassert importlib.metadata.version('grpcio')",
    "from importlib.metadata import entry_points\nassert entry_points(group='console_scripts')",
    "import importlib.metadata._meta\nfrom importlib.metadata import version\nassert version('grpcio')",
    "import grpc\nassert issubclass(grpc.aio.AioRpcError, grpc.RpcError)",
    "from tuf.ngclient import Urllib3Fetcher, FetcherInterface\nassert isinstance(Urllib3Fetcher(), FetcherInterface)",
    """
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
key = Ed25519PrivateKey.generate().public_key()
text = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
assert serialization.load_ssh_public_key(text) == key
assert len(serialization.ssh_key_fingerprint(key, hashes.SHA256())) == 32
""",
    """
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x448
key = ec.generate_private_key(ec.SECP256R1())
for is_repeatable in (False, True):
    how = ec.ECDSA(hashes.SHA256(), deterministic_signing=is_repeatable)
    key.public_key().verify(key.sign(b"a", how), b"a", how)
assert len(x448.X448PrivateKey.generate().private_bytes_raw()) == 56
from cryptography.hazmat.backends import default_backend
assert default_backend().name == "openssl"
""",
    """
from pydantic import BaseModel, WithJsonSchema
class Inner(BaseModel):
    a: int
class Outer(BaseModel):
    inner: Inner
assert Outer.model_json_schema()["properties"]["inner"] == {"$ref": "#/$defs/Inner"}
""",
    "import shutil, tempfile\nshutil.rmtree(tempfile.mkdtemp())",
    "assert ('b\\xfccher.example').encode('idna') == b'xn--bcher-kva.example'",
    "from securesystemslib._gpg import functions\nassert functions.get_pubkey_bundle",
    "import urllib.request\nassert urllib.request.Request('http://a/').host == 'a'",
    "import http.client\nassert http.client.OK == 200",
    "from email.utils import parseaddr\nassert parseaddr('A <a@b>') == ('A', 'a@b')",
    "import zstandard\nassert zstandard.decompress(zstandard.compress(b'a')) == b'a'",
    """
from dsops.errors import InvalidModel
from dsops.tflite_lint import lint
try:
    lint(b"")
except InvalidModel:
    raise SystemExit(0)
raise SystemExit(1)
""",
    "from dsops.sealing import ContentKey\nassert len(ContentKey(bytes(32)).key_id) > 8",
    """
import asyncio, threading
found = set()
threads = [threading.Thread(target=lambda: found.add(asyncio.AbstractEventLoop)) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 1
""",
)


def run(code: str) -> str:
    as_agent = "import sys\nsys.argv[0] = '-m'\n" + code
    ended = subprocess.run(
        [sys.executable, "-c", as_agent], capture_output=True, text=True, env=os.environ, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def loaded(code: str) -> set[str]:
    """Return what a fresh interpreter has loaded; what is postponed stands there, and was not."""
    tell = "print(*(name for name, module in sys.modules.items() if type(module).__name__ == 'module'))"
    return set(run(f"import sys\n{code}\n{tell}").split())


@pytest.mark.parametrize("code", USES)
def test_what_is_postponed_is_itself_when_it_is_used(code: str) -> None:
    run(f"import dsops_agent\n{code}")


def test_without_postponing_all_of_it_comes() -> None:
    assert loaded(f"import {', '.join(PART_OF)}") >= set(PART_OF.values())
    assert set(PART_OF) == set(POSTPONED)


def test_the_control_process_loads_nothing_that_it_does_not_need() -> None:
    needed = {"dsops.sample_sealing", "dsops.sealing"}  # the second opens content keys
    assert loaded(CONTROL).isdisjoint(part for name, part in PART_OF.items() if name not in needed)


def test_the_control_process_loads_no_driver_of_tokens_that_sign() -> None:
    assert not {name for name in loaded(CONTROL) if name.split(".")[0] in ("pkcs11", "boto3")}


def test_the_data_process_loads_nothing_that_it_does_not_need() -> None:
    found = loaded(DATA)
    assert found.isdisjoint(PART_OF.values())
    assert not {name for name in found if name.split(".")[0] in {"cryptography", "ssl", "tempfile", "paho", "tuf"}}


def test_what_is_left_out_counts_as_not_installed() -> None:
    code = """
from dsops_agent.late import leave_out
leave_out("bz2")
try:
    import bz2
except ModuleNotFoundError:
    print("no")
"""
    assert run(code) == "no\n"


def test_what_is_loaded_already_is_not_left_out() -> None:
    run("import bz2\nfrom dsops_agent.late import leave_out\nleave_out('bz2')\nimport bz2\nbz2.compress")


RACE = """
import importlib, pathlib, sys, tempfile, threading
from dsops_agent import late
folder = tempfile.mkdtemp()
sys.path.insert(0, folder)
for number in range(1000):
    pathlib.Path(folder, f"toy{number}.py").write_text("class Error(Exception): pass")
names = [f"toy{number}" for number in range(1000)]
late.POSTPONED = {name: () for name in names}
late.postpone()
sys.setswitchinterval(1e-6)
failed = []

def touch(module, found, begin):
    begin.wait()
    try:
        found.append(module.Error)
    except Exception as error:
        failed.append(error)

for name in names:
    module, found, begin = importlib.import_module(name), [], threading.Barrier(4)
    threads = [threading.Thread(target=touch, args=(module, found, begin)) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not failed, failed
    assert len(set(found)) == 1, "it was loaded twice"
"""
PART_OF_A_LOADED_ONE = """
import pathlib, sys, tempfile
from dsops_agent import late
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "toys").mkdir()
(folder / "toys" / "__init__.py").write_text("begun = 1")
(folder / "toys" / "part.py").write_text("")
sys.path.insert(0, str(folder))
late.POSTPONED = {"toys": ()}
late.postpone()
import toys
path = toys.__path__
assert toys.begun
found = sys.meta_path[0].find_spec("toys.part", path)
assert found.origin == str(folder / "toys" / "part.py"), found
"""


def test_one_that_several_threads_ask_at_once_is_loaded_once() -> None:
    run(RACE)


def test_a_part_that_is_looked_for_while_another_thread_loads_the_package_is_found() -> None:
    """The import system has asked the one that waits for its path; then another thread has loaded the package."""
    run(PART_OF_A_LOADED_ONE)


def test_a_program_that_is_no_agent_has_everything_as_it_is() -> None:
    code = "import dsops_agent.cli, grpc, sys\nprint(type(sys.modules['grpc.aio']).__name__, grpc.aio.server.__name__)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["module", "server"]
