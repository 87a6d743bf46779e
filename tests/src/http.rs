//! The load driver: a plain HTTP/1.1 client that is never traced itself.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// One connection, kept alive as long as the server allows.
#[derive(Debug)]
pub struct Client {
    addr: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

/// A server under test that says nothing for this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

impl Client {
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, connection: None }
    }

    pub fn get(&mut self, path: &str) -> anyhow::Result<Response> {
        self.request("GET", path, None)
    }

    pub fn request(&mut self, method: &str, path: &str, body: Option<&[u8]>) -> anyhow::Result<Response> {
        let reused = self.connection.is_some();
        match self.try_request(method, path, body) {
            // A server may close an idle connection just as we use it: only then, and only before any answer.
            Err(error) if reused && error.is::<Stale>() => self.try_request(method, path, body),
            result => result,
        }
        .with_context(|| format!("{method} http://{}{path}", self.addr))
    }

    /// Sends a request on a connection of its own and goes away after `wait`, whatever has come by then.
    pub fn abandon(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        wait: Duration,
    ) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.addr).context("connect")?;
        stream.set_nodelay(true)?;
        // The server may have given up by now, which is as good.
        let _ = stream.write_all(&self.message(method, path, body));
        std::thread::sleep(wait);
        Ok(())
    }

    /// Closes the connection; the next request opens another.
    pub fn close(&mut self) {
        self.connection = None;
    }

    fn try_request(&mut self, method: &str, path: &str, body: Option<&[u8]>) -> anyhow::Result<Response> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.addr).context("connect")?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        let message = self.message(method, path, body);
        connection.get_mut().write_all(&message).map_err(|_| anyhow!(Stale))?;
        let (response, keep) = read_response(&mut connection, method == "HEAD")?;
        self.connection = keep.then_some(connection);
        Ok(response)
    }

    fn message(&self, method: &str, path: &str, body: Option<&[u8]>) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.addr);
        if let Some(body) = body {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut message = head.into_bytes();
        message.extend_from_slice(body.unwrap_or_default());
        message
    }
}

/// The connection ended before an answer began.
#[derive(Debug)]
struct Stale;

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection ended before the response")
    }
}

impl std::error::Error for Stale {}

/// Reads one final response; says whether the connection can be used again.
fn read_response(stream: &mut impl BufRead, to_head: bool) -> anyhow::Result<(Response, bool)> {
    let mut line = String::new();
    if stream.read_line(&mut line).map_err(|_| anyhow!(Stale))? == 0 {
        return Err(anyhow!(Stale));
    }
    let status: u16 =
        line.split(' ').nth(1).and_then(|code| code.trim().parse().ok()).context("status line")?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            bail!("the response ends in its head");
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').context("header line")?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    let mut keep = response.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"));
    if to_head || status == 204 || status == 304 {
        return Ok((response, keep));
    }
    if response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        response.body = read_chunks(stream)?;
    } else if let Some(len) = response.header("content-length") {
        let mut body = vec![0; len.parse().context("content-length")?];
        stream.read_exact(&mut body).context("body")?;
        response.body = body;
    } else {
        stream.read_to_end(&mut response.body).context("body until close")?;
        keep = false;
    }
    Ok((response, keep))
}

fn read_chunks(stream: &mut impl BufRead) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).with_context(|| format!("chunk size {line:?}"))?;
        let at = body.len();
        body.resize(at + size, 0);
        stream.read_exact(&mut body[at..])?;
        let mut end = String::new();
        stream.read_line(&mut end)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// Calls `each` with a client of its own per worker and the numbers `0..count`, `concurrency` at a time.
pub fn drive(
    addr: SocketAddr,
    concurrency: usize,
    count: usize,
    each: impl Fn(&mut Client, usize) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..concurrency)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    let mut client = Client::new(addr);
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return Ok(());
                        }
                        each(&mut client, number)?;
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a driver thread panicked"))?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_framed() {
        for (bytes, body, keep) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcX", "abc", true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\nX",
                "abc",
                true,
            ),
            ("HTTP/1.0 200 OK\r\n\r\nabc", "abc", false),
            ("HTTP/1.1 204 No\r\nConnection: close\r\n\r\nX", "", false),
        ] {
            let (response, kept) = read_response(&mut bytes.as_bytes(), false).unwrap();
            assert_eq!((String::from_utf8_lossy(&response.body).as_ref(), kept), (body, keep), "{bytes:?}");
        }
        assert!(
            read_response(&mut "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab".as_bytes(), false).is_err()
        );
    }
}
