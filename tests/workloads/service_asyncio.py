"""An event-loop HTTP service in one thread: answers /work/ID after up to three calls of /work/ID.N downstream.

Calls are made one after the other or at once. Meanwhile a task calls the same downstream as /work/bg-PID-N.

--loop uvloop      on libuv's loop
--model to_thread  the loop hands each call to a thread of its pool, which makes it as programs with threads do
"""

import argparse
import asyncio
import random

from calls import SIZES, Downstream, add_options
from calls_async import background

parser = argparse.ArgumentParser()
parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
parser.add_argument("--model", choices=["loop", "to_thread"], default="loop")
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


async def call(cause, number):
    """The call, before which now and then one fails that has to be tried again."""
    if args.model == "to_thread":
        await asyncio.to_thread(downstream.call, cause, number)
        return
    if args.ledger and random.random() < 0.03:
        await send(downstream.name(cause, f"{number}-failed", 503), 503)
    await send(downstream.name(cause, number), 200)


async def send(call_id, wanted):
    host, port = args.downstream.split(":")
    pooled = random.random() < 0.6
    reader, writer = idle.pop() if pooled and idle else await asyncio.open_connection(host, int(port))
    body = b"b" * random.choice([0, 0, 0, 1, 500, 30_000])
    method = "POST" if body else "GET"
    close = "" if pooled else "Connection: close\r\n"
    query = "" if wanted == 200 else "?fail=yes"
    head = f"{method} /work/{call_id}{query} HTTP/1.1\r\nHost: {host}\r\n{close}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    status, headers = await read_head(reader)
    await read_body(reader, headers)
    if f" {wanted} " not in status:
        raise RuntimeError(f"{call_id}: {status}")
    if pooled and headers.get("connection") != "close":
        idle.append((reader, writer))
    else:
        writer.close()


async def delayed_call(cause, number):
    await asyncio.sleep(random.random() * 0.003)
    await call(cause, number)


async def serve(reader, writer):
    try:
        while True:
            request, headers = await read_head(reader)
            await read_body(reader, headers)
            request_id = request.split(" ")[1].removeprefix("/work/").split("?")[0]
            calls = 0
            if args.downstream:
                calls = downstream.count()
                if random.random() < 0.5:
                    await asyncio.gather(*(delayed_call(request_id, number) for number in range(calls)))
                else:
                    for number in range(calls):
                        await delayed_call(request_id, number)
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


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=128)
    print("PORT", server.sockets[0].getsockname()[1], flush=True)
    if args.downstream and args.background_ms:
        task = asyncio.create_task(background(args, call))
        await task
    await server.serve_forever()


if args.loop == "uvloop":
    import uvloop

    uvloop.install()
asyncio.run(main())
