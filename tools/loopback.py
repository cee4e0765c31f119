"""Bring 127.0.0.1 up where it is down.

A notebook's kernel and the page tests talk over the loopback interface. In a fresh network namespace
(`unshare -n`, a way to cut the network) it starts switched off; whoever made the namespace may switch it on.
Where it is up already, as on every ordinary machine, nothing is touched.
"""

from __future__ import annotations

import socket
import struct
import sys

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def bring_up() -> None:
    if not sys.platform.startswith("linux"):
        return
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", answer)[1]
        if flags & IFF_UP:
            return
        try:
            fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
        except PermissionError:
            sys.exit("The loopback interface (127.0.0.1) is down; notebooks cannot run without it: ip link set lo up")
