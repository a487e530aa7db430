"""Opens a listener and runs a command with it, as systemd does: `socket_activation.py ADDRESS COUNT COMMAND…`."""

import os
import socket
import sys

address, count, *command = sys.argv[1:]
if address == "udp":
    passed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    passed.bind(("127.0.0.1", 0))
else:
    passed = socket.create_server((address, 0))
os.dup2(passed.fileno(), 3)
# If it was that already, nothing was done.
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": count, "LISTEN_PID": str(os.getpid())}
os.execvp(command[0], command)
