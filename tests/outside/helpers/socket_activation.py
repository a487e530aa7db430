"""Opens listeners and runs a command with them, as systemd does: `socket_activation.py ADDRESSES COMMAND…`.

The addresses stand between commas; one that begins with a slash is the path of a Unix socket."""

import fcntl
import os
import socket
import sys

addresses, *command = sys.argv[1:]
addresses = addresses.split(",")


def listen(address):
    if address == "udp":
        passed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        passed.bind(("127.0.0.1", 0))
        return passed
    if address.startswith("/"):
        passed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        passed.bind(address)
        passed.listen()
        return passed
    return socket.create_server((address, 0))


# Above the numbers that they get in the end.
held = [fcntl.fcntl(listen(address).detach(), fcntl.F_DUPFD, 100) for address in addresses]
for place, number in enumerate(held):
    os.dup2(number, 3 + place)
os.environ |= {"LISTEN_FDS": str(len(addresses)), "LISTEN_PID": str(os.getpid())}
os.execvp(command[0], command)
