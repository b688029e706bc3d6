"""Access lists of files: users who may read and write one, besides its owner. Pure.

The bytes are those of the extended attribute ``system.posix_acl_access`` (acl(5)) as Linux' ``posix_acl_xattr.h`` has
them: a version, then tag, permissions and id of each entry, sorted.
"""

import struct
from collections.abc import Iterable

ATTRIBUTE = "system.posix_acl_access"
_VERSION = 2
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_READ_WRITE = 6
_NO_ID = 0xFFFFFFFF


def for_users(uids: Iterable[int]) -> bytes:
    """Return the list that lets the owner and these users read and write, and nobody else."""
    entries = [
        (_OWNER, _READ_WRITE, _NO_ID),
        *((_USER, _READ_WRITE, uid) for uid in sorted(set(uids))),
        (_GROUP, 0, _NO_ID),
        (_MASK, _READ_WRITE, _NO_ID),
        (_OTHERS, 0, _NO_ID),
    ]
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
