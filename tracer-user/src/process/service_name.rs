//! What a person would call a program, from how it was started. Pure: it reads nothing.
//!
//! An interpreter is not a name, its script is; a server that loads an application is called after the application. In
//! doubt the answer is the executable's name. The process's own `OTEL_SERVICE_NAME` comes before all this and is not
//! looked at here.

mod runtime;

use std::path::{Component, Path};

use runtime::Runtime;

/// How a program was started, as far as known. Bytes are as the kernel gives them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Program<'a> {
    /// Whole arguments only: one that was cut is left out.
    pub(crate) argv: &'a [Vec<u8>],
    pub(crate) exe: Option<&'a Path>,
    pub(crate) cwd: Option<&'a Path>,
    pub(crate) comm: &'a [u8],
}

/// A name longer than this is no name.
const MAX_NAME_BYTES: usize = 128;

/// Never empty.
pub(crate) fn service_name(program: Program<'_>) -> String {
    let name = title(program).or_else(|| by_runtime(program)).unwrap_or_else(|| executable_name(program));
    let mut name = name.trim().to_owned();
    if name.len() > MAX_NAME_BYTES {
        name.truncate(name.floor_char_boundary(MAX_NAME_BYTES));
    }
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Bytes of a path or argument as text; what is not UTF-8 becomes `\xNN`.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    text
}

/// File name of the executable, without the kernel's mark that it was deleted meanwhile.
pub(crate) fn executable_name(program: Program<'_>) -> String {
    let exe = program.exe.and_then(Path::file_name).map(|name| text(name.as_encoded_bytes()));
    let exe = exe.map(|name| name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned());
    let argv0 = program.argv.first().map(|arg| base_name(&text(arg)).to_owned());
    // One executable of many commands is called by the command.
    if let Some("busybox" | "toybox" | "coreutils") = exe.as_deref().or(argv0.as_deref()) {
        let own = |name: &String| !matches!(name.as_str(), "busybox" | "toybox" | "coreutils" | "");
        if let Some(applet) = argv0.clone().filter(own) {
            return applet;
        }
        if let Some(applet) = program.argv.get(1).map(|arg| text(arg)).filter(|arg| !arg.starts_with('-')) {
            return applet;
        }
    }
    exe.or(argv0).filter(|name| !name.is_empty()).unwrap_or_else(|| text(program.comm))
}

/// Servers overwrite their arguments with a title for `ps`: `NAME: what it does`, or `NAME … [application]`.
fn title(program: Program<'_>) -> Option<String> {
    let [first, rest @ ..] = program.argv else { return None };
    // The title takes the place of all arguments; what is left behind it is empty.
    if rest.iter().any(|arg| !arg.is_empty()) {
        return None;
    }
    let title = text(first);
    let (name, role) = title.split_once(' ')?;
    if name.contains('/') {
        return None;
    }
    let bracket = || {
        let inner = title.rsplit_once('[')?.1.split_once(']')?.0;
        Some(inner.to_owned()).filter(|inner| !inner.is_empty())
    };
    match name.strip_suffix(':') {
        Some("gunicorn") => {
            bracket().map(|app| runtime::python_application(&app)).or(Some("gunicorn".to_owned()))
        }
        Some("php-fpm") => match role.strip_prefix("pool ") {
            // The pool that every package sets up.
            Some("www") | None => Some("php-fpm".to_owned()),
            Some(pool) => Some(pool.to_owned()),
        },
        Some("puma") => bracket().or(Some("puma".to_owned())),
        Some(name) if !name.is_empty() => Some(name.to_owned()),
        _ if name == "puma" => bracket().or(Some("puma".to_owned())),
        _ if name == "sidekiq" => role.split(' ').nth(1).map(str::to_owned),
        _ => Runtime::of(program).is_some().then(|| name.to_owned()),
    }
}

fn by_runtime(program: Program<'_>) -> Option<String> {
    let runtime = Runtime::of(program)?;
    let args: Vec<String> = program.argv.iter().skip(1).map(|arg| text(arg)).collect();
    runtime.application(&args, program.cwd)
}

fn base_name(path: &str) -> &str {
    // A login shell's first argument starts with a dash.
    path.rsplit('/').next().unwrap_or(path).trim_start_matches('-')
}

/// What a script is called: its name without extension, or that of the folder where its own name says nothing.
fn script_name(script: &str, cwd: Option<&Path>) -> String {
    let file = base_name(script);
    let stem = match file.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && is_code(extension) => stem,
        _ => file,
    };
    let path = Path::new(script);
    let built = path.parent().and_then(Path::file_name).is_some_and(|dir| {
        dir.to_str().is_some_and(|dir| matches!(dir, "dist" | "build" | "out" | "lib" | ".output"))
    });
    let says_nothing =
        matches!(stem, "index" | "__main__" | "__init__" | "manage" | "artisan" | "app.config")
            || (built && matches!(stem, "main" | "app"));
    if says_nothing {
        let path = cwd.map_or_else(|| path.to_owned(), |cwd| cwd.join(path));
        if let Some(folder) = path.parent().and_then(folder_name) {
            return folder;
        }
    }
    stem.to_owned()
}

/// The innermost folder whose name is somebody's choice.
fn folder_name(path: &Path) -> Option<String> {
    let chosen = path.components().rev().find_map(|component| match component {
        Component::Normal(name) => {
            let name = text(name.as_encoded_bytes());
            let usual = matches!(
                name.as_str(),
                "dist" | "build" | "out" | "src" | "lib" | "bin" | "public" | "app" | "web" | "www" | "html"
            ) || matches!(name.as_str(), "server" | "current" | "." | "..");
            (!usual && !name.starts_with('.')).then_some(name)
        }
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
    })?;
    let of_the_system = matches!(
        chosen.as_str(),
        "usr" | "opt" | "srv" | "home" | "root" | "var" | "tmp" | "mnt" | "code" | "workspace" | "local"
    );
    (!of_the_system).then_some(chosen)
}

fn is_code(extension: &str) -> bool {
    matches!(
        extension,
        "py" | "pyc"
            | "pyz"
            | "js"
            | "mjs"
            | "cjs"
            | "jsx"
            | "ts"
            | "mts"
            | "cts"
            | "tsx"
            | "rb"
            | "ru"
            | "php"
    ) || matches!(
        extension,
        "pl" | "psgi" | "sh" | "bash" | "lua" | "jar" | "war" | "java" | "dll" | "exe" | "R"
    )
}

#[cfg(test)]
mod tests;
