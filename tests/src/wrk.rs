//! Runs wrk, a closed-loop load generator, and reads its report.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

/// One run's result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub requests: u64,
    /// Seconds it took, as wrk measured them.
    pub seconds: f64,
    pub requests_per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    /// Answers other than 2xx and 3xx, and socket errors.
    pub failed: u64,
}

/// One thread of load for `seconds` on kept-alive connections.
pub fn measure(addr: SocketAddr, connections: u32, seconds: u32) -> anyhow::Result<Measured> {
    measure_url(&format!("http://{addr}/"), connections, seconds)
}

/// The same of any URL. Who speaks TLS is believed to be who it says.
pub fn measure_url(url: &str, connections: u32, seconds: u32) -> anyhow::Result<Measured> {
    let output = Command::new("wrk")
        .args(["--threads", "1", "--connections", &connections.to_string(), "--latency"])
        .args(["--duration", &format!("{seconds}s"), url])
        .output()
        .context("run wrk")?;
    if !output.status.success() {
        bail!("wrk: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let report = String::from_utf8_lossy(&output.stdout);
    parse(&report).with_context(|| format!("report of wrk: {report}"))
}

fn parse(report: &str) -> anyhow::Result<Measured> {
    let field = |label: &str| report.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    let totals = report.lines().find(|line| line.contains(" requests in ")).context("no totals")?;
    let (requests, rest) = totals.trim().split_once(" requests in ").context("totals")?;
    let seconds = rest.split(',').next().context("seconds")?;
    let non_ok = field("Non-2xx or 3xx responses:").map_or(Ok(0), str::parse)?;
    let socket_errors: u64 = field("Socket errors:")
        .unwrap_or("")
        .split([' ', ','])
        .filter_map(|word| word.parse::<u64>().ok())
        .sum();
    Ok(Measured {
        requests: requests.parse()?,
        seconds: duration(seconds)?.as_secs_f64(),
        requests_per_second: field("Requests/sec:").context("no rate")?.parse()?,
        p50: duration(field("50%").context("no 50%")?)?,
        p99: duration(field("99%").context("no 99%")?)?,
        failed: non_ok + socket_errors,
    })
}

/// "312.00us", "1.20ms", "10.01s", "1.50m".
fn duration(text: &str) -> anyhow::Result<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text[..text.len() - unit.len()].parse().with_context(|| format!("time {text:?}"))?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        other => bail!("time unit {other:?}"),
    };
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 1s test @ http://127.0.0.1:1/
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.34ms    2.10ms   9.02ms   85.35%
    Req/Sec     0.97k   458.97     1.83k    70.00%
  Latency Distribution
     50%  312.00us
     75%    3.84ms
     90%    5.61ms
     99%    8.02ms
  973 requests in 1.00s, 542.56KB read
  Socket errors: connect 0, read 3, write 0, timeout 1
  Non-2xx or 3xx responses: 5
Requests/sec:    971.76
Transfer/sec:    541.87KB
";

    #[test]
    fn a_report_is_read() {
        let measured = parse(REPORT).unwrap();
        assert_eq!((measured.requests, measured.failed), (973, 9));
        assert_eq!((measured.p50, measured.p99), (Duration::from_micros(312), Duration::from_micros(8020)));
        assert!(
            (measured.requests_per_second - 971.76).abs() < 1e-9 && (measured.seconds - 1.0).abs() < 1e-9
        );
        assert!(parse("").is_err());
    }
}
