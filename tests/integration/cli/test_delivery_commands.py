"""`dsops bundle export` and `dsops device kit` against a running controller."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_servers import RangeServer

from dsops.bundle import Bundle, bundle_index, sha256_hex
from dsops.chunks import ChunkIndex
from dsops.needs import needs_of
from dsops_agent.install.ports import Chunk
from dsops_agent.sources.http_answer import next_part
from dsops_agent.sources.http_fetch import HttpFetcher
from dsops_agent.sources.http_meter import Limits

pytestmark = pytest.mark.integration


def test_a_bundle_file_is_exported_without_a_controller_and_fetched_whole_by_range(
    offline: Callable[..., Any], make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle, folder = make_bundle(1), tmp_path / "www"
    done = offline("bundle", "export", bundle, "--out", folder, "-o", "json")
    assert done.code == 0, done.err
    data = bundle.read_bytes()
    (row,) = done.result
    assert row["sha256"] == sha256_hex(data)
    needs = needs_of(Bundle.open(bundle).manifest, len(data)).digest
    assert {path.name for path in folder.iterdir()} == {row["sha256"], row["index_sha256"], needs}
    came: dict[str, bytes] = {}
    server = RangeServer(folder)
    fetcher = HttpFetcher(server.url, lambda: pytest.fail("no TLS here"), Limits(), lambda: None)
    wanted = {row["index_sha256"]: Chunk(row["index_sha256"])}
    while wanted:
        part = next_part(wanted)
        fetcher.prepare()
        fetcher.fetch(part, lambda chunk, piece: came.__setitem__(chunk.digest, piece))
        for chunk in part.chunks:
            del wanted[chunk.digest]
        if not part.range:
            index = ChunkIndex.decode(came[row["index_sha256"]])
            assert index == bundle_index(data)
            places = zip(index.digests, index.spans, strict=True)
            wanted = {d: Chunk(d, row["sha256"], span.offset, span.length) for d, span in places}
    assert all(hashlib.sha256(piece).hexdigest() == digest for digest, piece in came.items())
    assert b"".join(came[digest] for digest in index.digests) == data
    fetcher.close()
    server.close()


def test_bundles_of_the_server_are_exported_with_the_documents_of_trust(
    dsops: Callable[..., Any], make_bundle: Callable[..., Path], site: Any, tmp_path: Path
) -> None:
    bundle, folder = make_bundle(1), tmp_path / "www"
    assert dsops("bundle", "sign", bundle, "--keys", site.keys).code == 0
    assert dsops("bundle", "push", bundle).code == 0
    done = dsops("bundle", "export", "digits/1", "--out", folder, "-o", "json")
    assert done.code == 0, done.err
    assert (folder / done.result[0]["sha256"]).read_bytes() == bundle.read_bytes()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(files) > 6
    assert all(sha256_hex(data) == name for name, data in files.items())
    root = (site.server / "trust/metadata/1.root.json").read_bytes()
    assert sha256_hex(root) in files


def test_what_cannot_be_exported_or_brought_is_said(dsops: Callable[..., Any], tmp_path: Path) -> None:
    assert dsops("device", "token", "cam-7").code == 0
    (tmp_path / "file").write_bytes(b"x")
    for words, code in (
        (("bundle", "export", "nothing", "--out", tmp_path / "a"), 2),
        (("bundle", "export", "digits/77", "--out", tmp_path / "a"), 5),
        (("bundle", "export", tmp_path / "file", "--out", tmp_path / "a"), 7),
        (("bundle", "export", tmp_path / "file", "--out", tmp_path / "file"), 2),
        (("device", "kit", "nobody", "--out", tmp_path / "b"), 5),
        (("device", "kit", "cam-7", "--out", tmp_path / "b"), 5),
    ):
        refused = dsops(*words, "-o", "json")
        assert (refused.code, refused.out) == (code, ""), (words, refused)
        assert "Traceback" not in refused.err
    assert not (tmp_path / "b" / "kit.json").exists()
