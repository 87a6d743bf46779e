//! A table of command lines and what a person would call them.

use super::*;

fn name(exe: &str, cwd: &str, argv: &[&str]) -> String {
    let argv: Vec<Vec<u8>> = argv.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    let exe = (!exe.is_empty()).then(|| Path::new(exe));
    service_name(Program { argv: &argv, exe, cwd: Some(Path::new(cwd)), comm: b"comm" })
}

fn check(exe: &str, line: &str, want: &str) {
    let argv: Vec<&str> = line.split(' ').collect();
    assert_eq!(name(exe, "/srv/shop", &argv), want, "{exe}: {line}");
}

#[test]
fn python() {
    for (line, want) in [
        ("python shop.py", "shop"),
        ("python3 -u /opt/x/shop.py --port 80", "shop"),
        ("python -X dev -W ignore shop.py", "shop"),
        ("python -B -- shop.py", "shop"),
        ("python -m shop", "shop"),
        ("python -m pkg.mod --x", "pkg.mod"),
        ("python -m pkg.__main__", "pkg"),
        ("python -um http.server 8000", "http.server"),
        ("python -mhttp.server", "http.server"),
        ("python -c print(1)", "python3.11"),
        ("python", "python3.11"),
        ("python -", "python3.11"),
        ("python -m", "python3.11"),
        ("python manage.py runserver", "shop"),
        ("python __main__.py", "shop"),
        ("python main.py", "main"),
        ("python /usr/bin/gunicorn app:api", "app"),
        ("python /usr/bin/gunicorn -w 4 -b 127.0.0.1:80 app:api", "app"),
        ("python /usr/bin/gunicorn --bind unix:/run/x.sock shop.wsgi", "shop"),
        ("python /usr/bin/gunicorn -b unix:/run/x.sock shop.wsgi:application", "shop"),
        ("python /usr/bin/gunicorn app:create_app()", "app"),
        ("python -m gunicorn app:api", "app"),
        ("python /usr/bin/gunicorn -c conf.py", "gunicorn"),
        ("python /usr/bin/uvicorn main:app --host 0.0.0.0", "main"),
        ("python /usr/bin/uvicorn --reload cart.main:app", "cart"),
        ("python /usr/bin/uvicorn src.main:app", "main"),
        ("python /usr/bin/flask --app shop run", "shop"),
        ("python /usr/bin/flask --app=cart.app run", "cart"),
        ("python /usr/bin/flask run", "flask"),
        ("python /usr/bin/celery -A proj worker", "proj"),
    ] {
        check("/usr/bin/python3.11", line, want);
    }
    check("/usr/bin/python3.13t", "python3.13t shop.py", "shop");
    check("", "/opt/venv/bin/python3 shop.py", "shop");
    check("/usr/bin/python3.11 (deleted)", "python3 shop.py", "shop");
}

#[test]
fn node() {
    for (line, want) in [
        ("node server.js", "server"),
        ("node --inspect -r dotenv/config --max-old-space-size=4096 server.mjs", "server"),
        ("node dist/index.js", "shop"),
        ("node ./dist/main.js", "shop"),
        ("node /srv/cart/build/index.js", "cart"),
        ("node /app/index.js", "index"),
        ("node /usr/src/app/index.js", "index"),
        ("node main.js", "main"),
        ("node -e 1", "node"),
        ("node", "node"),
        ("node /x/node_modules/.bin/ts-node src/api.ts", "api"),
        ("node /x/node_modules/.bin/next start", "next"),
    ] {
        check("/usr/bin/node", line, want);
    }
    assert_eq!(name("/usr/bin/node", "/", &["next-server (v14.2.3)"]), "next-server");
    assert_eq!(name("/usr/bin/node", "/", &["npm start", "", ""]), "npm");
    check("/usr/bin/deno", "deno run --allow-net api.ts", "api");
    check("/usr/bin/bun", "bun api.ts", "api");
}

#[test]
fn java() {
    for (line, want) in [
        ("java -jar cart.jar", "cart"),
        ("java -Xmx1g -cp a.jar:b.jar -jar /opt/cart-1.4.2-SNAPSHOT.jar --x", "cart"),
        ("java -jar 1-2.jar", "1"),
        ("java com.shop.Cart", "Cart"),
        ("java -cp x com.shop.Main", "shop"),
        ("java --class-path x Main", "Main"),
        ("java -cp x com.shop.MainKt", "shop"),
        ("java -p mods -m shop/com.shop.Cart", "Cart"),
        ("java --add-opens java.base/java.lang=ALL-UNNAMED Server.java", "Server"),
        ("java -cp x org.apache.catalina.startup.Bootstrap start", "tomcat"),
        ("java -version", "java"),
        ("java -cp", "java"),
    ] {
        check("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", line, want);
    }
}

