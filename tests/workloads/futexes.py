"""Two threads that wait for and wake each other by futex, in ways that are known.

usage: futexes.py FILE

Writes to FILE what was done, one line each: address, thread that woke, thread that was woken, when it went to wait at the
earliest, and when it was woken at the earliest (CLOCK_MONOTONIC, nanoseconds). First a line with the thread that was
created and the one that created it.
"""
import ctypes
import os
import socket
import sys
import threading
import time

FUTEX, PRIVATE = 202, 128
WAIT, WAKE, WAIT_BITSET, WAKE_BITSET = 0, 1, 9, 10
ANY = 0xFFFFFFFF
libc = ctypes.CDLL(None, use_errno=True)


class TimeSpec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanos", ctypes.c_long)]


def futex(word, operation, value, timeout=None, bits=0):
    timeout = ctypes.byref(timeout) if timeout else None
    return libc.syscall(FUTEX, ctypes.byref(word), operation | PRIVATE, value, timeout, None, ctypes.c_uint(bits))


# Something on a socket, at which the tracer sees the process; then time for it to follow.
left, right = socket.socketpair()
left.send(b"GET / HTTP/1.1\r\n\r\n")
right.recv(100)
time.sleep(1.5)

words = [ctypes.c_int(0) for _ in range(3)]
lines = []
tids = {}
waiting = {}


def wait(number, operation, bits=0, timeout=None):
    waiting[number] = time.monotonic_ns()
    futex(words[number % 3], operation, 0, timeout, bits)


def sleeper():
    tids["sleeper"] = threading.get_native_id()
    for number in range(6):
        wait(number, WAIT_BITSET, ANY)
        turns[number].wait()
    # A plain mutex's way to wait, and one that ends by itself: neither is to be reported.
    wait(6, WAIT)
    turns[6].wait()
    wait(7, WAIT, timeout=TimeSpec(0, 50_000_000))
    # It wakes the other one.
    turns[7].wait()
    time.sleep(0.1)
    woken = time.monotonic_ns()
    futex(words[2], WAKE_BITSET, 1, bits=ANY)
    lines.append((words[2], tids["sleeper"], tids["main"], waiting[8], woken))


turns = [threading.Event() for _ in range(8)]
tids["main"] = threading.get_native_id()
thread = threading.Thread(target=sleeper)
thread.start()
for number in range(7):
    while number not in waiting:
        time.sleep(0.01)
    time.sleep(0.1)
    woken = time.monotonic_ns()
    futex(words[number % 3], WAKE, 1)
    if number < 6:
        lines.append((words[number % 3], tids["main"], tids["sleeper"], waiting[number], woken))
    turns[number].set()
while 7 not in waiting:
    time.sleep(0.01)
time.sleep(0.2)
# Nobody waits there.
futex(words[1], WAKE, 1)
turns[7].set()
wait(8, WAIT_BITSET, ANY)
thread.join()
with open(sys.argv[1], "w") as file:
    print(tids["sleeper"], tids["main"], file=file)
    for word, by, to, since, woken in lines:
        print(ctypes.addressof(word), by, to, since, woken, file=file)
left.send(b"GET / HTTP/1.1\r\n\r\n")
os.read(right.fileno(), 100)
