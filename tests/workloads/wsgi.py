"""The same service as service.py as a WSGI application, for gunicorn. Its options come in WSGI_OPTIONS, its model in
WSGI_MODEL."""

import argparse
import os
import random
import shlex
import threading

from calls import SIZES, Downstream, add_options
from models import Models

parser = argparse.ArgumentParser()
add_options(parser)
options = parser.parse_args(shlex.split(os.environ["WSGI_OPTIONS"]))
model = os.environ.get("WSGI_MODEL", "thread")
started = threading.Lock()
state = {}


def service():
    """What each worker process has of its own, made when it serves first."""
    with started:
        if state.get("pid") != os.getpid():
            downstream = Downstream(options)
            state.update(pid=os.getpid(), downstream=downstream, models=Models(downstream))
            state["models"].start(model)
            if options.background_ms:
                threading.Thread(target=downstream.background, daemon=True).start()
    return state["downstream"], state["models"]


def app(environ, start_response):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    request_id = environ["PATH_INFO"].removeprefix("/work/")
    downstream, models = service()
    calls = downstream.count()
    models.run(model, request_id, calls)
    body = f"calls={calls}\n".encode() + b"x" * random.choice(SIZES)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
