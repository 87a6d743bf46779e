"""An event-loop HTTP service in one thread: answers /work/ID after up to three calls of /work/ID.N downstream.

Calls are made one after the other or at once. Meanwhile a task calls the same downstream as /work/bg-PID-N.
"""

import argparse
import asyncio
import random

from calls import SIZES, Downstream, add_options

parser = argparse.ArgumentParser()
add_options(parser)
args = parser.parse_args()

downstream = Downstream(args)
idle = []


async def read_head(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return head[0], headers


async def read_body(reader, headers):
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    else:
        await reader.readexactly(int(headers.get("content-length", 0)))


async def call(call_id):
    host, port = args.downstream.split(":")
    pooled = random.random() < 0.6
    reader, writer = idle.pop() if pooled and idle else await asyncio.open_connection(host, int(port))
    body = b"b" * random.choice([0, 0, 0, 1, 500, 30_000])
    method = "POST" if body else "GET"
    close = "" if pooled else "Connection: close\r\n"
    head = f"{method} /work/{call_id} HTTP/1.1\r\nHost: {host}\r\n{close}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    status, headers = await read_head(reader)
    await read_body(reader, headers)
    if " 200" not in status:
        raise RuntimeError(f"{call_id}: {status}")
    if pooled:
        idle.append((reader, writer))
    else:
        writer.close()


async def delayed_call(call_id):
    await asyncio.sleep(random.random() * 0.003)
    await call(call_id)


async def serve(reader, writer):
    try:
        while True:
            request, headers = await read_head(reader)
            await read_body(reader, headers)
            request_id = request.split(" ")[1].removeprefix("/work/").split("?")[0]
            calls = 0
            if args.downstream:
                calls = downstream.count()
                ids = [downstream.name(request_id, number) for number in range(calls)]
                if random.random() < 0.5:
                    await asyncio.gather(*(delayed_call(call_id) for call_id in ids))
                else:
                    for call_id in ids:
                        await delayed_call(call_id)
            body = f"calls={calls}\n".encode() + b"x" * random.choice(SIZES)
            if random.random() < 0.5:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while body:
                    piece, body = body[:7000], body[7000:]
                    writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
                writer.write(b"0\r\n\r\n")
            await writer.drain()
            if headers.get("connection") == "close":
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def background():
    number = 0
    while True:
        await asyncio.sleep(random.random() * 2 * args.background_ms / 1000)
        await call(downstream.name(None, number))
        number += 1


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=128)
    print("PORT", server.sockets[0].getsockname()[1], flush=True)
    if args.downstream and args.background_ms:
        task = asyncio.create_task(background())
        await task
    await server.serve_forever()


asyncio.run(main())