#[test]
fn other_runtimes() {
    for (exe, line, want) in [
        ("/usr/bin/ruby3.1", "ruby app.rb", "app"),
        ("/usr/bin/ruby3.1", "ruby -I lib -rjson app.rb", "app"),
        ("/usr/bin/ruby3.1", "ruby bin/rails server", "shop"),
        ("/usr/bin/php8.2", "php -S 127.0.0.1:80 router.php", "router"),
        ("/usr/bin/php8.2", "php -S 127.0.0.1:80", "shop"),
        ("/usr/bin/php8.2", "php artisan serve", "shop"),
        ("/usr/bin/perl", "perl -w api.pl", "api"),
        ("/usr/bin/dotnet", "dotnet Shop.dll", "Shop"),
        ("/usr/bin/dotnet", "dotnet run", "shop"),
        ("/usr/bin/bash", "/bin/bash ./start.sh x", "start"),
        ("/usr/bin/bash", "bash -lc true", "bash"),
        ("/usr/bin/dash", "sh -c curl", "dash"),
        ("/usr/bin/bash", "-bash", "bash"),
        ("/usr/bin/bash", "bash -o pipefail run.sh", "run"),
        ("/usr/lib/erlang/erts/bin/beam.smp", "beam.smp -- -sname shop@host", "shop"),
    ] {
        check(exe, line, want);
    }
}

#[test]
fn titles() {
    for (exe, title, want) in [
        ("/usr/sbin/nginx", "nginx: worker process", "nginx"),
        ("/usr/sbin/nginx", "nginx: master process /usr/sbin/nginx -g daemon off;", "nginx"),
        ("/usr/sbin/php-fpm8.2", "php-fpm: pool www", "php-fpm"),
        ("/usr/sbin/php-fpm8.2", "php-fpm: pool cart", "cart"),
        ("/usr/sbin/php-fpm8.2", "php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)", "php-fpm"),
        ("/usr/bin/python3.11", "gunicorn: worker [app:api]", "app"),
        ("/usr/bin/python3.11", "gunicorn: master [shop.wsgi]", "shop"),
        ("/usr/bin/ruby3.1", "puma 6.4.0 (tcp://0.0.0.0:3000) [shop]", "shop"),
        ("/usr/bin/ruby3.1", "puma: cluster worker 0: 123 [shop]", "shop"),
        ("/usr/bin/ruby3.1", "sidekiq 6.5.1 shop [0 of 5 busy]", "shop"),
        ("/usr/lib/postgresql/15/bin/postgres", "postgres: shop shop 127.0.0.1(34) idle", "postgres"),
    ] {
        assert_eq!(name(exe, "/", &[title]), want, "{title}");
        assert_eq!(name(exe, "/", &[title, "", ""]), want, "{title}");
    }
}

#[test]
fn everything_else_is_called_by_its_executable() {
    check("/usr/bin/curl", "curl -s http://localhost/", "curl");
    check("/opt/my server", "x", "my server");
    check("/usr/bin/curl (deleted)", "x", "curl");
    check("", "/usr/bin/curl http://x", "curl");
    check("/bin/busybox", "httpd -f", "httpd");
    check("/bin/busybox", "busybox httpd -f", "httpd");
    assert_eq!(name("", "", &[]), "comm");
    assert_eq!(service_name(Program::default()), "unknown");
    assert_eq!(name("", "", &["/"]), "comm");
}

#[test]
fn hostile_arguments_do_no_harm() {
    let long = "x".repeat(100_000);
    assert_eq!(name("/usr/bin/python3", "/", &["python3", &long]).len(), MAX_NAME_BYTES);
    let wide = "é".repeat(1000);
    assert!(name("/usr/bin/python3", "/", &["python3", &wide]).len() <= MAX_NAME_BYTES);
    let argv = [b"python".to_vec(), b"\xff\xfe.py".to_vec()];
    let program = Program { argv: &argv, ..Program::default() };
    assert_eq!(service_name(program), "\\xff\\xfe");
    for junk in ["-", "--", "-m", "", " ", ":", "[", "a: ", "gunicorn: []", "puma [", "\0", "/", "-é"] {
        for exe in ["python3", "node", "java", "ruby", "php", "perl", "dotnet", "bash", "beam.smp", "x"] {
            for args in [vec![junk], vec![exe, junk], vec![exe, junk, junk], vec![exe, "-x", junk, "y"]] {
                assert!(!name(exe, junk, &args).is_empty());
            }
        }
    }
}
