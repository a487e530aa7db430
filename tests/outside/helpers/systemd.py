"""The supervisor's end of systemd's notifications."""

import re
import socket
import struct
import tempfile

from helpers.process import DEADLINE


class Supervisor:
    """The listener at NOTIFY_SOCKET, by a path or an abstract name."""

    def __init__(self, is_abstract):
        self.directory = tempfile.TemporaryDirectory(prefix="oneloop-")
        path = f"{self.directory.name}/notify"
        self.name = f"@{path}" if is_abstract else path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{path}" if is_abstract else path)
        self.socket.settimeout(DEADLINE)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.said = []
        # The process that sent the last line: systemd listens to the main one alone.
        self.sender = None

    def next(self, pattern):
        """The next line that matches; those before it are kept in `said`."""
        while True:
            text, [(_, _, credentials)], _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
            self.sender, text = struct.unpack("3i", credentials)[0], text.decode()
            self.said.append(text)
            if re.search(pattern, text, re.MULTILINE):
                return text

    def close(self):
        self.socket.close()
        self.directory.cleanup()


def variables(supervisor, **more):
    return {"NOTIFY_SOCKET": supervisor.name} | more
