"""Seccomp filters from profiles in the form of container engines (moby's default.json), as far as
configs/seccomp.json uses it: names, actions, and conditions on the lower half of an argument."""

import ctypes
import errno
import functools
import json
import pathlib
import platform
import re
import struct
import subprocess

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RETURN_ALLOW, RETURN_ERRNO, RETURN_KILL_PROCESS = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
LOAD_WORD, JUMP_EQUAL, AND, RETURN = 0x20, 0x15, 0x54, 0x06
NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16  # In `struct seccomp_data`.
AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

Step = tuple[int, int, int, int]


class Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


@functools.cache
def numbers() -> dict[str, int]:
    """Returns the numbers of this machine's system calls, from the headers of the C compiler."""
    command = ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}


def value_of(action: str, errno_ret: int | None) -> int:
    match action:
        case "SCMP_ACT_ALLOW":
            return RETURN_ALLOW
        case "SCMP_ACT_ERRNO":
            return RETURN_ERRNO | (errno.EPERM if errno_ret is None else errno_ret)
    raise ValueError(f"{action} is not used by our profile")


def steps_of(profile: dict, default: int | None = None) -> list[Step]:
    """Translates a profile. `default` is returned for calls that it does not list, in place of the
    profile's own action."""
    if default is None:
        default = value_of(profile["defaultAction"], profile.get("defaultErrnoRet"))
    steps: list[Step] = [
        (LOAD_WORD, 0, 0, ARCH_AT), (JUMP_EQUAL, 1, 0, AUDIT_ARCH[platform.machine()]),
        (RETURN, 0, 0, RETURN_KILL_PROCESS), (LOAD_WORD, 0, 0, NUMBER_AT),
    ]
    for rule in profile["syscalls"]:
        outcome = (RETURN, 0, 0, value_of(rule["action"], rule.get("errnoRet")))
        for name in rule["names"]:
            if name not in numbers():
                continue  # Another machine's.
            body = [*conditions(rule.get("args", []), outcome)]
            steps += [(JUMP_EQUAL, 0, len(body), numbers()[name]), *body]
    return [*steps, (RETURN, 0, 0, default)]


def conditions(arguments: list[dict], outcome: Step) -> list[Step]:
    """Returns steps that end with `outcome` if the one condition holds, if there is one, and go on
    with the next rule otherwise."""
    if not arguments:
        return [outcome]
    argument, = arguments
    at = ARGUMENTS_AT + 8 * argument["index"]
    match argument["op"]:
        case "SCMP_CMP_EQ":
            masked, wanted = [], argument["value"]
        case "SCMP_CMP_MASKED_EQ":
            masked, wanted = [(AND, 0, 0, argument["value"])], argument["valueTwo"]
        case other:
            raise ValueError(f"{other} is not used by our profile")
    return [(LOAD_WORD, 0, 0, at), *masked, (JUMP_EQUAL, 0, 1, wanted), outcome,
            (LOAD_WORD, 0, 0, NUMBER_AT)]


def installer(steps: list[Step]):
    """Returns a function for the child process to call between fork and exec, which installs the
    filter for it alone. No privileges are needed."""
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = Program(len(steps), code)
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def install():
        if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs")
        if prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "seccomp")

    return install


def without(name: str, errno_ret: int):
    """Returns an installer of a filter that refuses one system call only."""
    refused = {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno_ret}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}
    return installer(steps_of(profile))


def load(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())
