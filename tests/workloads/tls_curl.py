"""As tls_client.py, through Debian's pycurl: libcurl on GnuTLS, which has libcurl move the records."""

import io
import sys
import threading

import pycurl

VERSIONS = {
    "1.2": pycurl.SSLVERSION_TLSv1_2 | pycurl.SSLVERSION_MAX_TLSv1_2,
    "1.3": pycurl.SSLVERSION_TLSv1_2 | pycurl.SSLVERSION_MAX_TLSv1_3,
}


def ask(port, prefix, thread, count, mode, version, lines):
    curl = pycurl.Curl()
    curl.setopt(pycurl.CAINFO, sys.argv[1])
    curl.setopt(pycurl.SSLVERSION, VERSIONS[version])
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    if mode == "new":
        curl.setopt(pycurl.FORBID_REUSE, 1)
    for number in range(count):
        path = f"/work/{prefix}.{thread}.{number}"
        curl.setopt(pycurl.URL, f"https://127.0.0.1:{port}{path}")
        answer = io.BytesIO()
        curl.setopt(pycurl.WRITEDATA, answer)
        curl.perform()
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        assert status == 200, status
        lines.append(f"{path} {curl.getinfo(pycurl.LOCAL_PORT)}")
    curl.close()


assert "GnuTLS" in pycurl.version, pycurl.version
for line in sys.stdin:
    port, prefix, concurrency, count, mode, version = line.split()
    lines = []
    each = int(count) // int(concurrency)
    threads = [
        threading.Thread(target=ask, args=(port, prefix, n, each, mode, version, lines))
        for n in range(int(concurrency))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n".join(lines))
    print("done", prefix, flush=True)
