"""gRPC on its C core, without generated code: the same methods, calls and ledger as the Go program in grpc/main.go.

It serves, or calls where a target is named. Calls are of one kind, and the number decides how each ends.
"""

import argparse
import concurrent.futures
import sys
import threading
import time

import grpc

MESSAGES = 5


def outcome(number):
    return {3: "refused", 13: "refused", 7: "unavailable", 9: "cancelled", 19: "late"}.get(number % 20, "answered")


def parse(method):
    kind, _, number = method.rsplit("/", 1)[1].partition("-")
    return kind, int(number or 0)


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        kind, number = parse(details.method)

        def serve(requests, context):
            ends = outcome(number)
            if ends in ("cancelled", "late"):
                gone = threading.Event()
                if context.add_callback(gone.set):
                    gone.wait(10)
                return
            if ends == "refused":
                context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
            if ends == "unavailable":
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            last = b""
            for last in requests:
                if kind == "Both":
                    yield last
            for _ in range({"Unary": 1, "Client": 1, "Server": MESSAGES}.get(kind, 0)):
                yield last

        return grpc.stream_stream_rpc_method_handler(serve)


def call(channel, method):
    kind, number = parse(method)
    sends = {"Unary": 1, "Server": 1}.get(kind, MESSAGES)
    timeout = 0.05 if outcome(number) == "late" else None
    began = time.monotonic_ns()
    stream = channel.stream_stream(method)(iter([b"x" * 20] * sends), timeout=timeout)
    if outcome(number) == "cancelled":
        threading.Timer(0.03, stream.cancel).start()
    received, code = 0, 0
    try:
        for _ in stream:
            received += 1
    except grpc.RpcError as error:
        code = error.code().value[0]
    # In one piece: threads write at the same time.
    sys.stdout.write(f"{method[1:]} {code} {sends} {received} {time.monotonic_ns() - began}\n")
    sys.stdout.flush()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--target")
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--concurrency", type=int, default=10)
    options.add_argument("--kinds", default="Unary,Client,Server,Both")
    options.add_argument("--fixed", action="store_true")
    options.add_argument("--per-second", type=int, default=0)
    options.add_argument("--on-line", action="store_true")
    options = options.parse_args()
    workers = concurrent.futures.ThreadPoolExecutor(max(options.concurrency, 32))
    if options.target is None:
        server = grpc.server(workers, handlers=[Handler()])
        print("PORT", server.add_insecure_port("127.0.0.1:0"), flush=True)
        server.start()
        server.wait_for_termination()
    kinds = options.kinds.split(",")
    channel = grpc.insecure_channel(options.target)
    if options.on_line:
        grpc.channel_ready_future(channel).result()
        print("READY", flush=True)
        sys.stdin.readline()
    limit = threading.Semaphore(options.concurrency)
    began = time.monotonic()

    def one(method):
        with limit:
            call(channel, method)

    for number in range(options.count):
        kind = kinds[number % len(kinds)]
        if options.per_second:
            time.sleep(max(0, began + number / options.per_second - time.monotonic()))
        workers.submit(one, f"/test.Echo/{kind}" if options.fixed else f"/test.Echo/{kind}-{number}")
    workers.shutdown()
    channel.close()


main()
