"""Files that somebody else put there: what is read, and what each hostile thing on a stick is called."""

import errno
import hashlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dsops.errors import SourceEndless, SourceFailed, SourceLacks, SourceRefused, SourceTruncated, SourceUnreachable
from dsops_agent.install.ports import Chunk
from dsops_agent.sources.folder import FolderSource, Place
from dsops_agent.sources.regular import read_whole

DATA = bytes(range(256)) * 8
FILE = hashlib.sha256(DATA).hexdigest()
PART = Chunk(hashlib.sha256(DATA[100:300]).hexdigest(), FILE, 100, 200)


def put_file(path: Path) -> None:
    path.write_bytes(DATA)


def put_link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(DATA)
    path.symlink_to("elsewhere")


def put_short(path: Path) -> None:
    path.write_bytes(DATA[:150])


def nothing(_path: Path) -> None:
    return


def take_away(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        (put_link, SourceRefused),
        (os.mkfifo, SourceRefused),
        (Path.mkdir, SourceRefused),
        (put_short, SourceTruncated),
        (nothing, SourceLacks),
        (take_away, SourceUnreachable),
    ],
)
def test_what_a_stick_may_hold_instead_of_the_file(
    tmp_path: Path, prepare: Callable[[Path], None], error: type[SourceFailed]
) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    prepare(folder / FILE)
    with pytest.raises(error) as caught:
        Place(folder).read(PART)
    assert type(caught.value) is error


def test_a_socket_is_no_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        with pytest.raises(SourceRefused):
            read_whole(tmp_path / "s", 10)


def test_a_medium_that_fails_while_it_is_read_is_unreachable() -> None:
    with pytest.raises(SourceUnreachable, match=r"Input/output error"):
        Place(files={FILE: Path("/proc/self/mem")}).read(Chunk("a" * 64, FILE, 0, 100))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / FILE).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SourceEndless):
        Place(tmp_path).read(Chunk(FILE))
    assert Place(tmp_path).read(PART) == bytes(200)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "kit.json", "", "A" * 64])
def test_no_other_name_is_ever_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "kit.json").write_bytes(b"{}")
    with pytest.raises(SourceLacks):
        Place(tmp_path).read(Chunk(name))


class Receiver:
    def __init__(self) -> None:
        self.log: list[tuple[str, object]] = []
        self.news = threading.Semaphore(0)

    def came(self, source: str, digest: str, data: bytes) -> None:
        self.log.append((digest, data))
        self.news.release()

    def lost(self, source: str, digests: tuple[str, ...], error: SourceFailed) -> None:
        self.log.append((digests[0], error))
        self.news.release()


def test_a_source_brings_what_is_there_and_names_what_is_not(tmp_path: Path) -> None:
    put_file(tmp_path / FILE)
    receiver = Receiver()
    source = FolderSource(receiver)
    source.place = Place(tmp_path, held={"b" * 64: b"held"})
    thread = threading.Thread(target=source.run)
    thread.start()
    for chunk in (PART, Chunk("b" * 64), Chunk("c" * 64)):
        source.request(chunk)
    for _ in range(3):
        assert receiver.news.acquire(timeout=20)
    source.stop()
    thread.join(10)
    assert receiver.log[:2] == [(PART.digest, DATA[100:300]), ("b" * 64, b"held")]
    assert isinstance(receiver.log[2][1], SourceLacks)


def test_a_medium_that_cannot_be_asked_has_nothing(tmp_path: Path) -> None:
    unreachable = tmp_path / ("a" * 300)
    with pytest.raises(OSError, match="File name too long"):
        unreachable.is_file()
    source = FolderSource(Receiver())
    source.place = Place(unreachable)
    assert source.has(FILE) is False
    assert Place(unreachable, files={FILE: tmp_path}).has(FILE) is True


def test_a_medium_that_fails_while_it_is_told_what_is_wrong_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "is_dir", fail)
    with pytest.raises(SourceUnreachable):
        Place(tmp_path).read(Chunk(FILE))
