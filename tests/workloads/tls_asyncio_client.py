"""As tls_client.py, on one thread with asyncio."""

import asyncio
import ssl
import sys


async def ask(port, prefix, task, count, mode, context, lines):
    reader = writer = None
    for number in range(count):
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        path = f"/work/{prefix}.{task}.{number}"
        close = "Connection: close\r\n" if mode == "new" else ""
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{close}\r\n".encode())
        await writer.drain()
        local = writer.get_extra_info("sockname")[1]
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        lines.append(f"{path} {local}")
        if mode == "new":
            writer.close()
            await writer.wait_closed()
            writer = None
    if writer:
        writer.close()


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        port, prefix, concurrency, count, mode, version = line.split()
        context = ssl.create_default_context(cafile=sys.argv[1])
        context.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        lines = []
        each = int(count) // int(concurrency)
        tasks = [ask(int(port), prefix, n, each, mode, context, lines) for n in range(int(concurrency))]
        await asyncio.gather(*tasks)
        print("\n".join(lines))
        print("done", prefix, flush=True)


asyncio.run(main())
