"""Takes whatever is posted and answers 200 with an empty body, as an OTLP receiver that accepts everything does.

With --close, every connection is for one request only.
"""

import http.server
import sys


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print("TAKEN", self.path, len(body), self.client_address[1], flush=True)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        if "--close" in sys.argv:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
print("PORT", server.server_address[1], flush=True)
server.serve_forever()
