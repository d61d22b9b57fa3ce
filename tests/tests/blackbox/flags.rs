//! What every binary says about itself, and what it says to mistakes.

use std::path::Path;
use tests::{Ended, Process, RedisServer, binary, run};
use tokio::net::TcpListener;

const BINARIES: [&str; 5] = ["instance", "operator", "upstream", "loadgen", "local"];

async fn ask(name: &str, args: &[&str]) -> Ended {
    run(&binary(&format!("tiebar-{name}")), Path::new("/"), args).await
}

/// One line on standard error that holds all of `named`, and an exit code that is not 0.
async fn refuses(name: &str, args: &[&str], named: &[&str]) {
    let refused = ask(name, args).await;
    let what = format!("tiebar-{name} {args:?}: {:?} {}", refused.code, refused.stderr);
    assert!(refused.code.is_some_and(|code| code != 0), "{what}");
    assert_eq!(refused.stderr.lines().count(), 1, "one line: {what}");
    assert!(refused.stderr.starts_with("error: "), "{what}");
    for name in named {
        assert!(refused.stderr.contains(name), "{name:?} is not in {what}");
    }
    println!("{}", refused.stderr.trim_end());
}

#[tokio::test]
async fn help_names_every_flag_with_its_default_and_its_variable() {
    for name in BINARIES {
        let help = ask(name, &["--help"]).await;
        assert_eq!((help.code, &*help.stderr), (Some(0), ""));
        // From one flag's line to the next one's.
        let lines: Vec<&str> = help.stdout.lines().collect();
        let is_flag = |line: &&str| line.trim_start().starts_with('-');
        let starts: Vec<usize> = (0..lines.len()).filter(|at| is_flag(&lines[*at])).collect();
        assert!(starts.len() > 5, "{}", help.stdout);
        for (place, start) in starts.iter().enumerate() {
            let end = starts.get(place + 1).copied().unwrap_or(lines.len());
            let text = lines[*start..end].join(" ");
            let flag = text.split_whitespace().find_map(|word| word.strip_prefix("--"));
            let flag = flag.unwrap_or_else(|| panic!("{text}"));
            if ["help", "version"].contains(&flag) {
                continue;
            }
            let variable = flag.to_uppercase().replace('-', "_");
            let shared = ["redis", "store-", "key-", "log-"]
                .iter()
                .any(|start| flag.starts_with(start));
            let variable = if shared {
                format!("[env: TIEBAR_{variable}=")
            } else {
                format!("[env: TIEBAR_{}_{variable}=", name.to_uppercase())
            };
            assert!(text.contains(&variable), "{variable} is missing: {text}");
            let optional = [
                "service",
                "upstream",
                "routes",
                "breakers",
                "scenario",
                "redis-username",
                "redis-password-file",
                "redis-ca-file",
                "redis-cert-file",
                "redis-key-file",
                "upstream-ca-file",
                "allow-fallback",
            ];
            let switch = ["json"];
            if !optional.contains(&flag) && !switch.contains(&flag) {
                assert!(text.contains("[default: "), "{name} --{flag} names no default: {text}");
            }
            if text.contains("<DURATION>") {
                assert!(text.contains("such as"), "{name} --{flag} shows no duration: {text}");
            }
        }
    }
}

#[tokio::test]
async fn version_is_one_line_on_stdout() {
    for name in BINARIES {
        let version = ask(name, &["--version"]).await;
        assert_eq!(version.code, Some(0));
        let wanted = format!("tiebar-{name} {}", env!("CARGO_PKG_VERSION"));
        assert!(version.stdout.starts_with(&wanted), "{}", version.stdout);
        assert_eq!((version.stdout.lines().count(), &*version.stderr), (1, ""));
    }
}

#[tokio::test]
async fn unknown_flags_and_bad_values_are_one_clear_line() {
    for name in BINARIES {
        refuses(name, &["--nonsense"], &["--nonsense", "unexpected"]).await;
        refuses(name, &["--log-level", "loud"], &["--log-level", "loud", "info"]).await;
        refuses(name, &["--log-format", "xml"], &["--log-format", "xml", "json"]).await;
    }
    for name in ["instance", "operator", "local"] {
        for (flag, value, right) in [
            ("--store-timeout", "5", "500ms"),
            ("--store-timeout", "0s", "1ms to 1m"),
            ("--key-style", "round", "hash-tag"),
        ] {
            refuses(name, &[flag, value], &[flag, value, right]).await;
        }
    }
    refuses("local", &["--instances", "0"], &["--instances", "1..=100"]).await;
    refuses("local", &["--instances", "-1"], &["--instances", "1..=100"]).await;
    refuses("local", &["--duration", "soon"], &["--duration", "soon", "500ms"]).await;
    refuses("local", &["--port-offset", "60000"], &["--port-offset", "50000"]).await;
    refuses("local", &["--breakers", "/nowhere"], &["--breakers", "/nowhere"]).await;
    refuses(
        "loadgen",
        &["--target", "nonsense"],
        &["--target", "nonsense", "http://"],
    )
    .await;
    refuses("loadgen", &["--scenario", "/nowhere"], &["/nowhere"]).await;
    refuses("operator", &[], &["--breakers"]).await;
    refuses("operator", &["--breakers", "/nowhere"], &["--breakers", "/nowhere"]).await;
    refuses("operator", &["explain", "a b"], &["a b", "NAMESPACE/NAME"]).await;
    refuses("operator", &["validate"], &["--file"]).await;
}

