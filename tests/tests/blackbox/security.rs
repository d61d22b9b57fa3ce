//! What SECURITY.md promises of the running programs: no secret shows, and no id becomes a key that is not its own.

use http::Method;
use tests::{
    Dashboard, FaultLink, Instance, Operator, PATIENCE, Process, RedisServer, Target, Upstream, binary, document,
    eventually, get, holds, run, send, try_get,
};

/// Looked for everywhere; the first is Redis' password, the second the dashboard's token, the third a caller's.
const SECRETS: [&str; 4] = [
    "p4ssw0rd-of-redis",
    "t0ken-of-the-dashboard",
    "b3arer-of-a-caller",
    "wr0ng-password",
];

/// Neither log nor command line holds a secret; those on the command line were put there by the test itself.
fn silent(process: &Process, name: &str) {
    let log = process.log().join("\n");
    assert!(!log.is_empty(), "{name} logs at level trace");
    for secret in SECRETS {
        assert!(!log.contains(secret), "{name} logs {secret}:\n{log}");
        let line = process.command_line();
        assert!(!line.contains(secret), "{name}: {line}");
    }
}

/// No page of these holds a secret.
async fn harmless(url: &str, paths: &[&str]) {
    for path in paths {
        let answer = get(&format!("{url}{path}")).await;
        for secret in SECRETS {
            assert!(!answer.body.contains(secret), "{url}{path} shows {secret}");
            let headers = format!("{:?}", answer.headers);
            assert!(!headers.contains(secret), "{url}{path} shows {secret} in a header");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_logs_metrics_pages_or_command_lines() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let file = |name: &str, text: &str| {
        std::fs::write(path.join(name), text).expect("a file");
        path.join(name).display().to_string()
    };
    let (password, wrong) = (file("password", SECRETS[0]), file("wrong", SECRETS[3]));
    let tokens = file("tokens", &format!("ada {}\n", SECRETS[1]));
    std::fs::create_dir(path.join("breakers")).expect("a folder");
    std::fs::write(path.join("breakers/a.yaml"), document("unreliable_service", "{}")).expect("a file");

    let redis = RedisServer::start_with(path, &[], &[], Some(SECRETS[0])).await;
    let link = FaultLink::open(Target::Socket(redis.socket())).await;
    let upstream = Upstream::start(path).await;
    let trace = ["--log-level", "trace"];
    let with_file = [&trace[..], &["--redis-password-file", &password]].concat();
    let with_wrong = [&trace[..], &["--redis-password-file", &wrong]].concat();
    // The address with the password in it travels in the environment, which only the owner can read.
    let in_address = |address: String| vec![("TIEBAR_REDIS".to_owned(), address)];
    let routes = path.join("routes.yaml");
    let route = format!("- {{service: unreliable_service, upstream: '{}'}}\n", upstream.url);
    std::fs::write(&routes, route).expect("a file");
    let over_tcp = in_address(format!("redis://default:{}@127.0.0.1:{}", SECRETS[0], link.port()));
    let over_file = in_address(format!("redis+unix://{}?pass={}", redis.socket().display(), SECRETS[0]));
    let nowhere = in_address(format!("redis://default:{}@127.0.0.1:1", SECRETS[0]));
    let sentinels = in_address(format!("redis+sentinel://default:{}@127.0.0.1:1/main", SECRETS[0]));
    let instances = [
        Instance::start(path, "file", &redis.url(), &upstream.url, &with_file).await,
        Instance::start(path, "wrong", &redis.url(), &upstream.url, &with_wrong).await,
        Instance::over(path, "tcp", &routes, &trace, over_tcp).await,
        Instance::over(path, "unix", &routes, &trace, over_file).await,
        Instance::over(path, "nowhere", &routes, &trace, nowhere).await,
        Instance::over(path, "sentinels", &routes, &trace, sentinels).await,
    ];
    let operator = Operator::start_with(path, &path.join("breakers"), &redis.url(), &with_file).await;
    let refused = Operator::start_with(path, &path.join("breakers"), &redis.url(), &with_wrong).await;
    let guarded = [&with_file[..], &["--auth", "token", "--auth-token-file", &tokens]].concat();
    let dashboard = Dashboard::start(path, &redis.url(), &guarded).await;
    let open = Dashboard::start(path, &redis.url(), &with_file).await;
    let blind = Dashboard::start(path, &redis.url(), &with_wrong).await;

    for (instance, up) in instances.iter().zip([true, false, true, true, false, false]) {
        eventually(
            PATIENCE,
            &format!("{} has made up its mind", instance.name),
            async || {
                let known = get(&format!("{}/breakers", instance.admin)).await.json();
                let degraded = known["items"][0]["degraded"] == true;
                holds(known["storeUp"] == up && degraded != up, &known)
            },
        )
        .await;
        let body = format!("password={}", SECRETS[2]);
        send(
            Method::POST,
            &format!("{}/login?token={}", instance.url, SECRETS[2]),
            &body,
        )
        .await
        .expect("an answer");
        harmless(&instance.admin, &["/metrics", "/breakers", "/readyz", "/nowhere"]).await;
        silent(&instance.process, &instance.name);
    }
    for name in ["wrong", "nowhere", "sentinels"] {
        let instance = instances
            .iter()
            .find(|instance| instance.name == name)
            .expect("it was started");
        let said = instance
            .process
            .logged("why", |line| {
                line.contains("cannot be reached").then(|| line.to_owned())
            })
            .await;
        println!("{said}");
        let place = if name == "wrong" {
            "redis+unix://"
        } else {
            "127.0.0.1:1"
        };
        assert!(said.contains(place) && said.contains("wanted a Redis"), "{said}");
    }
    // Somebody tries a token, and somebody has one.
    for token in [SECRETS[3], SECRETS[1]] {
        let _ = send(
            Method::POST,
            &format!("{}/login", dashboard.url),
            &format!("token={token}"),
        )
        .await;
    }
    for dashboard in [&dashboard, &open, &blind] {
        let pages = [
            "/",
            "/breakers/unreliable_service",
            "/history",
            "/login",
            "/metrics",
            "/api/v1/breakers",
        ];
        harmless(&dashboard.url, &pages).await;
        silent(&dashboard.process, "dashboard");
    }
    for operator in [&operator, &refused] {
        eventually(PATIENCE, "the operator has tried", async || {
            let report = operator.report().await;
            holds(report["items"][0]["status"]["conditions"].is_array(), &report)
        })
        .await;
        harmless(&operator.url, &["/breakers", "/livez", "/readyz"]).await;
        silent(&operator.process, "operator");
    }
    let address = redis.url();
    let mistaken = format!("redis+cluster://default:{}@host:port", SECRETS[0]);
    for (program, args) in [
        (
            "tiebar-operator",
            vec!["explain", "unreliable_service", "--redis", &mistaken],
        ),
        (
            "tiebar-operator",
            [
                &["explain", "unreliable_service", "--redis", &address][..],
                &with_wrong[..],
            ]
            .concat(),
        ),
        ("tiebar-local", vec!["--redis", &mistaken]),
        ("tiebar-ui", vec!["--redis", &mistaken]),
    ] {
        let ended = run(&binary(program), path, &args).await;
        for secret in SECRETS {
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(!said.contains(secret), "{program}: {said}");
        }
    }
}

/// What is no id, and would be another's key, another key, several, or another page.
const BAD_IDS: [&str; 9] = [
    "shop:state",
    "shop/inventory:data",
    "{shop}",
    "a/b/c",
    "../index",
    "*",
    "a b",
    "a\nb",
    "<script>",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_id_reaches_a_key_that_is_not_its_own() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let redis = RedisServer::start(path).await;
    let upstream = Upstream::start(path).await;
    let documents = path.join("breakers");
    std::fs::create_dir(&documents).expect("a folder");
    std::fs::write(documents.join("good.yaml"), document("good", "{}")).expect("a file");
    let operator = Operator::start(path, &documents, &redis.url()).await;
    let dashboard = Dashboard::start(path, &redis.url(), &[]).await;
    // A name that would be several words, or another line, of what is stored.
    let instance = Instance::start(path, "a b\n<script>", &redis.url(), &upstream.url, &[]).await;

    for (number, id) in BAD_IDS.iter().enumerate() {
        let args = ["--service", id, "--upstream", &upstream.url, "--listen", "127.0.0.1:0"];
        let ended = run(&binary("tiebar-instance"), path, &args).await;
        assert!(
            ended.code != Some(0) && ended.stderr.contains("is not a service id"),
            "{id:?}: {}",
            ended.stderr
        );
        let ended = run(
            &binary("tiebar-operator"),
            path,
            &["explain", id, "--redis", &redis.url()],
        )
        .await;
        assert!(
            ended.code != Some(0) && ended.stderr.contains("is not a service id"),
            "{id:?}: {}",
            ended.stderr
        );
        let quoted = serde_json::to_string(id).expect("a text");
        let text = format!(
            "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {{name: bad-{number}}}\nspec: {{serviceName: {quoted}}}\n"
        );
        operator.write(&format!("bad{number}.yaml"), &text);
        // Somebody who may write to Redis writes nonsense beside the breakers.
        redis.ask::<()>(&["SADD", "cb:index", id]).await;
        let encoded: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for page in [
            format!("{}/breakers/{encoded}", dashboard.url),
            format!("{}/api/v1/namespaces/-/breakers/{encoded}", dashboard.url),
            format!("{}/api/v1/namespaces/{encoded}/breakers/good/events", dashboard.url),
        ] {
            let answer = try_get(&page).await.expect("an answer");
            assert!((400..500).contains(&answer.status), "{page}: {}", answer.status);
            let kind = answer.headers.get("content-type").and_then(|kind| kind.to_str().ok());
            let page_of_text = kind.is_some_and(|kind| kind.contains("html"));
            assert!(
                !page_of_text || !answer.body.contains("<script>"),
                "{page}: {}",
                answer.body
            );
        }
        let wanted = r#"{"state": "ForcedOpen", "reason": "mine"}"#;
        let act = format!("{}/breakers/{encoded}/override", operator.url);
        let answer = send(Method::PUT, &act, wanted).await.expect("an answer");
        assert!((400..500).contains(&answer.status), "{act}: {}", answer.status);
    }
    redis
        .ask::<()>(&["HSET", "cb:good:instances", "<script>alert(1)</script>", "nonsense"])
        .await;
    eventually(PATIENCE, "the operator names every bad file", async || {
        let report = operator.report().await;
        let errors = report["errors"].as_array().map_or(0, Vec::len);
        holds(errors >= BAD_IDS.len(), errors)
    })
    .await;
    eventually(PATIENCE, "the instance beats", async || {
        let names: Vec<String> = redis.ask(&["HKEYS", "cb:unreliable_service:instances"]).await;
        assert!(names.iter().all(|name| name == "a-b--script-"), "{names:?}");
        holds(!names.is_empty(), instance.breaker().await)
    })
    .await;
    for page in ["/", "/breakers/good", "/history"] {
        let answer = get(&format!("{}{page}", dashboard.url)).await;
        assert_eq!(answer.status, 200, "{page}");
        assert!(!answer.body.contains("<script>alert"), "{page}");
    }
    // The dashboard hears of a service that nobody programmed at its next look at the index.
    eventually(PATIENCE, "nonsense in the index is no breaker", async || {
        let list = dashboard.list().await;
        let items = list["items"].as_array().into_iter().flatten();
        let ids: Vec<&str> = items.filter_map(|item| item["id"].as_str()).collect();
        assert!(
            ids.iter().all(|id| ["good", "unreliable_service"].contains(id)),
            "{ids:?}"
        );
        holds(ids.len() == 2, &list)
    })
    .await;
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    let own = |key: &String| {
        let suffix = key
            .strip_prefix("cb:good:")
            .or_else(|| key.strip_prefix("cb:unreliable_service:"));
        key == "cb:index" || suffix.is_some_and(|suffix| tiebar::redis::SUFFIXES.contains(&suffix))
    };
    assert!(keys.iter().all(own), "{keys:?}");
}
