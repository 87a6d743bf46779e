//! Runtimes that execute somebody's program: which one it is, and where in its arguments that program is named.

use std::path::Path;

use super::{Program, base_name, folder_name, script_name, text};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runtime {
    Python,
    Node,
    /// Deno and Bun: a subcommand may come before the script.
    NodeLike,
    Ruby,
    Java,
    Php,
    Perl,
    Dotnet,
    Shell,
    Beam,
}

impl Runtime {
    /// By the executable's name, else by the name it was called by.
    pub(super) fn of(program: Program<'_>) -> Option<Self> {
        let exe = program.exe.and_then(Path::file_name).map(|name| text(name.as_encoded_bytes()));
        let argv0 = program.argv.first().map(|arg| text(arg));
        exe.as_deref().and_then(Self::named).or_else(|| Self::named(base_name(&argv0?)))
    }

    fn named(name: &str) -> Option<Self> {
        let name = name.strip_suffix(" (deleted)").unwrap_or(name);
        let family = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
        // A free-threaded or debug build: python3.13t, python3.11d.
        let family = match family.strip_suffix(['t', 'd']) {
            Some(shorter) if shorter.starts_with("python") => {
                shorter.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
            }
            _ => family,
        };
        Some(match family {
            "python" | "pypy" => Self::Python,
            "node" | "nodejs" => Self::Node,
            "deno" | "bun" => Self::NodeLike,
            "ruby" | "jruby" | "truffleruby" => Self::Ruby,
            "java" => Self::Java,
            "php" => Self::Php,
            "perl" | "lua" | "luajit" => Self::Perl,
            "dotnet" | "mono" => Self::Dotnet,
            "sh" | "bash" | "dash" | "zsh" | "ash" | "ksh" | "fish" => Self::Shell,
            "beam.smp" | "beam" => Self::Beam,
            _ => return None,
        })
    }

    /// `None` where the arguments name no program: a prompt, or code on the command line.
    pub(super) fn application(self, args: &[String], cwd: Option<&Path>) -> Option<String> {
        match self {
            Self::Python => python(args, cwd),
            Self::Node => node(args, cwd),
            Self::NodeLike => match args {
                [command, rest @ ..] if matches!(command.as_str(), "run" | "serve" | "start") => {
                    node(rest, cwd)
                }
                _ => node(args, cwd),
            },
            Self::Ruby => ruby(args, cwd),
            Self::Java => java(args),
            Self::Php => php(args, cwd),
            Self::Perl => first_script(args, &["-I", "-l"], &["-e", "-E"], cwd),
            Self::Dotnet => match args {
                [command, ..] if command == "run" || command == "watch" => cwd.and_then(folder_name),
                [command, rest @ ..] if command == "exec" => first_script(rest, &[], &[], cwd),
                _ => first_script(args, &[], &[], cwd),
            },
            Self::Shell => {
                first_script(args, &["-o", "+o", "-O", "+O", "--rcfile", "--init-file"], &["-c"], cwd)
            }
            Self::Beam => args
                .windows(2)
                .find(|pair| matches!(pair[0].as_str(), "-sname" | "-name"))
                .map(|pair| pair[1].split('@').next().unwrap_or_default().to_owned()),
        }
    }
}

/// The first argument that is no option, and those behind it. `with_value` take the next argument; after one of
/// `code`, alone or at the end of a cluster such as `-lc`, there is no script.
fn positional<'a>(args: &'a [String], with_value: &[&str], code: &[&str]) -> Option<(&'a str, &'a [String])> {
    let mut rest = args;
    loop {
        let [arg, tail @ ..] = rest else { return None };
        rest = tail;
        if arg == "--" {
            let [script, tail @ ..] = rest else { return None };
            return Some((script, tail));
        }
        if arg == "-" || arg.is_empty() {
            return None;
        }
        if with_value.contains(&arg.as_str()) {
            rest = rest.get(1..)?;
        } else if let Some(option) = arg.strip_prefix('-') {
            let in_cluster = |code: &&str| {
                code.len() == 2
                    && !option.starts_with('-')
                    && option.len() <= 4
                    && option.chars().all(|c| c.is_ascii_alphabetic())
                    && option.ends_with(&code[1..])
            };
            if code.contains(&arg.as_str()) || code.iter().any(in_cluster) {
                return None;
            }
        } else if arg.starts_with('+') {
            // An option of a shell.
        } else {
            return Some((arg, tail));
        }
    }
}

