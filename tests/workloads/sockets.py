"""Moves bytes between two connected stream sockets by every system call that can.

usage: sockets.py tcp|tcp6|unix FOLDER

Writes what went each way to FOLDER/up and FOLDER/down.
"""
import ctypes
import os
import socket
import sys
import threading

family, folder = sys.argv[1:3]
libc = ctypes.CDLL(None, use_errno=True)


class IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class MsgHdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_len", ctypes.c_uint),
        ("iov", ctypes.c_void_p),
        ("iov_len", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_len", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class MMsgHdr(ctypes.Structure):
    _fields_ = [("header", MsgHdr), ("len", ctypes.c_uint)]


def mmsg(parts):
    """An array of messages, each of several buffers, and what must be kept alive with it."""
    array, keep = (MMsgHdr * len(parts))(), []
    for message, buffers in zip(array, parts):
        vector = (IoVec * len(buffers))(*[IoVec(ctypes.addressof(b), len(b)) for b in buffers])
        message.header.iov, message.header.iov_len = ctypes.addressof(vector), len(buffers)
        keep.append((vector, buffers))
    return array, keep


def connect():
    if family == "unix":
        listener, address = socket.socket(socket.AF_UNIX), os.path.join(folder, "socket")
    elif family == "tcp6":
        listener, address = socket.socket(socket.AF_INET6), ("::1", 0)
    else:
        listener, address = socket.socket(socket.AF_INET), ("127.0.0.1", 0)
    listener.bind(address)
    listener.listen()
    client = socket.socket(listener.family)
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    listener.close()
    return client, server


client, server = connect()
up, down = bytearray(), bytearray()


def text(tag, length):
    """Bytes that differ at every place and begin like a request."""
    head = b"PUT /" + tag.encode() + b" HTTP/1.1\r\n"
    return head + bytes((len(up) + i * 7) % 251 for i in range(length - len(head)))


def moved(expected, got):
    assert got == expected, (got, expected)


def receive(length):
    got = 0
    while got < length:
        got += len(server.recv(length - got))


# write and read
data = text("write", 64)
up += data
moved(64, os.write(client.fileno(), data))
moved(64, len(os.read(server.fileno(), 64)))
# writev with an empty element, and readv
parts = [text("writev", 40), b"", b"second", b"third" * 3]
up += b"".join(parts)
moved(61, os.writev(client.fileno(), parts))
moved(61, os.readv(server.fileno(), [bytearray(10), bytearray(100)]))
# a turn whose first bytes lie in several elements
up += b"".join([b"P", b"U", b"T / HTTP/1.1\r\n"])
moved(16, os.writev(client.fileno(), [b"P", b"U", b"T / HTTP/1.1\r\n"]))
receive(16)
# send and recv, after a peek that must not count
data = text("send", 50)
up += data
moved(50, client.send(data))
moved(10, len(server.recv(10, socket.MSG_PEEK)))
moved(50, len(server.recv(100)))
# sendmsg and recvmsg
parts = [text("sendmsg", 45), b"part two"]
up += b"".join(parts)
moved(53, client.sendmsg(parts))
moved(53, len(server.recvmsg(200)[0]))
# sendmmsg and recvmmsg
parts = [[text(f"mmsg{i}", 30), b"end%d" % i] for i in range(3)]
up += b"".join(b"".join(message) for message in parts)
array, keep = mmsg([[(ctypes.c_char * len(b)).from_buffer_copy(b) for b in message] for message in parts])
moved(3, libc.sendmmsg(client.fileno(), array, 3, 0))
array, keep = mmsg([[ctypes.create_string_buffer(34)] for _ in range(3)])
moved(3, libc.recvmmsg(server.fileno(), array, 3, 0, None))
# sendfile, splice
with open(os.path.join(folder, "file"), "wb+") as file:
    data = text("sendfile", 9000)
    file.write(data)
    file.flush()
    up += data
    moved(9000, os.sendfile(client.fileno(), file.fileno(), 0, 9000))
    receive(9000)
read_end, write_end = os.pipe()
data = text("splice", 300)
up += data
os.write(write_end, data)
moved(300, os.splice(read_end, client.fileno(), 300))
receive(300)
# what is not there yet, and nothing
server.setblocking(False)
try:
    server.recv(10)
    raise AssertionError("nothing was sent")
except BlockingIOError:
    server.setblocking(True)
server.recv(0)
# much more than is captured, the other way
data = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(range(256)) * 800
down += data
sender = threading.Thread(target=server.sendall, args=(data,))
sender.start()
got = 0
while got < len(data):
    got += len(client.recv(65536))
sender.join()
# the end, twice, and an error
client.close()
moved(b"", server.recv(10))
moved(b"", server.recv(10))
for name, stream in (("up", up), ("down", down)):
    with open(os.path.join(folder, name), "wb") as file:
        file.write(stream)
