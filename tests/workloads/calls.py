"""Calls of a downstream service, as the Python workloads make them, and the ledger that tells the truth about them.

The ledger is a file with a line per call: its id, the id of the request that it is made for (or `-` for background work),
and the status that it must get. Nothing of it is on any socket.
"""

import http.client
import os
import random
import time

SIZES = [0, 10, 1000, 20_000, 100_000]


def add_options(parser):
    parser.add_argument("--downstream", help="HOST:PORT")
    parser.add_argument("--calls", type=int, help="always this many calls")
    parser.add_argument("--background-ms", type=int, default=15, help="0: no background calls")
    parser.add_argument("--ledger", help="file to write the truth to")
    parser.add_argument("--names", choices=["numbered", "random"], default="numbered")


def pause():
    time.sleep(random.random() * 0.003)


class Downstream:
    """The service that is called, over connections that are kept or not as chance has it."""

    def __init__(self, options):
        self.options = options
        self.patience = 60
        self.idle = []
        # A forked process must not use its parent's connections.
        os.register_at_fork(after_in_child=self.idle.clear)
        self.ledger = (
            os.open(options.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if options.ledger else None
        )

    def count(self):
        """How many calls a request takes."""
        return random.randrange(4) if self.options.calls is None else self.options.calls

    def name(self, cause, number, status=200):
        """The id of the `number`th call for a request; `cause` is None for background work."""
        if self.options.names == "random":
            name = os.urandom(8).hex()
        elif cause is None:
            name = f"bg-{os.getpid()}-{number}"
        else:
            name = f"{cause}.{number}"
        if self.ledger is not None:
            os.write(self.ledger, f"{name} {cause or '-'} {status}\n".encode())
        return name

    def call(self, cause, number):
        """The call, before which now and then one fails that has to be tried again."""
        if self.ledger is not None and random.random() < 0.03:
            self.send(self.name(cause, f"{number}-failed", 503), 503)
        self.send(self.name(cause, number), 200)

    def send(self, name, wanted):
        pooled = random.random() < 0.6
        try:
            connection = self.idle.pop() if pooled else None
        except IndexError:
            connection = None
        if connection is None:
            connection = http.client.HTTPConnection(self.options.downstream, timeout=self.patience)
        path = f"/work/{name}?pooled={pooled}" + ("&fail=yes" if wanted != 200 else "")
        headers = {} if pooled else {"Connection": "close"}
        if random.random() < 0.25:
            connection.request("POST", path, body=b"b" * random.choice([1, 500, 30_000]), headers=headers)
        else:
            connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read()
        if response.status != wanted:
            raise RuntimeError(f"{path}: {response.status}")
        if pooled:
            self.idle.append(connection)
        else:
            connection.close()

    def background(self):
        """Calls that no request causes, for as long as the process lives."""
        number = 0
        while True:
            time.sleep(random.random() * 2 * self.options.background_ms / 1000)
            self.call(None, number)
            number += 1
