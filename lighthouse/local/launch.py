"""Becomes another program, tied to the life of its parent; run as a script, never imported.

PostgreSQL and its like outlive a parent that was killed, and PostgreSQL refuses to run as root.
Both are settled between fork and exec, in a process of its own, so that no code of ours has to run
in the fork of a process with threads.

Usage: launch.py PARENT_PID SIGNAL USER|- PROGRAM [ARGUMENT ...]
"""

import ctypes
import os
import pwd
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Capabilities(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def _call(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def _become(name: str) -> None:
    """Drop from root to a user, keeping only the right to reach its files.

    The binaries and the data may lie below a directory that is closed to others, such as root's
    home; moving them elsewhere would hide them from whoever looks for them.
    """
    user = pwd.getpwnam(name)
    # The change of user would take all rights, and access(2) would not count those that are kept.
    _call(_libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "prctl")
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    bit = 1 << _CAP_DAC_OVERRIDE
    data = (_Capabilities * 2)(_Capabilities(bit, bit, bit), _Capabilities(0, 0, 0))
    _call(_libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), data), "capset")
    _call(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0), "prctl")


def _main(parent: int, signal: int, user: str, argv: list[str]) -> None:
    os.setsid()  # Ctrl-C in the terminal is the supervisor's to act on
    if user != "-":
        _become(user)
    # After the change of user, which would clear it.
    _call(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        sys.exit("the parent has gone")
    os.execvp(argv[0], argv)  # noqa: S606 - the argument list is the supervisor's own


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
