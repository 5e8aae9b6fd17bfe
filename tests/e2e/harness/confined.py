"""Becomes the process of a container, and then runs a program in its place:

    unshare --pid --fork --mount python -m harness.confined UID GID PROFILE FOLDER PROGRAM ...

It is the first process of its PID namespace and has a `/proc` of it. The root and FOLDER's file
system are read-only, the user has no privileges, and the profile ends it at the first call that is
not listed."""

import errno
import os
import pathlib
import subprocess
import sys

from . import seccomp


def mount(*arguments: str):
    subprocess.run(["mount", *arguments], check=True)


def mount_point(path: pathlib.Path) -> pathlib.Path:
    return next(folder for folder in (path, *path.parents) if folder.is_mount())


def assert_read_only(folder: pathlib.Path):
    try:
        (folder / "file").touch()
    except OSError as refusal:
        assert refusal.errno == errno.EROFS, refusal
    else:
        raise AssertionError(f"{folder} can be written to")


def main(uid: str, gid: str, profile: str, folder: str, *command: str):
    assert os.getpid() == 1, "not the first process of a namespace"
    steps = seccomp.steps_of(seccomp.load(pathlib.Path(profile)), seccomp.RETURN_KILL_PROCESS)
    install = seccomp.installer(steps)
    mount("-t", "proc", "proc", "/proc")
    for point in {pathlib.Path("/"), mount_point(pathlib.Path(folder))}:
        mount("-o", "remount,bind,ro", str(point))
    assert_read_only(pathlib.Path(folder))
    os.setgroups([])
    os.setresgid(*[int(gid)] * 3)
    os.setresuid(*[int(uid)] * 3)
    install()
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
