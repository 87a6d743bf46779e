//! Recordings of real programs replay to the very spans that were looked at when they were committed.
//!
//! `BLESS=1` writes what comes out now; the difference is then read and committed, or is a bug.

use std::path::{Path, PathBuf};

use super::{of, tracer};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/replay")
}

#[test]
fn golden_replays() {
    let mut recordings: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rec"))
        .collect();
    recordings.sort();
    assert!(recordings.len() >= 5, "{recordings:?}");
    for recording in recordings {
        // The tree is for the reader of a difference, the other one tells everything.
        for (format, extension) in [("tree", "txt"), ("otlp-json", "jsonl")] {
            let arguments = ["replay", recording.to_str().unwrap(), "--format", format, "-o", "/dev/stdout"];
            let (code, spans, summary) = of(tracer(&arguments).output().unwrap());
            assert_eq!(code, 0, "{summary}");
            same(&recording.with_extension(extension), &spans);
            if format == "tree" {
                same(&recording.with_extension("summary"), &summary);
            }
        }
    }
}

/// `text` is what the file holds; with `BLESS`, it is from now on.
fn same(file: &Path, text: &str) {
    if std::env::var_os("BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(file, text).unwrap();
    }
    let want = std::fs::read_to_string(file).unwrap_or_default();
    let first = want.lines().zip(text.lines()).position(|(want, text)| want != text);
    assert!(
        want == text,
        "{} differs from what was blessed, from line {} on; now:\n{text}",
        file.display(),
        first.unwrap_or_else(|| want.lines().count().min(text.lines().count())) + 1,
    );
}
