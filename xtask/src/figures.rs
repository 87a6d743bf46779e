//! Measured numbers, kept as JSON below the repository's root: commands write them, the README shows them, tests compare
//! the two.

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::repo::Repo;

pub(crate) fn read<T: DeserializeOwned>(repo: &Repo, file: &str) -> anyhow::Result<T> {
    let path = repo.root().join(file);
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
}

pub(crate) fn write<T: Serialize>(repo: &Repo, file: &str, numbers: &T) -> anyhow::Result<()> {
    let path = repo.root().join(file);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let mut text = serde_json::to_string_pretty(numbers).context("write the numbers as JSON")?;
    text.push('\n');
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
