"""Starts descendants of every kind; the first thing that each of them does to a socket is to send a request."""

import os
import socket
import subprocess
import threading

listener = socket.create_server(("127.0.0.1", 0))


def connected():
    client = socket.create_connection(listener.getsockname())
    return client, listener.accept()[0]


def request(name):
    return f"GET /{name} HTTP/1.1\r\n\r\n".encode()


def forked(name, generations):
    client, server = connected()
    if os.fork() == 0:
        for _ in range(generations - 1):
            if os.fork() != 0:
                os.wait()
                os._exit(0)
        os.write(client.fileno(), request(name))
        os._exit(0)
    os.wait()
    assert server.recv(1000) == request(name)


forked("child", 1)
forked("great-grandchild", 3)

client, server = connected()
script = f"printf 'GET /executed HTTP/1.1\\r\\n\\r\\n' >&{client.fileno()}"
subprocess.run(["/bin/sh", "-c", script], pass_fds=[client.fileno()], check=True)
assert server.recv(1000) == request("executed")

client, server = connected()
thread = threading.Thread(target=client.send, args=(request("thread"),))
thread.start()
thread.join()
assert server.recv(1000) == request("thread")
print("PID", os.getpid(), flush=True)
