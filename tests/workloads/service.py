"""A thread-per-connection HTTP service: answers /work/ID after up to three calls of /work/ID.N downstream.

--mode thread   calls are made by the thread that serves the request
--mode pool     calls are handed to a thread pool that all requests share
--mode handoff  one thread reads the request, another one of a pool calls and answers
--mode fork     a process per connection
Meanwhile a background thread calls the same downstream, through the same connections, as /work/bg-PID-N.
"""

import argparse
import concurrent.futures
import http.client
import http.server
import os
import random
import socket
import socketserver
import threading
import time

SIZES = [0, 10, 1000, 20_000, 100_000]

parser = argparse.ArgumentParser()
parser.add_argument("--mode", choices=["thread", "pool", "handoff", "fork"], default="thread")
parser.add_argument("--downstream", help="HOST:PORT")
parser.add_argument("--unix", help="listen on this socket path instead of a port")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--calls", type=int, help="always this many calls")
parser.add_argument("--background-ms", type=int, default=15, help="0: no background calls")
args = parser.parse_args()

idle = []
# A forked process must not use its parent's connections.
os.register_at_fork(after_in_child=idle.clear)
executor = concurrent.futures.ThreadPoolExecutor(40) if args.mode in ("pool", "handoff") else None


def call(call_id):
    pooled = random.random() < 0.6
    try:
        connection = idle.pop() if pooled else None
    except IndexError:
        connection = None
    if connection is None:
        connection = http.client.HTTPConnection(args.downstream, timeout=60)
    path = f"/work/{call_id}?pooled={pooled}"
    headers = {} if pooled else {"Connection": "close"}
    if random.random() < 0.25:
        connection.request("POST", path, body=b"b" * random.choice([1, 500, 30_000]), headers=headers)
    else:
        connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status}")
    if pooled:
        idle.append(connection)
    else:
        connection.close()


def background():
    number = 0
    while True:
        time.sleep(random.random() * 2 * args.background_ms / 1000)
        call(f"bg-{os.getpid()}-{number}")
        number += 1


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request_id = self.path.removeprefix("/work/").split("?")[0]
        if args.mode == "handoff":
            executor.submit(self.answer, request_id).result()
        else:
            self.answer(request_id)

    do_POST = do_GET

    def answer(self, request_id):
        calls = 0
        if args.downstream:
            calls = random.randrange(4) if args.calls is None else args.calls
            for number in range(calls):
                time.sleep(random.random() * 0.003)
                if args.mode == "pool":
                    executor.submit(call, f"{request_id}.{number}").result()
                else:
                    call(f"{request_id}.{number}")
        body = f"calls={calls}\n".encode() + b"x" * random.choice(SIZES)
        self.send_response(200)
        if random.random() < 0.5:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while body:
            piece, body = body[:7000], body[7000:]
            self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass

    def address_string(self):
        return "peer"


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


class ForkingServer(socketserver.ForkingMixIn, http.server.HTTPServer):
    request_queue_size = 128
    max_children = 100


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    request_queue_size = 128
    daemon_threads = True

    def get_request(self):
        connection, _ = self.socket.accept()
        return connection, ("unix", 0)


if args.unix:
    Handler.disable_nagle_algorithm = False
    server = UnixServer(args.unix, Handler)
    print("PORT 0", flush=True)
else:
    server = (ForkingServer if args.mode == "fork" else Server)((args.host, args.port), Handler)
    print("PORT", server.server_address[1], flush=True)
if args.downstream and args.background_ms:
    threading.Thread(target=background, daemon=True).start()
server.serve_forever()
