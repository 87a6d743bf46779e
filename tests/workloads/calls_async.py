"""What the workloads with an event loop of Python's share. Those without one must not load it: the tracer looks for that."""

import asyncio
import random


async def background(options, call):
    """Calls for nobody now and then, for ever: `call(None, number)`."""
    number = 0
    while True:
        await asyncio.sleep(random.random() * 2 * options.background_ms / 1000)
        await call(None, number)
        number += 1
