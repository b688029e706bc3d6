"""The HTTP source against real servers on sockets: a good one, and those that do what a web server must not."""

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from http_servers import RangeServer, hostile, range_of
from source_authority import TestAuthority

from dsops.errors import (
    SourceEndless,
    SourceFailed,
    SourceIgnoresRange,
    SourceLacks,
    SourceRefused,
    SourceSlow,
    SourceTruncated,
    SourceUnreachable,
)
from dsops_agent.install.ports import Chunk
from dsops_agent.sources.http import HttpSource
from dsops_agent.sources.http_meter import Limits

pytestmark = pytest.mark.integration

SIZE = 1000
DATA = hashlib.shake_256(b"a file").digest(20 * SIZE)
FILE = hashlib.sha256(DATA).hexdigest()
LIMITS = Limits(connect_s=5.0, answer_s=1.0, window_s=0.5, least_bytes_per_s=1000, header_bytes=8192)
HEAD_206 = "HTTP/1.1 206 Partial Content\r\n"


def pieces(*numbers: int) -> list[Chunk]:
    return [Chunk(digest_of(n), FILE, n * SIZE, SIZE) for n in numbers]


def digest_of(number: int) -> str:
    return hashlib.sha256(DATA[number * SIZE : (number + 1) * SIZE]).hexdigest()


class Receiver:
    """Keeps what the source brings."""

    def __init__(self) -> None:
        self.came_: dict[str, bytes] = {}
        self.lost_: list[tuple[tuple[str, ...], SourceFailed]] = []

    def came(self, source: str, digest: str, data: bytes) -> None:
        self.came_[digest] = data

    def lost(self, source: str, digests: tuple[str, ...], error: SourceFailed) -> None:
        self.lost_.append((digests, error))


class Running:
    """A source with its thread."""

    def __init__(self, url: str, tls: Callable[[], ssl.SSLContext] = ssl.create_default_context) -> None:
        self.receiver = Receiver()
        self.source = HttpSource(url, self.receiver, tls, LIMITS)
        self.thread = threading.Thread(target=self.source.run)

    def ask(self, *chunks: Chunk) -> None:
        for chunk in chunks:
            self.source.request(chunk)
        if not self.thread.is_alive():
            self.thread.start()

    def wait(self, condition: Callable[[], object]) -> None:
        ends_s = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < ends_s, "waited in vain"
            time.sleep(0.005)

    def error(self) -> SourceFailed:
        self.wait(lambda: self.receiver.lost_)
        return self.receiver.lost_[0][1]

    def close(self) -> None:
        self.source.stop()
        if self.thread.is_alive():
            self.thread.join(10)
            assert not self.thread.is_alive()


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(url: str, *tls: Callable[[], ssl.SSLContext]) -> Running:
        made.append(Running(url, *tls))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    (tmp_path / FILE).write_bytes(DATA)
    (tmp_path / digest_of(0)).write_bytes(DATA[:SIZE])
    made = RangeServer(tmp_path)
    yield made
    made.close()


def test_chunks_that_adjoin_come_in_one_request_and_the_connection_stays(
    run: Callable[..., Running], server: RangeServer
) -> None:
    fetch = run(server.url)
    fetch.ask(*pieces(0, 1, 2, 7, 8, 3))
    fetch.wait(lambda: len(fetch.receiver.came_) == 6)
    assert server.asked == [(FILE, "bytes=0-3999"), (FILE, "bytes=7000-8999")]
    fetch.ask(Chunk(digest_of(0)))
    fetch.wait(lambda: len(server.asked) == 3)
    assert server.asked[2] == (digest_of(0), "")
    assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in fetch.receiver.came_.items())
    assert not fetch.receiver.lost_
    assert fetch.source.read_bytes < 7 * SIZE + 3 * 400


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "authority")


