"""A small shop: answers /cart/ID with what the stock server says of the cart's items."""

import http.client
import http.server
import json
import sys

STOCK = sys.argv[1]


class Cart(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        items = []
        for item in ("tea", "cups"):
            stock = http.client.HTTPConnection(STOCK)
            stock.request("GET", f"/stock/{item}")
            items.append(json.load(stock.getresponse()))
        body = json.dumps({"cart": self.path, "items": items}).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cart)
print("PORT", server.server_address[1], flush=True)
server.serve_forever()
