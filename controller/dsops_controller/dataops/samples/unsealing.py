"""Opens the sealed inputs of exported samples, on the data team's side: the controller has no key."""

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from dsops.errors import InvalidInput, SampleSealed
from dsops.sample_sealing import key_id, unseal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

_NEEDED = {"sample", "sha256", "digest", "time", "datatype", "shape", "input", "sealed", "sealed_for"}
_SEALED = """
select sample, sealed_for, digest, epoch_us(time), datatype, shape, sealed
from read_parquet($file) where sealed is not null and octet_length(sealed) > 0
"""
_OPENED = """
copy (
    select exported.* replace (
        coalesce(opened.data, exported.input) as input,
        coalesce(opened.sha256, exported.sha256) as sha256,
        case when opened.data is null then exported.sealed end as sealed,
        case when opened.data is null then exported.sealed_for else '' end as sealed_for
    )
    from read_parquet($file) as exported left join opened using (sample)
) to '{}' (format parquet, compression zstd)
"""


def unseal_file(exported: Path, own: "X25519PrivateKey") -> tuple[bytes, int]:
    """Return a Parquet file of samples with every sealed input opened, and how many there were.

    Raises:
        InvalidInput: It is no file of exported samples.
        SampleSealed: An input is sealed for another key, or is damaged.
    """
    if not exported.is_file():
        raise InvalidInput(f"cannot read {exported}", why="there is no such file", hint="dsops sample export first")
    with duckdb.connect(":memory:") as duck, tempfile.TemporaryDirectory() as folder:
        params = {"file": str(exported)}
        try:
            duck.execute("set TimeZone = 'UTC'")
            columns = {row[0] for row in duck.execute("describe select * from read_parquet($file)", params).fetchall()}
            if missing := sorted(_NEEDED - columns):
                raise InvalidInput(f"{exported} holds no exported samples", why=f"it has no column {missing[0]}")
            sealed = duck.execute(_SEALED, params).fetchall()
            duck.execute("create table opened (sample text, data blob, sha256 text)")
            opened = [_open(row, own) for row in sealed]
            if opened:
                duck.executemany("insert into opened values (?, ?, ?)", opened)
            made = Path(folder) / "opened.parquet"
            duck.execute(_OPENED.format(made), params)
        except duckdb.Error as error:
            first = str(error).splitlines()[0]
            hint = "dsops sample export samples.parquet"
            raise InvalidInput(f"{exported} holds no exported samples", why=first[:200], hint=hint) from error
        return made.read_bytes(), len(opened)


def _open(row: tuple[Any, ...], own: "X25519PrivateKey") -> tuple[str, bytes, str]:
    sample, sealed_for, digest, time_us, datatype, shape, ciphertext = row
    if sealed_for != key_id(own.public_key()).hex():
        raise SampleSealed(
            f"the key does not open sample {sample}",
            why=f"it is sealed for {sealed_for[:16]}, and the key is {key_id(own.public_key()).hex()[:16]}",
        )
    data = unseal(ciphertext, own, digest, time_us, datatype, shape)
    return sample, data, hashlib.sha256(data).hexdigest()
