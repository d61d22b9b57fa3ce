//! The binary: flags, exit codes, signals.

use crate::support::client::{collect, full, get, http1, request};
use crate::support::process::{Child, command};
use crate::support::upstream::{healthy, stub, text};
use crate::support::{eventually, soon};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn bad_configuration_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let routes = write("routes.yaml", "[{service: a, upstream: 'http://a', prefix: /}]");
    let breakers = write("breakers.yaml", "kind: Circuit");
    let bad_ca = write("ca.pem", "nonsense");
    let https = ["--service", "a", "--upstream", "https://a"];
    let good = [
        "--service",
        "a",
        "--upstream",
        "http://a",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let with = |more: &[&str]| -> Vec<String> { good.iter().chain(more).map(|arg| (*arg).to_owned()).collect() };
    let only = |args: &[&str]| -> Vec<String> { args.iter().map(|arg| (*arg).to_owned()).collect() };
    for (args, named) in [
        (only(&[]), "--service ID --upstream URL, or --routes FILE"),
        (only(&["--service", "a"]), "--upstream"),
        (with(&["--nonsense"]), "--nonsense"),
        (with(&["--max-headers", "0"]), "1..=1000"),
        (with(&["--max-in-flight", "0"]), "--max-in-flight"),
        (with(&["--idle-timeout", "0s"]), "more than 0"),
        (with(&["--header-timeout", "soon"]), "--header-timeout"),
        (with(&["--redis", "http://x"]), "redis://HOST:PORT"),
        (with(&["--breakers", &breakers]), "document 1"),
        (with(&["--breakers", "/no/such/file"]), "/no/such/file"),
        (
            with(&["--allow-fallback", "cache"]),
            "--allow-fallback \"cache\": wanted http://",
        ),
        (
            only(&[
                "--service",
                "a b",
                "--upstream",
                "http://a",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ]),
            "service",
        ),
        (
            only(&[
                "--service",
                "a",
                "--upstream",
                "ftp://a",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ]),
            "wanted http://HOST:PORT",
        ),
        (
            only(&[
                "--service",
                "a",
                "--upstream",
                "http://a",
                "--listen",
                &taken,
                "--admin-listen",
                "127.0.0.1:0",
            ]),
            "--listen",
        ),
        (
            only(&[
                "--routes",
                &routes,
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ]),
            "prefix",
        ),
        (
            only(&[
                "--routes",
                "/no/such/file",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ]),
            "--routes /no/such/file",
        ),
        (
            [
                &only(&https)[..],
                &only(&[
                    "--upstream-ca-file",
                    &bad_ca,
                    "--listen",
                    "127.0.0.1:0",
                    "--admin-listen",
                    "127.0.0.1:0",
                ]),
            ]
            .concat(),
            "certificates in PEM",
        ),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let refused = soon("a refusal", command(&args).output()).await.unwrap();
        assert!(!refused.status.success(), "{args:?}");
        let said = String::from_utf8(refused.stderr).unwrap();
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{args:?}: {said}");
        assert!(errors[0].contains(named), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn every_flag_is_explained_and_a_variable() {
    let help = soon("help", command(&["--help"]).output()).await.unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(help.status.success());
    for told in [
        "TIEBAR_INSTANCE_MAX_HEADER_BYTES",
        "TIEBAR_INSTANCE_ALLOW_FALLBACK",
        "TIEBAR_INSTANCE_UPSTREAM_CA_FILE",
        "TIEBAR_INSTANCE_BODY_TIMEOUT",
        "TIEBAR_REDIS",
        "TIEBAR_NAMESPACE",
        "[default: 75s]",
        "[default: 127.0.0.1:8101]",
    ] {
        assert!(text.contains(told), "{told} is missing from:\n{text}");
    }
}

#[tokio::test]
async fn a_signal_drains_and_ends_it_well() {
    let (release, released) = tokio::sync::watch::channel(false);
    let upstream = stub(move |_| {
        let mut released = released.clone();
        async move {
            let _ = released.wait_for(|released| *released).await;
            text(200, "fine")
        }
    })
    .await;
    let mut child = Child::start(&upstream.url, &[]).await;
    eventually("readiness", async || (child.ready().await.status == 200).then_some(())).await;
    let mut sender = http1(child.traffic).await;
    let running = tokio::spawn(async move {
        let response = sender
            .send_request(request("GET", "/").body(full("")).unwrap())
            .await
            .unwrap();
        collect(response).await
    });
    eventually("the call", async || (upstream.count() == 1).then_some(())).await;
    let idle = http1(child.traffic).await;
    let started = std::time::Instant::now();
    child.terminate().await;
    eventually("unreadiness", async || {
        (child.ready().await.status == 503).then_some(())
    })
    .await;
    assert_eq!(get(child.admin, "/livez").await.status, 200);
    eventually("the idle connection's end", async || idle.is_closed().then_some(())).await;
    eventually("refusal", async || {
        TcpStream::connect(child.traffic).await.is_err().then_some(())
    })
    .await;
    assert!(!running.is_finished(), "the running call is not cut");
    release.send(true).unwrap();
    let seen = soon("the answer", running).await.unwrap();
    assert_eq!((seen.status.as_u16(), seen.text()), (200, "fine"));
    assert_eq!(child.ended().await.code(), Some(0));
    println!("drained after {:?}", started.elapsed());
    let log = child.log().await;
    assert!(log.iter().any(|line| line.contains("draining")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("panicked")), "{log:?}");
}

#[tokio::test]
async fn the_drain_timeout_is_the_end_of_calls_that_do_not_end() {
    let upstream = crate::support::upstream::scripted("", crate::support::upstream::Ending::Hang).await;
    let mut child = Child::start(&upstream.url, &["--drain-timeout", "500ms"]).await;
    let mut sender = http1(child.traffic).await;
    let running = tokio::spawn(sender.send_request(request("GET", "/").body(full("")).unwrap()));
    eventually("the call", async || (upstream.count() == 1).then_some(())).await;
    let started = std::time::Instant::now();
    child.terminate().await;
    assert_eq!(child.ended().await.code(), Some(0));
    let took = started.elapsed();
    println!("ended after {took:?}");
    // The timeout, and the farewell to a store that is not there.
    assert!(
        took >= Duration::from_millis(500) && took < Duration::from_secs(9),
        "{took:?}"
    );
    assert!(soon("the call's end", running).await.unwrap().is_err());
}

#[tokio::test]
async fn breakers_from_a_file_hold_while_there_is_no_store() {
    let upstream = stub(async |_| text(418, "")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("breakers.yaml");
    let document = "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {name: inventory, namespace: shop}\nspec:\n  trip: {consecutiveFailures: 3, minimumInstances: 1}\n  failureConditions: {httpStatusCodes: ['418']}\n  rejection: {httpStatusCode: 429}\n";
    std::fs::write(&file, document).unwrap();
    let child = Child::start(&upstream.url, &["--breakers", &file.display().to_string()]).await;
    eventually("the trip, alone", async || {
        (get(child.traffic, "/").await.status == 429).then_some(())
    })
    .await;
    let seen = get(child.admin, "/breakers").await.json();
    assert_eq!(
        (seen["storeUp"].as_bool(), seen["items"][0]["degraded"].as_bool()),
        (Some(false), Some(true))
    );
    assert_eq!(seen["items"][0]["state"], "open");
}

#[tokio::test]
async fn ten_thousand_idle_connections_harm_nobody() {
    let upstream = healthy().await;
    // Both ends are held here and there, and other tests run beside this one.
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap();
    let allowed: usize = line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX);
    let many = 10_000.min(allowed.saturating_sub(2_000).max(allowed / 2));
    println!("{many} connections, as {allowed} descriptors are allowed");
    let child = Child::start(&upstream.url, &[]).await;
    assert_eq!(get(child.traffic, "/").await.status, 200);
    let before = child.memory();
    let mut idle = Vec::with_capacity(many);
    for number in 0..many {
        let mut stream = soon("a connection", TcpStream::connect(child.traffic)).await.unwrap();
        if number % 10 == 0 {
            // Some have said something already.
            use tokio::io::AsyncWriteExt as _;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        }
        idle.push(stream);
    }
    eventually("all of them", async || (child.descriptors() >= many).then_some(())).await;
    let started = std::time::Instant::now();
    for _ in 0..50 {
        assert_eq!(get(child.traffic, "/").await.status, 200);
    }
    let each = (child.memory().saturating_sub(before)) / many as u64;
    println!(
        "50 calls took {:?}; {each} bytes of memory a connection",
        started.elapsed()
    );
    assert!(each < 32 * 1_024, "{each} bytes a connection");
    drop(idle);
    eventually("their end", async || (child.descriptors() < 100).then_some(())).await;
}
