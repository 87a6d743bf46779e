"""Makes one request from a port of its own choice and prints the status line.

usage: from_port.py LOCAL-PORT SERVER-PORT PATH
"""

import socket
import sys

local, server, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
client.bind(("127.0.0.1", local))
client.connect(("127.0.0.1", server))
client.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
answer = b""
while more := client.recv(65536):
    answer += more
print("STATUS", answer.split(b"\r\n")[0].decode(), flush=True)
