"""Only pages that a file holds unchanged may be given back, and giving back loses nothing."""

import ctypes
import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dsops_agent.give_back import AGAIN_S, FIRST_S, Turns, clean_file_ranges, give_back

SMAPS = """
1000-3000 r-xp 00000000 fd:00 77 /lib/a.so
Rss:                   8 kB
Anonymous:             0 kB
3000-4000 r--p 00002000 fd:00 77 /lib/a.so
Anonymous:             4 kB
4000-5000 rw-p 00003000 fd:00 77 /lib/a.so
Anonymous:             0 kB
5000-6000 r--s 00000000 fd:00 78 /var/lib/shared
Anonymous:             0 kB
6000-7000 r--p 00000000 00:00 0
Anonymous:             0 kB
7000-9000 r--p 00000000 fd:00 79 /lib/b c.so
Anonymous:             0 kB
""".strip()


def test_what_was_written_may_be_written_is_shared_or_has_no_file_is_left_alone() -> None:
    assert list(clean_file_ranges(SMAPS.splitlines())) == [(0x1000, 0x3000), (0x7000, 0x9000)]


def resident_kb(name: str) -> int:
    text = Path("/proc/self/smaps").read_text()
    found = re.search(rf"^[0-9a-f]+-[0-9a-f]+ .*{re.escape(name)}\n(?:.*\n)*?Rss: +(\d+) kB", text, re.MULTILINE)
    assert found, name
    return int(found[1])


def test_pages_go_and_their_content_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = bytes(range(256)) * 4096
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == content
        before = resident_kb(path.name)
        give_back()
        after = resident_kb(path.name)
        assert mapped[:] == content
    assert before == len(content) // 1024
    assert after == 0


def test_memory_is_given_back_once_the_start_is_over_and_again_after_what_came_since() -> None:
    turns = Turns()
    assert not turns.is_due(1000.0, is_ready=False)
    assert not turns.is_due(1001.0, is_ready=True)
    due = [now_s for now_s in range(1002, 2300) if turns.is_due(float(now_s), is_ready=now_s % 2 == 0)]
    first_s = 1001 + FIRST_S
    assert due == [first_s, first_s + AGAIN_S, first_s + 2 * AGAIN_S]
    assert turns.count == 3


def test_a_library_works_on_afterwards() -> None:
    libc = ctypes.CDLL(None)
    give_back()
    assert libc.abs(-7) == 7


HOLES = """
import ctypes, re
from pathlib import Path

from dsops_agent.give_back import give_back_free

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
def resident_kb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
blocks = [libc.malloc(100_000) for _ in range(400)]
for block in blocks: ctypes.memset(block, 1, 100_000)
for block in blocks[:-1]: libc.free(block)
before = resident_kb()
give_back_free()
print(before - resident_kb())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_is_free_goes_back_though_something_above_it_is_kept() -> None:
    found = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 30_000


POOLS = """
import ctypes, threading
import pytest

from dsops_agent.give_back import one_pool
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
threads = [threading.Thread(target=libc.malloc, args=(100_000,)) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def pools(before: str) -> int:
    code = POOLS.format(before=before)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.count(
        "<heap "
    )


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not glibc")
def test_threads_share_one_pool_of_malloc() -> None:
    assert pools("one_pool()") == 1 < pools("")
