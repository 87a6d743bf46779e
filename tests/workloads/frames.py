"""Two ends of HTTP/2 connections, frame by frame, whose operations end anywhere.

For each size of a piece: a client that sends pieces of it one by one, a client that gathers them in one call, and a server
that reads as few bytes at a time. Each connection has two requests: /SIZE-HOW/1 with bodies of LONG bytes both ways, of
which little is worth a record, and /SIZE-HOW/2 behind it.
"""

import socket
import sys

LONG = 5000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def fields(*pairs):
    return b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in pairs)


def ask(stream, path, ends):
    block = fields((b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"h"))
    half = len(block) // 2
    # A header block in two frames.
    return frame(1, 1 if ends else 0, stream, block[:half]) + frame(9, 4, stream, block[half:])


def answer(stream, ends):
    return frame(1, 5 if ends else 4, stream, fields((b":status", b"200")))


def body(stream):
    rest = LONG - 1000
    padded = bytes([3]) + b"y" * rest + bytes(3)
    return frame(0, 0, stream, b"x" * 1000) + frame(0, 9, stream, padded)


def send(end, data, size, gathers):
    if not gathers:
        for at in range(0, len(data), size):
            end.sendall(data[at:at + size])
        return
    # What it is has to be told by its first pieces.
    start = min(len(data), len(PREFACE))
    pieces = [data[:start]] + [data[at:at + size] for at in range(start, len(data), size)]
    # No call takes more pieces than this.
    for at in range(0, len(pieces), 1000):
        batch = pieces[at:at + 1000]
        assert end.sendmsg(batch) == sum(map(len, batch))


def receive(end, count, size):
    while count > 0:
        count -= len(end.recv(min(size, count)))


def play(listener, size, how):
    gathers = how == "gathered"
    client = socket.create_connection(listener.getsockname())
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server, _ = listener.accept()
    path = f"/{size}-{how}"
    asked = PREFACE + frame(4, 0, 0, b"") + ask(1, path + "/1", False) + body(1) + ask(3, path + "/2", True)
    answered = frame(4, 0, 0, b"") + answer(1, False) + body(1) + frame(6, 0, 0, bytes(8)) + answer(3, True)
    send(client, asked, size, gathers)
    receive(server, len(asked), 4 * size)
    send(server, answered, size, gathers)
    receive(client, len(answered), size)
    client.close()
    server.close()


listener = socket.create_server(("127.0.0.1", 0))
for size in map(int, sys.argv[1:]):
    play(listener, size, "single")
    play(listener, size, "gathered")
