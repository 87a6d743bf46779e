"""An HTTPS server on asyncio, whose TLS goes through memory. Arguments: certificate, key. Prints its port."""

import asyncio
import ssl
import sys


async def serve(reader, writer):
    try:
        while line := await reader.readline():
            path = line.split()[1]
            keep = True
            while (header := await reader.readline()) not in (b"\r\n", b""):
                keep = keep and header.lower() != b"connection: close\r\n"
            # Now and then more than a TLS record holds.
            body = b"x" * (40000 if hash(path) % 20 == 0 else len(path) * 37 % 3000)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            if not keep:
                break
    except (ConnectionError, ssl.SSLError):
        pass
    writer.close()


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, backlog=256)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
