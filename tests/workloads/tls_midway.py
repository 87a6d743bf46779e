"""Asks itself by HTTPS over one connection. Arguments: certificate, key, authority.

It prints `midway` in the middle of an answer's body, and goes on when told to by a line of standard input: the rest of
that answer, and then as many more exchanges as the line says, for `/after/0` and so on. Then it prints `done`.
"""

import http.client
import http.server
import ssl
import sys
import threading

halfway, go_on = threading.Event(), threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = [b"hello\n"]
        if self.path == "/before":
            parts = [b"<p>one</p>\n", b"<p>two</p>\n", b"<p>three</p>\n"]
        self.send_response(200)
        self.send_header("Content-Length", str(sum(map(len, parts))))
        self.end_headers()
        for number, part in enumerate(parts):
            if number == 1:
                halfway.set()
                go_on.wait()
            self.wfile.write(part)

    def log_message(self, *_):
        pass


certificate, key, authority = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()

context = ssl.create_default_context(cafile=authority)
connection = http.client.HTTPSConnection("127.0.0.1", server.server_address[1], context=context)
connection.request("GET", "/before")
answer = connection.getresponse()
halfway.wait()
print("midway", flush=True)
count = int(sys.stdin.readline())
go_on.set()
answer.read()
for number in range(count):
    connection.request("GET", f"/after/{number}")
    connection.getresponse().read()
print("done", flush=True)
sys.stdin.readline()
