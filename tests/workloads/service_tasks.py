"""An event-loop HTTP service whose requests call through other tasks: /work/ID after some calls of /work/ID.N.

--model waits     the request waits for its calls: gather, wait, wait_for, shield, a task group, nested, in turn
--model later     tasks are made first and waited for at the end
--model forget    the request is answered while its calls go on
--model after     the request is answered, and then its calls are made, by the same task on the same connection
--model queue     its calls are put into a queue, from which a few tasks of the process take them
--model coalesce  requests that come while a call is under way share it
--model handed    the request's call is made by a task that another request waits for
--model batch     one of the requests that come at about the same time waits for what all of them have started
--model mixed     a task serves several connections in turn
--model pipelined calls of several requests are sent at the same time, on one connection
--model hired     each request has a task made that serves one to three of those which wait, and has others answer them

--through to_thread  calls are made by threads of the loop's pool, which tasks wait for so
--through executor   the same, by futures of the pool that are handed around instead of tasks

--loop uvloop     on libuv's loop
"""

import argparse
import asyncio
import random

from calls import SIZES, Downstream, add_options
from calls_async import background

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="waits")
parser.add_argument("--through", choices=["loop", "to_thread", "executor"], default="loop")
parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
add_options(parser)
args = parser.parse_args()

downstream = Downstream(args)
idle = []
kept = []


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


class Line:
    """A connection, on which the next call does not wait for the answer of the one before."""

    def __init__(self):
        self.left = random.randrange(1, 12)
        self.opened = asyncio.get_running_loop().create_task(asyncio.open_connection(*args.downstream.split(":")))
        self.before = self.opened


line = None
tick = asyncio.Event()


async def ticks():
    global tick
    while True:
        await asyncio.sleep(0.01)
        due, tick = tick, asyncio.Event()
        due.set()


async def pipelined(cause, number):
    global line
    call_id = downstream.name(cause, number)
    await tick.wait()
    if line is None or line.left == 0:
        line = Line()
    own = line
    own.left -= 1
    before, answered = own.before, asyncio.get_running_loop().create_future()
    own.before = answered
    reader, writer = await own.opened
    writer.write(f"GET /work/{call_id}?small=yes HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    await before
    status, headers = await read_head(reader)
    await read_body(reader, headers)
    answered.set_result(None)
    if own.left == 0 and own.before is answered:
        writer.close()
    if " 200" not in status:
        raise RuntimeError(f"{call_id}: {status}")


async def call(cause, number):
    if args.model == "pipelined" and not str(cause).startswith("bg"):
        await pipelined(cause, number)
        return
    await asyncio.sleep(random.random() * 0.003)
    if args.through == "to_thread":
        await asyncio.to_thread(downstream.call, cause, number)
        return
    if args.through == "executor":
        await asyncio.get_running_loop().run_in_executor(None, downstream.call, cause, number)
        return
    call_id = downstream.name(cause, number)
    host, port = args.downstream.split(":")
    pooled = random.random() < 0.6
    reader, writer = idle.pop() if pooled and idle else await asyncio.open_connection(host, int(port))
    close = "" if pooled else "Connection: close\r\n"
    writer.write(f"GET /work/{call_id} HTTP/1.1\r\nHost: {host}\r\n{close}\r\n".encode())
    status, headers = await read_head(reader)
    await read_body(reader, headers)
    if " 200" not in status:
        raise RuntimeError(f"{call_id}: {status}")
    if pooled and headers.get("connection") != "close":
        idle.append((reader, writer))
    else:
        writer.close()


def spawn(work):
    if args.through == "executor":
        # Not a task: the pool's future, for which whoever has it may wait.
        known = work.cr_frame.f_locals
        work.close()
        return asyncio.get_running_loop().run_in_executor(
            None, downstream.call, known["cause"], known["number"]
        )
    # A callback of its own when it is done would be one more that waits for it.
    task = asyncio.get_running_loop().create_task(work)
    kept.append(task)
    return task


async def in_group(works):
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)


async def nested(works):
    await asyncio.gather(asyncio.create_task(asyncio.wait_for(asyncio.gather(*works), 30)))


async def wait(request_id, calls):
    works = [call(request_id, number) for number in range(calls)]
    way = random.randrange(7)
    if not works:
        return
    if way == 0:
        await asyncio.gather(*works)
    elif way == 1:
        await asyncio.wait([asyncio.create_task(work) for work in works])
    elif way == 2:
        for work in works:
            await asyncio.wait_for(work, 30)
    elif way == 3:
        for work in works:
            await asyncio.shield(work)
    elif way == 4:
        await in_group(works)
    elif way == 5:
        await nested(works)
    else:
        for work in works:
            await asyncio.create_task(work)


