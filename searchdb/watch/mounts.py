"""Reads which file systems are mounted where, because those of a network report no changes that others make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from searchdb.watch.paths import is_in

MOUNT_TABLE = Path("/proc/self/mountinfo")
"""Linux's list of mounted file systems. Other systems have none: there --poll says what is a network mount."""

NETWORK_TYPES = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "ceph", "lustre", "beegfs", "gpfs", "davfs",
    # Disks that several machines mount at the same time.
    "gfs2", "ocfs2",
    # Folders of a host that a virtual machine, a container of Docker Desktop, or WSL mounts.
    "9p", "vboxsf", "vmhgfs", "prl_fs", "virtiofs", "fakeowner", "drvfs",
    "fuse",
})  # fmt: skip
"""File systems whose changes by others are not reported to this machine. `fuse` is a program of an unknown kind."""
LOCAL_FUSE_TYPES = frozenset({
    "fuse.mergerfs", "fuse.ntfs-3g", "fuse.exfat", "fuse.bindfs", "fuse.encfs", "fuse.gocryptfs", "fuse.cryfs",
    "fuse.unionfs", "fuse.fuse-overlayfs",
})  # fmt: skip
"""File systems on local disks that are programs. All others of type `fuse.*`, such as sshfs or rclone, are remote."""

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A mounted file system: the folder that it is mounted at, its type, and the number of its device."""

    folder: str
    kind: str
    device: str

    @property
    def is_remote(self) -> bool:
        """Whether others can change it without this machine being notified."""
        return self.kind in NETWORK_TYPES or (self.kind.startswith("fuse.") and self.kind not in LOCAL_FUSE_TYPES)


def read_mounts(table: Path = MOUNT_TABLE) -> list[Mount]:
    """Return what is mounted, in the order of mounting; nothing where the system has no such list."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    # id parent major:minor root folder options [optional fields] - type source options
    halves = [line.partition(" - ")[::2] for line in lines]
    return [
        Mount(folder=_unescaped(first[4]), kind=second[0], device=first[2])
        for first, second in ((before.split(), after.split()) for before, after in halves)
        if len(first) > 4 and second
    ]


def mounts_of(folder: str, mounts: Sequence[Mount]) -> list[Mount]:
    """Return the mount that a folder is in, followed by those inside it."""
    containing = [mount for mount in mounts if is_in(folder, mount.folder)]
    # Of several at the same place, the last one is seen.
    innermost = max(enumerate(containing), key=lambda each: (len(each[1].folder), each[0]), default=None)
    inside = [mount for mount in mounts if mount.folder != folder and is_in(mount.folder, folder)]
    return [*([] if innermost is None else [innermost[1]]), *inside]


def _unescaped(text: str) -> str:
    """Return a name of the list, which has spaces and newlines as octal numbers of their bytes, such as `\\040`."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