@pytest.fixture
def secure(tmp_path: Path, authority: TestAuthority) -> Iterator[RangeServer]:
    (tmp_path / FILE).write_bytes(DATA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)
    made = RangeServer(tmp_path, context)
    yield made
    made.close()


def believing(ca: Path) -> Callable[[], ssl.SSLContext]:
    return lambda: ssl.create_default_context(cafile=str(ca))


def test_chunks_come_by_https_from_a_server_that_the_authority_vouches_for(
    run: Callable[..., Running], secure: RangeServer, authority: TestAuthority
) -> None:
    fetch = run(secure.url, believing(authority.ca))
    assert fetch.source.name.startswith("https://")
    fetch.ask(*pieces(0, 1, 2))
    fetch.wait(lambda: len(fetch.receiver.came_) == 3)
    assert fetch.receiver.came_[digest_of(2)] == DATA[2 * SIZE : 3 * SIZE]
    assert secure.asked == [(FILE, "bytes=0-2999")]
    assert not fetch.receiver.lost_


def test_a_server_of_another_authority_is_not_asked(
    run: Callable[..., Running], secure: RangeServer, tmp_path: Path
) -> None:
    fetch = run(secure.url, believing(TestAuthority(tmp_path / "other").ca))
    fetch.ask(*pieces(0))
    error = fetch.error()
    assert isinstance(error, SourceUnreachable)
    assert "certificate" in str(error)
    assert (secure.asked, fetch.receiver.came_) == ([], {})


def test_a_file_that_is_not_there_is_named(run: Callable[..., Running], server: RangeServer) -> None:
    fetch = run(server.url)
    fetch.ask(Chunk("a" * 64, "b" * 64, 0, SIZE))
    assert isinstance(fetch.error(), SourceLacks)
    assert fetch.receiver.lost_[0][0] == ("a" * 64,)
    fetch.ask(*pieces(0))
    fetch.wait(lambda: fetch.receiver.came_)


def send(text: str, body: bytes = b"") -> Callable[[socket.socket, str], None]:
    return lambda sock, _head: sock.sendall(text.replace("\n", "\r\n").encode() + body)


def endless(head: str, piece: bytes) -> Callable[[socket.socket, str], None]:
    def behave(sock: socket.socket, _head: str) -> None:
        sock.sendall(head.encode())
        while True:
            sock.sendall(piece)

    return behave


def part_of(head: str, *, more: str = "") -> str:
    first, last = range_of(head)
    return f"{HEAD_206}Content-Range: bytes {first}-{last}/{len(DATA)}\r\n{more}\r\n"


def endless_part(sock: socket.socket, head: str) -> None:
    sock.sendall(part_of(head).encode())
    while True:
        sock.sendall(b"x" * 65536)


def endless_chunks(sock: socket.socket, head: str) -> None:
    sock.sendall(part_of(head, more="Transfer-Encoding: chunked\r\n").encode())
    while True:
        sock.sendall(b"1\r\nx\r\n" * 4096)


def too_long(sock: socket.socket, head: str) -> None:
    sock.sendall(part_of(head, more=f"Content-Length: {1 << 40}\r\n").encode() + b"x" * 65536)


