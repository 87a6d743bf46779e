"""Calls GnuTLS in ways that libraries on top of it do not. Arguments: a port of 127.0.0.1.

A line of standard input is a path to ask for, and how; then it prints `PATH LOCAL-PORT`.
"""

import ctypes
import socket
import sys

tls = ctypes.CDLL("libgnutls.so.30")
pointer = ctypes.c_void_p
for name in ("send", "recv"):
    function = getattr(tls, f"gnutls_record_{name}")
    function.argtypes = [pointer, ctypes.c_char_p, ctypes.c_size_t]
    function.restype = ctypes.c_ssize_t
tls.gnutls_record_send2.argtypes = [pointer, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint]
tls.gnutls_record_send2.restype = ctypes.c_ssize_t
tls.gnutls_record_recv_packet.restype = ctypes.c_ssize_t
tls.gnutls_transport_set_int2.argtypes = [pointer, ctypes.c_int, ctypes.c_int]
for name in ("cork", "check_corked", "check_pending"):
    getattr(tls, f"gnutls_record_{name}").argtypes = [pointer]
CLIENT, CERTIFICATE, AGAIN = 2, 1, -28


def checked(result):
    assert result >= 0, result
    return result


class Datum(ctypes.Structure):
    _fields_ = [("data", pointer), ("size", ctypes.c_uint)]


def connect(port):
    session, credentials = pointer(), pointer()
    checked(tls.gnutls_init(ctypes.byref(session), CLIENT))
    checked(tls.gnutls_certificate_allocate_credentials(ctypes.byref(credentials)))
    checked(tls.gnutls_set_default_priority(session))
    checked(tls.gnutls_credentials_set(session, CERTIFICATE, credentials))
    connection = socket.create_connection(("127.0.0.1", port))
    tls.gnutls_transport_set_int2(session, connection.fileno(), connection.fileno())
    checked(tls.gnutls_handshake(session))
    return connection, session


def send(session, request, how):
    if how == "cork":
        tls.gnutls_record_cork(session)
        for at in range(0, len(request), 7):
            checked(tls.gnutls_record_send(session, request[at : at + 7], len(request[at : at + 7])))
        assert checked(tls.gnutls_record_uncork(session, 1)) == len(request)
    elif how == "pad":
        assert tls.gnutls_record_send2(session, request, len(request), 100, 0) == len(request)
    else:
        for at in range(0, len(request), 100):
            checked(tls.gnutls_record_send(session, request[at : at + 100], len(request[at : at + 100])))


def until_it_comes(receive, session, *arguments):
    # Tickets are read, and nothing comes of them.
    result = AGAIN
    while result == AGAIN:
        result = receive(session, *arguments)
    return checked(result)


def receive(session, how):
    if how == "packets":
        packet, datum = pointer(), Datum()
        length = until_it_comes(tls.gnutls_record_recv_packet, session, ctypes.byref(packet))
        tls.gnutls_packet_get(packet, ctypes.byref(datum), None)
        text = ctypes.string_at(datum.data, datum.size)
        tls.gnutls_packet_deinit(packet)
        assert len(text) == length
        return text
    room = ctypes.create_string_buffer(30)
    length = until_it_comes(tls.gnutls_record_recv, session, room, len(room))
    return room.raw[:length]


connection, session = connect(int(sys.argv[1]))
for line in sys.stdin:
    path, how = line.split()
    send(session, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Long: {'x' * 300}\r\n\r\n".encode(), how)
    answer = b""
    while not answer.endswith(b"\r\n\r\nhello\n"):
        answer += receive(session, how)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    print(path, connection.getsockname()[1])
    print("done", path, flush=True)