fn first_script(args: &[String], with_value: &[&str], code: &[&str], cwd: Option<&Path>) -> Option<String> {
    positional(args, with_value, code).map(|(script, _)| script_name(script, cwd))
}

fn python(args: &[String], cwd: Option<&Path>) -> Option<String> {
    let mut rest = args;
    while let [arg, tail @ ..] = rest {
        match arg.as_str() {
            "-W" | "-X" | "--check-hash-based-pycs" => rest = tail.get(1..)?,
            "-" | "" => return None,
            "--" => {
                let [script, tail @ ..] = tail else { return None };
                return Some(python_program(&script_name(script, cwd), tail));
            }
            long if long.starts_with("--") => rest = tail,
            short if short.starts_with('-') => {
                // The first of the two letters ends the cluster: what follows it is its value.
                match short.find(['m', 'c']).map(|at| (&short[at..=at], &short[at + 1..])) {
                    Some(("m", "")) => {
                        let [module, tail @ ..] = tail else { return None };
                        return Some(python_module(module, tail));
                    }
                    Some(("m", module)) => return Some(python_module(module, tail)),
                    Some(_) => return None,
                    None => rest = tail,
                }
            }
            script => return Some(python_program(&script_name(script, cwd), tail)),
        }
    }
    None
}

fn python_module(module: &str, args: &[String]) -> String {
    let module = match module.rsplit_once('.') {
        Some((package, "main" | "__main__")) => package,
        _ => module,
    };
    python_program(module, args)
}

/// `name`, or the application when that is a program which serves one.
fn python_program(name: &str, args: &[String]) -> String {
    let value_of = |names: &[&str]| {
        let at = args.iter().position(|arg| names.contains(&arg.as_str()));
        let spaced = at.and_then(|at| args.get(at + 1)).cloned();
        let joined = || {
            args.iter().find_map(|arg| {
                let (option, value) = arg.split_once('=')?;
                names.contains(&option).then(|| value.to_owned())
            })
        };
        spaced.or_else(joined)
    };
    let application = match name {
        "gunicorn" | "uvicorn" | "hypercorn" | "daphne" | "granian" | "waitress-serve" | "waitress" => {
            // An address such as `127.0.0.1:80` or `unix:/run/x` looks alike and is the value of an option.
            let named = args.iter().enumerate().find(|(at, arg)| {
                let after_option = at.checked_sub(1).and_then(|at| args.get(at)).is_some_and(|before| {
                    before.starts_with('-') && !before.contains('=') && before != "--reload"
                });
                !after_option && arg.split_once(':').is_some_and(|(module, object)| is_module(module, object))
            });
            // Without an object, gunicorn takes `application` of the last argument's module.
            let last = || {
                args.last().filter(|arg| {
                    name == "gunicorn" && !arg.ends_with(".py") && is_module(arg, "application")
                })
            };
            named.map(|(_, arg)| arg.clone()).or_else(|| last().cloned())
        }
        "flask" => value_of(&["--app", "-A"]),
        "celery" => value_of(&["--app", "-A"]),
        "uwsgi" => value_of(&["--module", "-w", "--wsgi-file"]),
        _ => None,
    };
    application.map_or_else(|| name.to_owned(), |application| python_application(&application))
}

fn is_module(module: &str, object: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.' || c == '/';
    let starts = |text: &str| text.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '.');
    starts(module) && module.chars().all(word) && starts(object) && !object.starts_with('.')
}

/// `app:api` → `app`; a module that is called after its role only is called after its package.
pub(super) fn python_application(application: &str) -> String {
    let module = application.split(':').next().unwrap_or(application);
    let module = module.strip_suffix(".py").unwrap_or(module);
    let mut parts = module.split(['.', '/']).filter(|part| !part.is_empty());
    let role = |part: &&str| {
        !matches!(
            *part,
            "wsgi" | "asgi" | "main" | "app" | "application" | "server" | "api" | "src" | "__main__"
        )
    };
    let last = parts.clone().next_back().unwrap_or(module);
    parts.rfind(role).unwrap_or(last).to_owned()
}

