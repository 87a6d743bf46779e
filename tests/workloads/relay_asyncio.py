"""Answers each request after one call of the downstream service, without a pause, in one event loop.

A server for measurements, as relay.py.

--loop uvloop      on libuv's loop
--server fastapi   FastAPI on uvicorn, which calls by httpx; else as little as can be between two requests
"""

import argparse
import asyncio
import socket

parser = argparse.ArgumentParser()
parser.add_argument("--downstream", required=True, help="HOST:PORT")
parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
parser.add_argument("--server", choices=["plain", "fastapi"], default="plain")
args = parser.parse_args()

host, port = args.downstream.split(":")
idle = []


async def call():
    reader, writer = idle.pop() if idle else await asyncio.open_connection(host, int(port))
    writer.write(f"GET / HTTP/1.1\r\nHost: {args.downstream}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    idle.append((reader, writer))


async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await call()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def plain():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=128)
    print("PORT", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def fastapi():
    import fastapi
    import httpx
    import uvicorn

    app = fastapi.FastAPI()
    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=64))

    @app.get("/")
    async def root():
        answer = await client.get(f"http://{args.downstream}/")
        return {"status": answer.status_code}

    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print("PORT", listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", loop=args.loop)).run([listener])


if args.server == "fastapi":
    fastapi()
else:
    if args.loop == "uvloop":
        import uvloop

        uvloop.install()
    asyncio.run(plain())
