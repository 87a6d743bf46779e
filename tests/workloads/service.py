"""A thread-per-connection HTTP service: answers /work/ID after up to three calls of /work/ID.N downstream.

--mode handoff  one thread reads the request, another one of a pool calls and answers
--mode fork     a process per connection
--mode after    the calls are made after the answer
any other mode: a thread per connection, and calls as in models.py
Meanwhile a background thread calls the same downstream, through the same connections, as /work/bg-PID-N.
"""

import argparse
import concurrent.futures
import http.server
import random
import socketserver
import threading

from calls import SIZES, Downstream, add_options
from models import Models

parser = argparse.ArgumentParser()
parser.add_argument("--mode", choices=[*Models.MODELS, "handoff", "fork", "after"], default="thread")
parser.add_argument("--unix", help="listen on this socket path instead of a port")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=0)
add_options(parser)
args = parser.parse_args()

downstream = Downstream(args)
models = Models(downstream)
model = args.mode if args.mode in Models.MODELS else "thread"
executor = concurrent.futures.ThreadPoolExecutor(40) if args.mode == "handoff" else None


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
        if "fail=yes" in self.path:
            self.send_error(503)
            return
        calls = downstream.count() if args.downstream else 0
        if args.mode != "after":
            models.run(model, request_id, calls)
        self.send_body(calls)
        if args.mode == "after":
            self.wfile.flush()
            models.run(model, request_id, calls)

    def send_body(self, calls):
        body = f"calls={calls}\n".encode() + b"x" * random.choice(SIZES[:2] if "small=yes" in self.path else SIZES)
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
if args.downstream:
    models.start(model)
    if args.background_ms:
        threading.Thread(target=downstream.background, daemon=True).start()
server.serve_forever()
