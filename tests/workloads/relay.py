"""Answers each request after one call of the downstream service, without a pause: on the request's thread, or on a pool's.

A server for measurements: whatever stands between two requests is the program's own work.
"""

import argparse
import concurrent.futures
import http.client
import http.server
import threading

parser = argparse.ArgumentParser()
parser.add_argument("--downstream", required=True, help="HOST:PORT")
parser.add_argument("--pool", type=int, default=0, help="threads of the pool; none if 0")
args = parser.parse_args()

own = threading.local()
pool = concurrent.futures.ThreadPoolExecutor(args.pool) if args.pool else None


def call():
    if not hasattr(own, "connection"):
        own.connection = http.client.HTTPConnection(args.downstream)
    own.connection.request("GET", "/")
    own.connection.getresponse().read()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        if pool:
            pool.submit(call).result()
        else:
            call()
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


server = Server(("127.0.0.1", 0), Handler)
print("PORT", server.server_address[1], flush=True)
server.serve_forever()
