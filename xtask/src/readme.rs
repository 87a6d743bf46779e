//! Tables of the README that commands write and tests compare: each between two marks of its own.

use anyhow::{Context as _, bail};

use crate::repo::Repo;

/// Puts `table` between the marks of `name`.
pub(crate) fn write(repo: &Repo, name: &str, table: &str) -> anyhow::Result<()> {
    let path = repo.root().join("README.md");
    let text = std::fs::read_to_string(&path).context("read the README")?;
    let (before, _, after) = split(&text, name)?;
    std::fs::write(&path, format!("{before}{table}{after}")).context("write the README")
}

/// Fails if what is between the marks of `name` is not `table`. `command` writes it.
pub(crate) fn check(repo: &Repo, name: &str, table: &str, command: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(repo.root().join("README.md")).context("read the README")?;
    let (_, shown, _) = split(&text, name)?;
    if shown != table {
        bail!("the README's {name} table differs from its file: `{command}` writes both");
    }
    Ok(())
}

/// The README before, in and after the table.
fn split<'a>(readme: &'a str, name: &str) -> anyhow::Result<(&'a str, &'a str, &'a str)> {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let start = readme.find(&begin).with_context(|| format!("the README has no line {begin}"))? + begin.len();
    let rest = readme.get(start..).unwrap_or_default();
    let length = rest.find(&end).with_context(|| format!("the README has no line {end}"))?;
    Ok((&readme[..start], &rest[..length], &rest[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_found_between_its_marks() {
        let readme = "# x\n<!-- cost: begin -->\nold\n<!-- cost: end -->\nrest";
        let (before, shown, after) = split(readme, "cost").unwrap();
        assert_eq!(
            (before, shown, after),
            ("# x\n<!-- cost: begin -->\n", "old\n", "<!-- cost: end -->\nrest")
        );
        assert!(split("# x", "cost").is_err());
        assert!(split(readme, "gain").is_err());
    }
}
