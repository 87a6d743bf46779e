//! Tests that documents and code say the same: run by plain `cargo test`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory as _;

use crate::repo::Repo;

/// A file beyond this is cut.
const MAX_LINES: usize = 800;

fn repo() -> Repo {
    Repo::locate().unwrap()
}

fn read(name: &str) -> String {
    fs::read_to_string(repo().root().join(name)).unwrap()
}

/// Files that belong to the repository: tracked, or new and not ignored. Everything below the root where there is no git.
fn files() -> Vec<PathBuf> {
    let root = repo().root().to_owned();
    let mut git = Command::new("git");
    git.current_dir(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = git.output().unwrap();
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<PathBuf> =
        names.split('\0').filter(|name| !name.is_empty()).map(|name| root.join(name)).collect();
    // Deleted but not yet committed ones are listed too.
    files.into_iter().filter(|file| file.is_file()).collect()
}

/// Text files with their content; corpora and recordings are not text.
fn texts() -> Vec<(String, String)> {
    let root = repo().root().to_owned();
    let text = |file: PathBuf| {
        let name = file.strip_prefix(&root).unwrap().to_str()?.to_owned();
        Some((name, fs::read_to_string(&file).ok()?))
    };
    files().into_iter().filter_map(text).collect()
}

/// What stands between single backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// The part of a document below a heading of the second level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) =
        text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n## ").next().unwrap()
}

/// Does a path of a document exist? `<name>` stands for any one entry.
fn exists(path: &str) -> bool {
    let mut found = vec![repo().root().to_owned()];
    for part in path.trim_end_matches('/').split('/') {
        let next = |folder: PathBuf| match part.split_once('<').zip(part.split_once('>')) {
            None => vec![folder.join(part)],
            Some(((before, _), (_, after))) => entries(&folder, before, after),
        };
        found = found.into_iter().flat_map(next).filter(|path| path.exists()).collect();
    }
    !found.is_empty()
}

fn entries(folder: &Path, before: &str, after: &str) -> Vec<PathBuf> {
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(before) && name.ends_with(after)
    };
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(fits).collect()
}

#[test]
fn the_code_map_names_existing_paths() {
    let text = read("ARCHITECTURE.md");
    let map = section(&text, "Code map");
    let mut count = 0;
    for row in map.lines().filter(|line| line.starts_with("| `")) {
        let path = row.split('`').nth(1).unwrap();
        assert!(exists(path), "ARCHITECTURE.md: {path} does not exist");
        count += 1;
    }
    assert!(count >= 10, "the code map has only {count} rows");
}

#[test]
fn the_places_to_extend_exist() {
    let text = read("CONTRIBUTING.md");
    for heading in ["Add a protocol", "Add a probe"] {
        let places: Vec<&str> = section(&text, heading)
            .lines()
            .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
            .collect();
        assert!((1..=4).contains(&places.len()), "{heading}: {} places", places.len());
        for place in places {
            for path in quoted(place).into_iter().filter(|word| word.contains('/')) {
                assert!(exists(path), "CONTRIBUTING.md: {path} does not exist");
            }
        }
    }
}

#[test]
fn commands_in_documents_exist() {
    let command = crate::Cli::command();
    let known: BTreeSet<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let mut count = 0;
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", ".ci/run"] {
        let text = read(name);
        for (at, found) in text.match_indices("cargo xtask ") {
            let word = text[at + found.len()..].split(|c: char| !c.is_ascii_lowercase()).next().unwrap();
            // `cargo xtask --help`
            assert!(word.is_empty() || known.contains(word), "{name}: cargo xtask {word} is no command");
            count += 1;
        }
    }
    assert!(count >= 5, "only {count} commands were found in the documents");
}

#[test]
fn no_file_is_too_long() {
    for (name, text) in texts().iter().filter(|(name, _)| is_source(name)) {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{name} has {lines} lines; cut it");
    }
}

/// Written by people, as opposed to lock files, corpora and module sums.
fn is_source(name: &str) -> bool {
    [".rs", ".md", ".toml", ".py", ".js", ".go", ".java", ".sh"].iter().any(|suffix| name.ends_with(suffix))
}

#[test]
fn no_local_paths() {
    // Put together here, so that this file does not hold them.
    let forbidden = ["root", "home", "Users"].map(|folder| format!("/{folder}/"));
    for (name, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            let found = forbidden.iter().find(|path| starts_path(line, path));
            assert!(found.is_none(), "{name}:{}: a path of one machine: {line}", number + 1);
        }
    }
}

/// Whether an absolute path begins so in this line: not as a part of a longer path or of a URL.
fn starts_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || "._-~*}>)]".contains(c))
    })
}

#[test]
fn paths_are_told_from_parts_of_paths() {
    let path = "/a/b/";
    for (line, starts) in [
        ("see /a/b/c", true),
        ("\"/a/b/c\"", true),
        ("http://x/a/b/c", false),
        ("target/a/b/c", false),
        ("/a/c", false),
    ] {
        assert_eq!(starts_path(line, path), starts, "{line}");
    }
}
