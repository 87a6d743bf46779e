"""A server that has a pool, which makes no calls.

It listens, at which the tracer sees it, leaves it time to look, and then has a few results to wait for.
"""
import concurrent.futures
import socket
import time

pool = concurrent.futures.ThreadPoolExecutor(2)
server = socket.create_server(("127.0.0.1", 0))
with socket.create_connection(server.getsockname()) as client:
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    server.accept()[0].recv(100)
time.sleep(2)
for _ in range(10):
    pool.submit(time.sleep, 0.01).result()
