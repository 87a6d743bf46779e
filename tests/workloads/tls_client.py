"""Asks an HTTPS server on 127.0.0.1. Arguments: the authority's certificate.

A line of standard input asks for a round: `PORT PREFIX CONCURRENCY COUNT new|keep 1.2|1.3`. For every answer it prints
`PATH LOCAL-PORT`, and after the round `done`.
"""

import http.client
import ssl
import sys
import threading


def ask(port, prefix, thread, count, mode, context, lines):
    connection = None
    for number in range(count):
        if connection is None:
            connection = http.client.HTTPSConnection("127.0.0.1", port, context=context)
        path = f"/work/{prefix}.{thread}.{number}"
        connection.request("GET", path)
        local = connection.sock.getsockname()[1]
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        lines.append(f"{path} {local}")
        if mode == "new":
            connection.close()
            connection = None
    if connection:
        connection.close()


for line in sys.stdin:
    port, prefix, concurrency, count, mode, version = line.split()
    context = ssl.create_default_context(cafile=sys.argv[1])
    context.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
    lines = []
    threads = [
        threading.Thread(target=ask, args=(int(port), prefix, n, int(count) // int(concurrency), mode, context, lines))
        for n in range(int(concurrency))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n".join(lines))
    print("done", prefix, flush=True)