fn node(args: &[String], cwd: Option<&Path>) -> Option<String> {
    let with_value =
        ["-r", "--require", "--import", "--loader", "--experimental-loader", "-C", "--conditions"];
    let (script, rest) = positional(args, &with_value, &["-e", "--eval", "-p", "--print", "-pe"])?;
    let name = script_name(script, cwd);
    // Programs that run somebody's script.
    if matches!(name.as_str(), "ts-node" | "tsx" | "ts-node-dev" | "nodemon" | "babel-node")
        && let Some(script) = first_script(rest, &with_value, &["-e"], cwd)
    {
        return Some(script);
    }
    Some(name)
}

fn ruby(args: &[String], cwd: Option<&Path>) -> Option<String> {
    let (script, _) = positional(args, &["-I", "-r", "-C", "-E", "-S"], &["-e"])?;
    let name = script_name(script, cwd);
    // Servers of the application in the working directory.
    if matches!(
        name.as_str(),
        "rails" | "puma" | "rackup" | "unicorn" | "thin" | "falcon" | "bundle" | "sidekiq"
    ) && let Some(folder) = cwd.and_then(folder_name)
    {
        return Some(folder);
    }
    Some(name)
}

fn php(args: &[String], cwd: Option<&Path>) -> Option<String> {
    let with_value = ["-d", "-c", "-z", "-t", "-S", "-f"];
    if let Some((_, script)) = args.iter().zip(args.iter().skip(1)).find(|(option, _)| *option == "-f") {
        return Some(script_name(script, cwd));
    }
    if let Some(script) = first_script(args, &with_value, &["-r", "-B", "-R"], cwd) {
        return Some(script);
    }
    // The built-in server without a router script.
    args.iter().any(|arg| arg == "-S").then(|| cwd.and_then(folder_name)).flatten()
}

fn java(args: &[String]) -> Option<String> {
    let mut rest = args;
    while let [arg, tail @ ..] = rest {
        match arg.as_str() {
            "-jar" => return tail.first().map(|jar| jar_name(jar)),
            "-m" | "--module" => return tail.first().map(|module| class_name(module)),
            "-cp"
            | "-classpath"
            | "--class-path"
            | "-p"
            | "--module-path"
            | "--upgrade-module-path"
            | "--add-modules"
            | "--add-exports"
            | "--add-opens"
            | "--add-reads"
            | "--patch-module"
            | "--limit-modules"
            | "--source" => rest = tail.get(1..)?,
            option if option.starts_with('-') || option.starts_with('@') || option.is_empty() => rest = tail,
            source if source.ends_with(".java") => return Some(script_name(source, None)),
            class => return Some(class_name(class)),
        }
    }
    None
}

/// `cart-1.4.2-SNAPSHOT.jar` → `cart`.
fn jar_name(jar: &str) -> String {
    let name = script_name(jar, None);
    let version =
        name.match_indices('-').find(|(at, _)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    match version {
        Some((at, _)) if at > 0 => name[..at].to_owned(),
        _ => name,
    }
}

/// `com.shop.Cart` → `Cart`; a class that is called after its role only is called after its package.
fn class_name(class: &str) -> String {
    let class = class.rsplit('/').next().unwrap_or(class);
    if class.starts_with("org.apache.catalina.") {
        return "tomcat".to_owned();
    }
    let mut parts = class.rsplit('.');
    let simple = parts.next().unwrap_or(class);
    let simple = simple.strip_suffix("Kt").unwrap_or(simple);
    if matches!(simple, "Main" | "App" | "Application" | "Launcher" | "Bootstrap")
        && let Some(package) = parts.find(|part| !matches!(*part, "main" | "app" | "application" | "server"))
        && !matches!(package, "com" | "org" | "net" | "io" | "dev" | "java")
    {
        return package.to_owned();
    }
    simple.to_owned()
}
