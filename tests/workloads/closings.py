"""Connections that end in the three ways: closed by both programs, reset after the answer, reset while a thread sends.

A client answers for itself on sockets of its own; each connection's request says how it ends.
"""

import socket
import struct
import threading
import time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

listener = socket.create_server(("127.0.0.1", 0))


def connect(path):
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.sendall(b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % path)
    server.recv(1000)
    return client, server


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def send(server):
    try:
        server.sendall(bytes(50_000_000))
    except OSError:
        pass


client, server = connect(b"closed")
server.sendall(OK)
client.recv(1000)
client.close()
server.close()

client, server = connect(b"reset")
server.sendall(OK)
client.recv(1000)
reset(client)
server.close()

client, server = connect(b"reset-amid")
server.sendall(HEAD)
client.recv(len(HEAD), socket.MSG_WAITALL)
sender = threading.Thread(target=send, args=(server,))
sender.start()
# Until it waits for room.
time.sleep(0.3)
reset(client)
sender.join()
server.close()
