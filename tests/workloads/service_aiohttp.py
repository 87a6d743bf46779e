"""An aiohttp service that calls with aiohttp's client: answers /work/ID after up to three calls of /work/ID.N downstream.

Calls are made one after the other or at once. Meanwhile a task calls the same downstream as /work/bg-PID-N.
"""

import argparse
import asyncio
import random

import aiohttp
from aiohttp import web
from calls import SIZES, Downstream, add_options
from calls_async import background

parser = argparse.ArgumentParser()
add_options(parser)
args = parser.parse_args()

downstream = Downstream(args)
sessions = {}


async def call(cause, number):
    """The call, before which now and then one fails that has to be tried again."""
    if args.ledger and random.random() < 0.03:
        await send(downstream.name(cause, f"{number}-failed", 503), 503)
    await send(downstream.name(cause, number), 200)


async def send(call_id, wanted):
    session = sessions["pooled" if random.random() < 0.6 else "fresh"]
    url = f"http://{args.downstream}/work/{call_id}" + ("" if wanted == 200 else "?fail=yes")
    body = b"b" * random.choice([0, 0, 0, 1, 500, 30_000])
    async with session.request("POST" if body else "GET", url, data=body or None) as response:
        await response.read()
        if response.status != wanted:
            raise RuntimeError(f"{call_id}: {response.status}")


async def delayed_call(cause, number):
    await asyncio.sleep(random.random() * 0.003)
    await call(cause, number)


async def serve(request):
    await request.read()
    request_id = request.match_info["id"]
    calls = downstream.count() if args.downstream else 0
    if random.random() < 0.5:
        await asyncio.gather(*(delayed_call(request_id, number) for number in range(calls)))
    else:
        for number in range(calls):
            await delayed_call(request_id, number)
    body = f"calls={calls}\n".encode() + b"x" * random.choice(SIZES)
    if random.random() < 0.5:
        return web.Response(body=body)
    response = web.StreamResponse()
    await response.prepare(request)
    for at in range(0, len(body), 7000):
        await response.write(body[at : at + 7000])
    await response.write_eof()
    return response


async def main():
    # Fewer connections than calls at a high load: calls wait for one that is free.
    sessions["pooled"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=12))
    sessions["fresh"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
    app = web.Application(client_max_size=1 << 20)
    app.router.add_route("*", "/work/{id}", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=128)
    await site.start()
    print("PORT", site._server.sockets[0].getsockname()[1], flush=True)
    if args.downstream and args.background_ms:
        await background(args, call)
    await asyncio.Event().wait()


asyncio.run(main())
