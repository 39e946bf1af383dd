"""The account a PostgreSQL server runs under: our own, or `nobody` where we are root.

PostgreSQL refuses to run as root. For root the server gets the account `nobody`, and where that account
cannot enter the folder a home lies in (a checkout in /root), the server's files move below `RELOCATED`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RELOCATED = Path("/var/lib/night-porter")


@dataclass(frozen=True)
class Account:
    """An account to give a process to.

    Args:
        uid: user id.
        gid: group id.
    """

    uid: int
    gid: int

    def can_enter(self, folder: Path) -> bool:
        """Whether this account reaches what lies in `folder`."""
        # Asked of the kernel, not computed from mode bits: access lists and mount options count too.
        check = subprocess.run(
            ["/bin/sh", "-c", 'test -x "$1/"', "sh", str(folder)], check=False, cwd="/", **self.arguments()
        )
        return check.returncode == 0

    def arguments(self) -> dict[str, Any]:
        """What `subprocess` needs to start a process under this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def server_account() -> Account | None:
    """The account for a server, None for our own."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def relocated_folder(home: Path) -> Path:
    """Where the files of the server at `home` go when its account cannot enter `home`."""
    return RELOCATED / hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]


def prepare_cluster_folder(home: Path, account: Account | None) -> Path:
    """`home`/cluster, made where it is missing, as a path that the server's account can enter."""
    cluster = home / "cluster"
    if cluster.is_dir():
        return cluster.resolve()
    if account is None:
        cluster.mkdir(mode=0o700)
        return cluster.resolve()
    if account.can_enter(home):
        _make_open(cluster)
        return cluster.resolve()
    target = relocated_folder(home)
    _make_open(RELOCATED)
    _make_open(target)
    cluster.unlink(missing_ok=True)  # a link whose target somebody removed
    cluster.symlink_to(target)
    return target


def reachable_programs(bin_dir: Path, cluster: Path, account: Account | None) -> Path:
    """`bin_dir`, or a copy of its installation inside `cluster` where the account cannot enter it."""
    if account is None or account.can_enter(bin_dir):
        return bin_dir
    copy = cluster / "programs"
    if not copy.exists():
        install = bin_dir.parent
        package = install.parent
        unfinished = cluster / "programs.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        # The wheel's own shape is kept, since its programs find their libraries by relative paths.
        shutil.copytree(install, unfinished / package.name / install.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        _open_tree(unfinished)
        unfinished.rename(copy)
    return next(copy.glob(f"*/*/{bin_dir.name}"))


def remove_cluster_folder(home: Path) -> None:
    """Delete `home`/cluster and, where it was moved out of `home`, the folder it points to."""
    cluster = home / "cluster"
    if cluster.is_symlink():
        # A copied checkout carries a link to the original's data: only our own target is ours to delete.
        if cluster.readlink() == relocated_folder(home):
            shutil.rmtree(relocated_folder(home), ignore_errors=True)
            with contextlib.suppress(OSError):
                RELOCATED.rmdir()  # refused while another checkout has its servers there
        cluster.unlink()
    elif cluster.is_dir():
        shutil.rmtree(cluster)


def environment() -> dict[str, str]:
    """A server's whole environment: nothing of ours leaks into it."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _make_open(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)  # whatever the umask says


def _open_tree(top: Path) -> None:
    top.chmod(0o755)
    for path in top.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
