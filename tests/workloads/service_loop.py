"""An event loop that is nobody's library, on one thread, whose calls wait: /work/ID as in service.py.

--mode soon  a request is worked on in the next turn of the loop: it calls and is answered
--mode slow  the same after some milliseconds, in which the loop turns
--mode late  it is answered in the next turn, and calls are made in the one behind that
Meanwhile the loop itself makes calls, by a timer, that no request causes.
"""

import argparse
import collections
import heapq
import random
import selectors
import socket
import time

from calls import SIZES, Downstream, add_options

parser = argparse.ArgumentParser()
parser.add_argument("--mode", choices=["soon", "slow", "late"], default="soon")
add_options(parser)
args = parser.parse_args()

downstream = Downstream(args)
downstream.patience = None
selector = selectors.DefaultSelector()
ready = collections.deque()
timers = []


def later(seconds, work):
    heapq.heappush(timers, (time.monotonic() + seconds, random.random(), work))


class Connection:
    def __init__(self, client):
        self.client = client
        self.received = b""
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(client, selectors.EVENT_READ, self.read)

    def read(self):
        try:
            more = self.client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            selector.unregister(self.client)
            self.client.close()
            return
        self.received += more
        while (request := self.whole()) is not None:
            if args.mode == "slow":
                later(random.random() * 0.005, lambda request=request: self.work(request))
            else:
                ready.append(lambda request=request: self.work(request))

    def whole(self):
        head, end, body = self.received.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        lengths = [int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")]
        if not end or len(body) < sum(lengths):
            return None
        self.received = body[sum(lengths):]
        return lines[0].split()[1].decode().removeprefix("/work/").split("?")[0]

    def work(self, request):
        calls = downstream.count() if args.downstream else 0
        if args.mode == "late":
            ready.append(lambda: self.call(request, calls))
        else:
            self.call(request, calls)
        body = f"calls={calls}\n".encode() + b"x" * random.choice(SIZES)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        try:
            self.client.setblocking(True)
            self.client.sendall(answer)
            self.client.setblocking(False)
        except OSError:
            pass

    def call(self, request, calls):
        for number in range(calls):
            downstream.call(request, number)


def background(number=0):
    downstream.call(None, number)
    later(random.random() * 2 * args.background_ms / 1000, lambda: background(number + 1))


listener = socket.create_server(("127.0.0.1", 0), backlog=512)
listener.setblocking(False)
selector.register(listener, selectors.EVENT_READ, lambda: Connection(listener.accept()[0]))
print("PORT", listener.getsockname()[1], flush=True)
if args.downstream and args.background_ms:
    later(0, background)
while True:
    now = time.monotonic()
    wait = 0 if ready else max(0, timers[0][0] - now) if timers else None
    ready.extend(key.data for key, _ in selector.select(wait))
    while timers and timers[0][0] <= time.monotonic():
        ready.append(heapq.heappop(timers)[2])
    for _ in range(len(ready)):
        ready.popleft()()