#[tokio::test]
async fn an_instance_names_what_is_wrong_with_its_route() {
    for service in ["a b", "a:b", "A", "", "a/b/c", "{a}", "a\nb", "a-"] {
        let args = [
            "--service",
            service,
            "--upstream",
            "http://127.0.0.1:9",
            "--listen",
            "127.0.0.1:0",
        ];
        refuses(
            "instance",
            &[&args[..], &["--admin-listen", "127.0.0.1:0"]].concat(),
            &["--service", "NAMESPACE/NAME"],
        )
        .await;
    }
    for upstream in ["nonsense", "ftp://127.0.0.1:9", "http://", "127.0.0.1:9"] {
        let args = ["--service", "a", "--upstream", upstream, "--listen", "127.0.0.1:0"];
        refuses(
            "instance",
            &[&args[..], &["--admin-listen", "127.0.0.1:0"]].concat(),
            &["--upstream", "http://HOST:PORT"],
        )
        .await;
    }
    refuses("instance", &[], &["--service", "--upstream", "--routes"]).await;
    refuses("instance", &["--service", "a"], &["--upstream"]).await;
    let good = ["--service", "a", "--upstream", "http://127.0.0.1:9"];
    let with = |more: &[&'static str]| [&good[..], more].concat();
    refuses("instance", &with(&["--max-in-flight", "0"]), &["--max-in-flight"]).await;
    refuses(
        "instance",
        &with(&["--max-in-flight", "-1"]),
        &["--max-in-flight", "-1"],
    )
    .await;
    refuses(
        "instance",
        &with(&["--drain-timeout", "25"]),
        &["--drain-timeout", "25", "500ms"],
    )
    .await;
    let free = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    refuses(
        "instance",
        &with(&[&free[..], &["--breakers", "/nowhere"]].concat()),
        &["--breakers", "/nowhere"],
    )
    .await;
    refuses(
        "instance",
        &[&["--routes", "/nowhere"][..], &free].concat(),
        &["--routes", "/nowhere"],
    )
    .await;
}

#[tokio::test]
async fn a_bad_store_is_named_and_its_password_is_not() {
    let instance = ["--service", "a", "--upstream", "http://127.0.0.1:9"];
    for url in ["http://h", "redis://", "redis://:swordfish@h:port", "nonsense"] {
        let store = ["--redis", url];
        for (name, args) in [
            ("instance", [&instance[..], &store].concat()),
            ("operator", [&["--breakers", "/"][..], &store].concat()),
            ("operator", [&["explain", "a"][..], &store].concat()),
            ("local", store.to_vec()),
        ] {
            refuses(name, &args, &["--redis", "redis://HOST:PORT"]).await;
            assert!(!ask(name, &args).await.stderr.contains("swordfish"));
        }
    }
    let file = [&instance[..], &["--redis-password-file", "/nowhere"]].concat();
    refuses("instance", &file, &["--redis-password-file", "/nowhere"]).await;
    // Only an instance and the operator can go on without a store.
    let nobody = "redis://:swordfish@127.0.0.1:1";
    refuses("local", &["--redis", nobody], &["--redis", "127.0.0.1:1", "refused"]).await;
    refuses("operator", &["explain", "a", "--redis", nobody], &["refused"]).await;
    assert!(!ask("local", &["--redis", nobody]).await.stderr.contains("swordfish"));
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let taken = taken
        .local_addr()
        .map(|addr| (addr.to_string(), taken))
        .expect("an address");
    let address = &*taken.0;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path().to_str().expect("a readable name");
    let instance = ["--service", "a", "--upstream", "http://127.0.0.1:9"];
    for (name, args, flag) in [
        ("instance", [&instance[..], &["--listen", address]].concat(), "--listen"),
        (
            "instance",
            [&instance[..], &["--listen", "127.0.0.1:0", "--admin-listen", address]].concat(),
            "--admin-listen",
        ),
        ("operator", vec!["--breakers", folder, "--listen", address], "--listen"),
        ("upstream", vec!["--listen", address], "--listen"),
    ] {
        refuses(name, &args, &[flag, address, "in use"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_every_process_well() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let redis = RedisServer::start(path).await;
    let store = redis.url();
    let free = ["--listen", "127.0.0.1:0", "--log-format", "json"];
    let instance = [
        "--service",
        "a",
        "--upstream",
        "http://127.0.0.1:9",
        "--redis",
        &store,
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let breakers = path.to_str().expect("a readable name");
    for (name, args, port) in [
        ("upstream", free.to_vec(), None),
        ("instance", [&instance[..], &free].concat(), Some("admin")),
        (
            "operator",
            [&["--breakers", breakers, "--redis", &store][..], &free].concat(),
            None,
        ),
    ] {
        let mut process = Process::start(name, &binary(&format!("tiebar-{name}")), path, &args);
        process.listening(port).await;
        assert_eq!(process.terminate().await, Some(0), "{name}");
    }
    // The load generator says that it was stopped before it could show anything.
    let args = ["--target", "http://127.0.0.1:1", "--rate", "50"];
    let mut loadgen = Process::start("loadgen", &binary("tiebar-loadgen"), path, &args);
    loadgen
        .logged("it runs", |line| line.contains("load:").then_some(()))
        .await;
    assert_eq!(loadgen.terminate().await, Some(1), "not one call was answered");
}