async def later(request_id, calls):
    tasks = [asyncio.create_task(call(request_id, number)) for number in range(calls)]
    await asyncio.sleep(random.random() * 0.004)
    for task in tasks:
        await task


jobs = None
shared = None
offered = []
batched = None


async def worker():
    while True:
        request_id, number, done = await jobs.get()
        await call(request_id, number)
        done.set_result(None)


async def through_queue(request_id, calls):
    for number in range(calls):
        done = asyncio.get_running_loop().create_future()
        await jobs.put((request_id, number, done))
        await done


async def coalesce(request_id, calls):
    global shared
    if not calls:
        return
    if shared is None or shared.done():
        shared = spawn(call(request_id, 0))
    await shared


async def handed(request_id, calls):
    if not calls:
        return
    offered.append(spawn(call(request_id, 0)))
    if len(offered) > 1:
        await offered.pop(0)


async def batch(request_id, calls):
    """The first of those that come within some milliseconds waits for what all of them have started, and they for it."""
    global batched
    if not calls:
        return
    if batched:
        tasks, done = batched
    else:
        tasks, done = batched = ([], asyncio.get_running_loop().create_future())
    leads = not tasks
    tasks.append(spawn(later_call(request_id)))
    if leads:
        await asyncio.sleep(0.004)
        batched = None
        await random.choice([asyncio.gather, in_turn])(*tasks)
        done.set_result(None)
    else:
        await done


async def in_turn(*tasks):
    for task in tasks:
        await task


async def later_call(request_id):
    await asyncio.sleep(random.random() * 0.012)
    await call(request_id, 0)


async def work(request_id, calls):
    if args.model == "waits":
        await wait(request_id, calls)
    elif args.model == "later":
        await later(request_id, calls)
    elif args.model == "forget":
        for number in range(calls):
            spawn(call(request_id, number))
    elif args.model == "queue":
        await through_queue(request_id, calls)
    elif args.model == "coalesce":
        await coalesce(request_id, calls)
    elif args.model == "handed":
        await handed(request_id, calls)
    elif args.model == "batch":
        await batch(request_id, calls)
    elif args.model in ("mixed", "pipelined"):
        for number in range(calls):
            await call(request_id, number)


def answer(writer, calls):
    body = f"calls={calls}\n".encode() + b"x" * random.choice(SIZES)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def serve(reader, writer):
    try:
        while True:
            request, headers = await read_head(reader)
            await read_body(reader, headers)
            request_id = request.split(" ")[1].removeprefix("/work/").split("?")[0]
            calls = downstream.count() if args.downstream else 0
            if args.model == "hired":
                done = asyncio.get_running_loop().create_future()
                waiting.append((request_id, calls, writer, done))
                kept.append(asyncio.create_task(hired()))
                await done
            elif args.model == "mixed":
                done = asyncio.get_running_loop().create_future()
                await jobs.put((request_id, calls, writer, done))
                await done
            else:
                await work(request_id, calls)
                answer(writer, calls)
            await writer.drain()
            if args.model == "after":
                for number in range(calls):
                    await call(request_id, number)
            if headers.get("connection") == "close":
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def answering_worker():
    while True:
        request_id, calls, writer, done = await jobs.get()
        await work(request_id, calls)
        answer(writer, calls)
        done.set_result(None)
        # For the request that was answered, while others wait.
        await call(request_id, "late")


waiting = []


async def hired():
    for _ in range(random.randrange(1, 4)):
        if not waiting:
            return
        request_id, calls, writer, done = waiting.pop(random.randrange(len(waiting)))
        for number in range(calls):
            await call(request_id, number)
        kept.append(asyncio.create_task(answer_and_tell(writer, calls, done)))


async def answer_and_tell(writer, calls, done):
    answer(writer, calls)
    await writer.drain()
    done.set_result(None)


async def main():
    global jobs
    jobs = asyncio.Queue()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=128)
    print("PORT", server.sockets[0].getsockname()[1], flush=True)
    if args.downstream:
        works = {"queue": worker, "mixed": answering_worker}.get(args.model)
        tasks = [asyncio.create_task(works()) for _ in range(6)] if works else []
        if args.model == "pipelined":
            tasks.append(asyncio.create_task(ticks()))
        if args.background_ms:
            tasks.append(asyncio.create_task(background(args, call)))
        await asyncio.gather(*tasks)
    await server.serve_forever()


if args.loop == "uvloop":
    import uvloop

    uvloop.install()
asyncio.run(main())
