"""Uses many pairs of Unix sockets, rests, uses them again, closes them and rests.

usage: unix_pairs.py COUNT
"""

import resource
import socket
import sys
import time

count = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (4 * count, 4 * count))
pairs = [socket.socketpair() for _ in range(count)]
for turn in range(2):
    for number, (client, server) in enumerate(pairs):
        client.send(b"GET /%d HTTP/1.1\r\n\r\n" % turn)
        server.recv(100)
        if number % 100 == 99:
            # No faster than the tracer takes in new connections.
            time.sleep(0.02)
    time.sleep(2.5)
for pair in pairs:
    for end in pair:
        end.close()
time.sleep(2.5)
