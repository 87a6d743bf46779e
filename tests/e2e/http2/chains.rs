//! Programs of nghttp2, and curl, through nghttpx, which speaks HTTP/2 on both of its sides, to nginx and nghttpd.

use tracer_tests::program::free_port;
use tracer_tests::scale;
use tracer_tests::temp::TempDir;

use super::behind_nginx;
use super::leg::Leg;

const STREAMS: [usize; 3] = [1, 10, 100];

/// Requests of one program, so many at a time.
struct Run {
    name: String,
    count: usize,
}

impl Run {
    /// Half of them go to nginx, half to nghttpd.
    fn paths(&self) -> impl Iterator<Item = String> {
        let name = &self.name;
        (0..self.count).map(move |n| format!("/{}/{name}-{n}", if n % 2 == 0 { "nginx" } else { "files" }))
    }
}

fn status(path: &str) -> i64 {
    if path.ends_with(['5', '6']) { 404 } else { 200 }
}

#[test]
fn nghttp2_and_curl_through_nghttpx() {
    let [front, nginx, files] = [(); 3].map(|()| free_port().expect("a port"));
    let dir = TempDir::new().expect("a folder");
    let servers = format!(
        "server {{ listen 127.0.0.1:{nginx} http2; http2_max_concurrent_streams 200; \
         location ~ 6$ {{ return 404; }} location / {{ return 200 'hello'; }} }}"
    );
    std::fs::create_dir(dir.join("files")).expect("a folder");
    let mut script = format!(
        "nghttpd --no-tls -a 127.0.0.1 -d . {files} >nghttpd.log 2>&1 & D=$!; \
         nghttpx --conf=/dev/null -f127.0.0.1,{front}\\;no-tls -b127.0.0.1,{nginx}\\;/nginx/\\;proto=h2 \
           -b127.0.0.1,{files}\\;\\;proto=h2 --workers=1 --single-process >nghttpx.log 2>&1 & X=$!; sleep 1; "
    );
    let mut runs = Vec::new();
    for streams in STREAMS {
        // What nghttp is given it asks for at once. So does curl when it is told to, but Debian's 7.88 with prior knowledge
        // fails before it has sent a second request: there is one curl for each.
        let counts = [("h2load", scale::count(200).max(100)), ("nghttp", streams), ("curl", streams)];
        let [h2load, nghttp, curl] =
            counts.map(|(who, count)| Run { name: format!("{who}-{streams}"), count });
        for run in [&h2load, &nghttp, &curl] {
            for path in run.paths().filter(|path| path.starts_with("/files/") && status(path) == 200) {
                dir.write(&path[1..], "hello").expect("a file");
            }
        }
        let urls = |run: &Run| -> Vec<String> {
            run.paths().map(|path| format!("http://127.0.0.1:{front}{path}")).collect()
        };
        dir.write(&h2load.name, &urls(&h2load).join("\n")).expect("a file");
        let curls: String = urls(&curl)
            .iter()
            .map(|url| format!("curl -s --http2-prior-knowledge -o /dev/null {url} & C=\"$C $!\"; "))
            .collect();
        script += &format!(
            "h2load -n {} -c 1 -m {streams} -i {} >h2load.log 2>&1; nghttp -n {}; C=; {curls} wait $C; ",
            h2load.count,
            h2load.name,
            urls(&nghttp).join(" "),
        );
        runs.extend([h2load, nghttp, curl]);
    }
    script += "sleep 0.3; kill $X $D; wait $X $D";
    let report = behind_nginx(&dir, &servers, &script);
    let [asked, nginx, files] = [front, nginx, files].map(|port| Leg::of(&report, port));
    let mut spans = 0;
    for run in &runs {
        for path in run.paths() {
            let behind = if path.starts_with("/nginx/") { &nginx } else { &files };
            for span in [asked.joined(&path), behind.joined(&path)].concat() {
                assert_eq!(span.int("http.response.status_code"), Some(status(&path)), "{span:#?}");
                assert_eq!(span.str("network.protocol.version"), Some("2"), "{span:#?}");
                assert_eq!(span.str("tracer.incomplete"), None, "{span:#?}");
                if status(&path) == 200 {
                    assert_eq!(span.int("http.response.body.size"), Some(5), "{span:#?}");
                }
                spans += 1;
            }
        }
        let at_a_time = asked.at_a_time(&format!("/{}-", run.name));
        eprintln!("{}: {} requests, {at_a_time} at a time", run.name, run.count);
    }
    // Nothing is told twice, and what a proxy does inside is right or not known.
    assert_eq!(report.spans.len(), spans, "{}", report.log);
    for behind in [nginx, files] {
        behind.check_causes(&asked);
    }
    assert!(!report.log.contains("lost:"), "{}", report.log);
}
