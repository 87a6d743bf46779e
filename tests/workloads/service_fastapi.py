"""A FastAPI application under uvicorn: answers /work/ID after up to three calls of /work/ID.N downstream.

Routes are coroutines that call with httpx, one call after the other or several at once; or functions, which run in threads of
the framework's own and call as threads do; or chance has it. Meanwhile a task calls the same downstream as
/work/bg-PID-N.
"""

import argparse
import asyncio
import random
import socket

import httpx
import uvicorn
from calls import SIZES, Downstream, add_options, pause
from calls_async import background
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

parser = argparse.ArgumentParser()
parser.add_argument("--routes", choices=["async", "def", "mixed"], default="mixed")
parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
parser.add_argument("--http", choices=["h11", "httptools"], default="h11")
add_options(parser)
args = parser.parse_args()

downstream = Downstream(args)
clients = {}
threaded = httpx.Client(limits=httpx.Limits(max_connections=20))
app = FastAPI()


def message(call_id, wanted):
    url = f"http://{args.downstream}/work/{call_id}" + ("" if wanted == 200 else "?fail=yes")
    body = b"b" * random.choice([0, 0, 0, 1, 500, 30_000])
    return ("POST", url, body) if body else ("GET", url, None)


def check(call_id, wanted, response):
    if response.status_code != wanted:
        raise RuntimeError(f"{call_id}: {response.status_code}")


def tried(cause, number):
    """What is to be sent: now and then a call fails that has to be tried again."""
    if args.ledger and random.random() < 0.03:
        yield downstream.name(cause, f"{number}-failed", 503), 503
    yield downstream.name(cause, number), 200


async def call(cause, number):
    await asyncio.sleep(random.random() * 0.003)
    for call_id, wanted in tried(cause, number):
        method, url, body = message(call_id, wanted)
        client = clients["pooled" if random.random() < 0.6 else "fresh"]
        check(call_id, wanted, await client.request(method, url, content=body))


def call_in_thread(cause, number):
    if random.random() < 0.5:
        return downstream.call(cause, number)
    for call_id, wanted in tried(cause, number):
        method, url, body = message(call_id, wanted)
        check(call_id, wanted, threaded.request(method, url, content=body))


def answer(calls):
    body = f"calls={calls}\n".encode() + b"x" * random.choice(SIZES)
    if random.random() < 0.5:
        return Response(body)
    return StreamingResponse(iter([body[at : at + 7000] for at in range(0, len(body), 7000)]))


async def route(request_id: str, request: Request):
    await request.body()
    calls = downstream.count() if args.downstream else 0
    if random.random() < 0.5:
        await asyncio.gather(*(call(request_id, number) for number in range(calls)))
    else:
        for number in range(calls):
            await call(request_id, number)
    return answer(calls)


def route_in_thread(request_id: str):
    calls = downstream.count() if args.downstream else 0
    for number in range(calls):
        pause()
        call_in_thread(request_id, number)
    return answer(calls)


async def either(request_id: str, request: Request):
    """Part of the work in a thread, as frameworks let coroutines have it done."""
    await request.body()
    calls = downstream.count() if args.downstream else 0
    for number in range(calls):
        if random.random() < 0.5:
            await run_in_threadpool(call_in_thread, request_id, number)
        else:
            await call(request_id, number)
    return answer(calls)


routes = {"async": route, "def": route_in_thread, "mixed": either}
app.add_api_route("/work/{request_id}", routes[args.routes], methods=["GET", "POST"])


@app.on_event("startup")
async def start():
    # Fewer connections than calls at a high load: calls wait for one that is free.
    clients["pooled"] = httpx.AsyncClient(limits=httpx.Limits(max_connections=12), timeout=60)
    clients["fresh"] = httpx.AsyncClient(headers={"connection": "close"}, timeout=60)
    if args.downstream and args.background_ms:
        app.state.background = asyncio.get_running_loop().create_task(background(args, call))


listener = socket.create_server(("127.0.0.1", 0), backlog=128)
print("PORT", listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, loop=args.loop, http=args.http, log_level="warning", access_log=False)
uvicorn.Server(config).run(sockets=[listener])
