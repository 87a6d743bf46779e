"""Who makes the calls of a request: the ways of programs with threads, the honest ones and those that deceive.

Each model is a function of a request's id and the number of its calls; it returns when the request may be answered.
"""

import collections
import concurrent.futures
import os
import queue
import random
import threading

from calls import pause

# Smaller than most loads, so that work queues.
WORKERS = 12


class Models:
    def __init__(self, downstream):
        self.call = downstream.call
        self.pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
        self.inner = concurrent.futures.ThreadPoolExecutor(WORKERS)
        self.few_threads = concurrent.futures.ThreadPoolExecutor(2)
        self.few = threading.Semaphore(4)
        self.jobs = queue.Queue(2)
        self.jobs_workers = []
        self.latch = threading.Condition()
        self.turn = 0
        self.refresh = threading.Condition()
        self.generation = 0
        self.shared = {}
        self.lock = threading.Lock()
        self.submitted = collections.deque()
        self.waiting = collections.deque()

    def start(self, model):
        """The threads that a model keeps."""
        if model == "queue":
            for _ in range(4):
                threading.Thread(target=self.work_off, daemon=True).start()
        if model == "refresh":
            threading.Thread(target=self.refresh_for_ever, daemon=True).start()

    # The thread that serves calls.
    def inline(self, cause, count):
        for number in range(count):
            pause()
            self.call(cause, number)

    # Each call is a task of a shared pool, and its thread waits for the result.
    def pool_wait(self, cause, count):
        for number in range(count):
            pause()
            self.pool.submit(self.call, cause, number).result()

    # A task of one pool waits for a task of another.
    def nested(self, cause, count):
        def outer(number):
            self.inner.submit(self.call, cause, number).result()

        for number in range(count):
            pause()
            self.pool.submit(outer, number).result()

    # All calls at once; the thread waits for all.
    def fan_out(self, cause, count):
        concurrent.futures.wait([self.pool.submit(self.call, cause, number) for number in range(count)])

    # Nobody waits for the calls.
    def forget(self, cause, count):
        for number in range(count):
            self.pool.submit(self.call, cause, number)
        pause()

    # Calls that nobody waits for, between other work of the same pool that is waited for.
    def mixed(self, cause, count):
        for number in range(count):
            pause()
            self.pool.submit(self.call, cause, number)
            self.pool.submit(pause).result()

    # The same, where what is waited for is over at once, and its memory used again.
    def reuse(self, cause, count):
        for number in range(count):
            pause()
            self.pool.submit(self.call, cause, number)
            for _ in range(20):
                self.pool.submit(random.randrange, 9).result()

    # Who submits a call waits for the result of the one that was submitted longest ago, for whomever.
    def handed(self, cause, count):
        for number in range(count):
            self.submitted.append(self.pool.submit(self.call, cause, number))
            pause()
            self.submitted.popleft().result()

    # Who waits through one pool waits for a call that another task of that pool has left there, for whomever.
    def left(self, cause, count):
        def leave(number):
            self.submitted.append(self.inner.submit(self.call, cause, number))

        def wait_for_left():
            try:
                self.submitted.popleft().result()
            except IndexError:
                pass

        for number in range(count):
            self.few_threads.submit(leave, number)
            pause()
            self.few_threads.submit(wait_for_left).result()

    # A task, once its call is done, gives a result to whichever request waits longest, and is waited for by none.
    def relay(self, cause, count):
        def task(number):
            self.call(cause, number)
            self.waiting.popleft().set_result(None)

        for number in range(count):
            future = concurrent.futures.Future()
            self.waiting.append(future)
            self.pool.submit(task, number)
            future.result()

    # Before it is done, a call that nobody waits for is followed up by another one.
    def follow_up(self, cause, count):
        own = threading.get_ident()

        def again(_):
            # It may be done before it is told of this, and then the thread that serves would call.
            if threading.get_ident() != own:
                self.call(None, f"after-{os.urandom(4).hex()}")

        for number in range(count):
            future = self.pool.submit(self.call, cause, number)
            future.add_done_callback(again)
            future.result()

    # A bounded queue: a thread that puts a job in waits until another request's job is done.
    def queue(self, cause, count):
        for number in range(count):
            self.jobs.put((cause, number))
        pause()

    def work_off(self):
        while True:
            self.call(*self.jobs.get())

    # A task gives back what another request waits for.
    def semaphore(self, cause, count):
        def task(number):
            try:
                self.call(cause, number)
            finally:
                self.few.release()

        for number in range(count):
            self.few.acquire()
            self.pool.submit(task, number)
        pause()

    # The end of any call lets all requests that wait go on, whether it was theirs or not.
    def latch_wait(self, cause, count):
        def task(number):
            self.call(cause, number)
            with self.latch:
                self.turn += 1
                self.latch.notify_all()

        for number in range(count):
            with self.latch:
                seen = self.turn
                self.pool.submit(task, number)
                self.latch.wait_for(lambda: self.turn > seen, timeout=1)

    # Requests wait for a refresh that nobody's request causes.
    def refresh_wait(self, cause, count):
        for number in range(min(count, 1)):
            with self.refresh:
                seen = self.generation
                self.refresh.wait_for(lambda: self.generation > seen, timeout=1)
            self.call(cause, number)

    def refresh_for_ever(self):
        number = 0
        while True:
            pause()
            self.call(None, f"refresh{number}")
            number += 1
            with self.refresh:
                self.generation += 1
                self.refresh.notify_all()

    # Requests that come while a call is on its way share its result.
    def coalesce(self, cause, count):
        if count == 0:
            return
        with self.lock:
            future = self.shared.get("key")
            if future is None or future.done():
                future = self.shared["key"] = self.pool.submit(self.call, cause, 0)
        future.result()

    MODELS = {
        "thread": inline,
        "pool": pool_wait,
        "nested": nested,
        "fan-out": fan_out,
        "forget": forget,
        "mixed": mixed,
        "reuse": reuse,
        "handed": handed,
        "left": left,
        "relay": relay,
        "follow-up": follow_up,
        "queue": queue,
        "semaphore": semaphore,
        "latch": latch_wait,
        "refresh": refresh_wait,
        "coalesce": coalesce,
    }

    def run(self, model, cause, count):
        self.MODELS[model](self, cause, count)