def truncated(sock: socket.socket, head: str) -> None:
    sock.sendall(part_of(head, more=f"Content-Length: {SIZE}\r\n").encode() + DATA[: SIZE // 2])
    sock.shutdown(socket.SHUT_RDWR)


def says_less(sock: socket.socket, head: str) -> None:
    sock.sendall(part_of(head, more="Content-Length: 10\r\n").encode() + DATA[:10])


def trickle_body(sock: socket.socket, head: str) -> None:
    first, last = range_of(head)
    sock.sendall(part_of(head, more=f"Content-Length: {last - first + 1}\r\n").encode())
    for byte in DATA[first : last + 1]:
        sock.sendall(bytes([byte]))
        time.sleep(0.05)


def trickle_head(sock: socket.socket, _head: str) -> None:
    for byte in HEAD_206.encode() + b"X: " + b"y" * 2000:
        sock.sendall(bytes([byte]))
        time.sleep(0.05)


def wrong_part(sock: socket.socket, head: str) -> None:
    first, last = range_of(head)
    said = f"{HEAD_206}Content-Range: bytes {first + 1}-{last + 1}/{len(DATA)}\r\nContent-Length: {SIZE}\r\n\r\n"
    sock.sendall(said.encode() + DATA[1 : SIZE + 1])


def reset(sock: socket.socket, _head: str) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


HOSTILE = {
    "gone": (send("HTTP/1.1 410 Gone\nContent-Length: 0\n\n"), SourceLacks),
    "an error": (send("HTTP/1.1 503 Busy\nContent-Length: 0\n\n"), SourceRefused),
    "elsewhere": (send("HTTP/1.1 302 Found\nLocation: http://192.0.2.1/x\nContent-Length: 0\n\n"), SourceRefused),
    "the whole file": (send(f"HTTP/1.1 200 OK\nContent-Length: {len(DATA)}\n\n", DATA), SourceIgnoresRange),
    "the whole file for ever": (endless("HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536), SourceIgnoresRange),
    "no range named": (send(f"HTTP/1.1 206 Part\nContent-Length: {SIZE}\n\n", DATA[:SIZE]), SourceIgnoresRange),
    "another part": (wrong_part, SourceIgnoresRange),
    "a range beyond": (send("HTTP/1.1 416 No\nContent-Length: 0\n\n"), SourceTruncated),
    "endless": (endless_part, SourceEndless),
    "endless in chunks": (endless_chunks, SourceEndless),
    "an endless header": (endless(HEAD_206, b"X: y\r\n" * 100), SourceRefused),
    "an endless line": (endless("HTTP/1.1 206 ", b"y" * 1000), SourceEndless),
    "an endless welcome": (endless("", b"HTTP/1.1 100 Continue\r\n\r\n" * 50), SourceEndless),
    "too long": (too_long, SourceEndless),
    "truncated": (truncated, SourceTruncated),
    "less than asked": (says_less, SourceTruncated),
    "a trickle": (trickle_body, SourceSlow),
    "a trickling header": (trickle_head, SourceSlow),
    "silence": (lambda _sock, _head: time.sleep(1.3), SourceSlow),
    "no HTTP": (send("SSH-2.0-OpenSSH_9\n\n\n"), SourceRefused),
    "compressed": (
        send(
            f"HTTP/1.1 206 P\nContent-Range: bytes 0-{SIZE - 1}/9999\n"
            f"Content-Encoding: gzip\nContent-Length: {SIZE}\n\n"
        ),
        SourceRefused,
    ),
    "a reset": (reset, SourceUnreachable),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_web_server_must_not_do_ends_in_a_named_error_within_its_budget(
    case: str, run: Callable[..., Running]
) -> None:
    behave, expected = HOSTILE[case]
    with hostile(behave) as server:
        fetch = run(server.url)
        fetch.ask(*pieces(0))
        error = fetch.error()
        assert type(error) is expected or (expected is SourceUnreachable and isinstance(error, expected)), repr(error)
        assert error.why
        lost = fetch.receiver.lost_[0][0]
        assert lost == (() if digest_of(0) in fetch.receiver.came_ else (digest_of(0),))
        assert fetch.source.read_bytes <= LIMITS.header_bytes + SIZE + SIZE // 8
        fetch.close()


@pytest.mark.parametrize("case", ["the whole file", "the whole file for ever", "too long", "another part"])
def test_a_wrong_answer_is_refused_before_its_body_is_read(case: str, run: Callable[..., Running]) -> None:
    with hostile(HOSTILE[case][0]) as server:
        fetch = run(server.url)
        fetch.ask(*pieces(*range(20)))
        fetch.error()
        assert fetch.source.read_bytes <= 4096
        fetch.close()


def test_a_document_without_an_end_is_refused_within_its_budget(run: Callable[..., Running]) -> None:
    with hostile(endless("HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)) as server:
        fetch = run(server.url)
        fetch.ask(Chunk("a" * 64))
        assert isinstance(fetch.error(), SourceEndless)
        assert fetch.source.read_bytes <= LIMITS.header_bytes + 70_000
        fetch.close()


def test_what_came_before_the_failure_counts_and_the_rest_is_lost_once(run: Callable[..., Running]) -> None:
    def two_and_a_half(sock: socket.socket, head: str) -> None:
        sock.sendall(part_of(head).encode() + DATA[: 2 * SIZE + SIZE // 2])
        sock.shutdown(socket.SHUT_RDWR)

    with hostile(two_and_a_half) as server:
        fetch = run(server.url)
        fetch.ask(*pieces(0, 1, 2, 3))
        fetch.error()
        assert set(fetch.receiver.came_) == {digest_of(0), digest_of(1)}
        assert [digests for digests, _ in fetch.receiver.lost_] == [(digest_of(2), digest_of(3))]
        fetch.close()


def test_nobody_there(run: Callable[..., Running]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        fetch = run(f"http://127.0.0.1:{free.getsockname()[1]}/")
        fetch.ask(*pieces(0))
        assert isinstance(fetch.error(), SourceUnreachable)
    other = run("http://no-such-host.invalid/")
    other.ask(*pieces(0))
    assert isinstance(other.error(), SourceUnreachable)


def test_a_connection_that_the_server_ended_meanwhile_is_made_anew(run: Callable[..., Running]) -> None:
    def once(sock: socket.socket, head: str) -> None:
        first, last = range_of(head)
        sock.sendall(part_of(head, more=f"Content-Length: {last - first + 1}\r\n").encode() + DATA[first : last + 1])
        sock.shutdown(socket.SHUT_RDWR)

    with hostile(once) as server:
        fetch = run(server.url)
        for number in range(3):
            fetch.ask(*pieces(number))
            fetch.wait(lambda number=number: digest_of(number) in fetch.receiver.came_)
        assert not fetch.receiver.lost_
        assert server.connections == 3
        fetch.close()


@pytest.mark.parametrize("behave", [trickle_body, trickle_head, lambda _s, _h: time.sleep(1.3)])
def test_a_cancel_closes_the_connection_in_the_middle_of_an_answer(
    behave: Callable[[socket.socket, str], None], run: Callable[..., Running]
) -> None:
    with hostile(behave) as server:
        fetch = run(server.url)
        fetch.ask(*pieces(0, 1))
        fetch.wait(lambda: server.requests)
        fetch.source.cancel(digest_of(0))
        fetch.source.cancel(digest_of(1))
        fetch.ask(*pieces(5))
        fetch.wait(lambda: len(server.requests) == 2)
        assert server.connections == 2
        assert "bytes=5000-5999" in server.requests[1]
        assert not fetch.receiver.lost_
        fetch.close()


def test_a_cancel_of_one_chunk_does_not_end_the_request_for_another(
    run: Callable[..., Running], server: RangeServer
) -> None:
    gate = threading.Event()

    def wait_first(sock: socket.socket, head: str) -> None:
        first, last = range_of(head)
        gate.wait(10)
        sock.sendall(part_of(head, more=f"Content-Length: {last - first + 1}\r\n").encode() + DATA[first : last + 1])

    with hostile(wait_first) as hostile_server:
        fetch = run(hostile_server.url)
        fetch.ask(*pieces(0, 1))
        fetch.wait(lambda: hostile_server.requests)
        fetch.source.cancel(digest_of(0))
        gate.set()
        fetch.wait(lambda: digest_of(1) in fetch.receiver.came_)
        assert digest_of(0) not in fetch.receiver.came_
        assert len(hostile_server.requests) == 1
        fetch.close()
