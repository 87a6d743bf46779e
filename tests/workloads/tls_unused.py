"""Begins TLS sessions that end before they carry anything, when it gets a line on standard input."""

import socket
import ssl
import sys

listener = socket.create_server(("127.0.0.1", 0))
context = ssl.create_default_context()
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    theirs.shutdown(socket.SHUT_WR)
    try:
        context.wrap_socket(ours, server_hostname="localhost")
    except ssl.SSLError:
        pass
    theirs.close()
print("done", flush=True)
