//! Who may look and who may act, as a table; and what must be refused or escaped whoever asks.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/mod.rs"]
mod support;

use bench::{Acting, Bench};
use support::{Fleet, id};
use tiebar::policy::{Override, Policy};
use ui::Auth;

const ANNA: &str = "Bearer anna-0123456789abcdef";
const BERT: &str = "Bearer bert-0123456789abcdef";
const FORM: &str = "id=shop/a&do=force_open&reason=CHG-1&expires=5m";
const BUTTON: &str = "value=\"force_open\"";

fn tokens(folder: &tempfile::TempDir) -> Auth {
    let file = folder.path().join("tokens");
    std::fs::write(&file, "anna anna-0123456789abcdef\nbert bert-0123456789abcdef\n").unwrap();
    Auth::Token(file)
}

fn proxy(sources: &str) -> Auth {
    Auth::Proxy {
        header: http::HeaderName::from_static("x-forwarded-user"),
        sources: vec![sources.parse().unwrap()],
    }
}

async fn with_breaker(bench: &Bench, headers: &[(&str, &str)]) {
    let fleet = Fleet::new(std::sync::Arc::clone(&bench.store) as _);
    fleet.programme("shop/a", "{}", Policy::default(), None).await;
    if !headers.is_empty() {
        bench
            .until("/breakers/shop/a", headers, |answer| answer.status == 200)
            .await;
    }
}

/// Name, authentication, who may act, what is sent; then the page's status, whether a button is drawn, the action's status.
type Case = (
    &'static str,
    Auth,
    Acting,
    Option<(&'static str, &'static str)>,
    u16,
    bool,
    u16,
);

#[tokio::test]
async fn the_matrix_of_who_may_look_and_act() {
    let folder = tempfile::tempdir().unwrap();
    let header = "authorization";
    let rows: [Case; 17] = [
        ("nobody, reading", Auth::None, Acting::Off, None, 200, false, 403),
        (
            "nobody, acting by name",
            Auth::None,
            Acting::SignedIn,
            None,
            200,
            false,
            403,
        ),
        ("nobody, local", Auth::None, Acting::Local, None, 200, true, 303),
        (
            "a token where none counts",
            Auth::None,
            Acting::SignedIn,
            Some((header, ANNA)),
            200,
            false,
            403,
        ),
        ("no token", tokens(&folder), Acting::SignedIn, None, 401, false, 401),
        (
            "a wrong token",
            tokens(&folder),
            Acting::SignedIn,
            Some((header, "Bearer nobody-0123456789abc")),
            401,
            false,
            401,
        ),
        (
            "half a token",
            tokens(&folder),
            Acting::SignedIn,
            Some((header, "Bearer anna-0123456789")),
            401,
            false,
            401,
        ),
        (
            "another scheme",
            tokens(&folder),
            Acting::SignedIn,
            Some((header, "Basic YTpi")),
            401,
            false,
            401,
        ),
        (
            "anna",
            tokens(&folder),
            Acting::SignedIn,
            Some((header, ANNA)),
            200,
            true,
            303,
        ),
        (
            "anna, reading",
            tokens(&folder),
            Acting::Off,
            Some((header, ANNA)),
            200,
            false,
            403,
        ),
        (
            "anna, who may",
            tokens(&folder),
            Acting::Anna,
            Some((header, ANNA)),
            200,
            true,
            303,
        ),
        (
            "bert, who may not",
            tokens(&folder),
            Acting::Anna,
            Some((header, BERT)),
            200,
            false,
            403,
        ),
        (
            "anna by cookie",
            tokens(&folder),
            Acting::Anna,
            Some(("cookie", "tiebar_token=anna-0123456789abcdef")),
            200,
            true,
            303,
        ),
        (
            "through the proxy",
            proxy("127.0.0.0/8"),
            Acting::SignedIn,
            Some(("x-forwarded-user", "anna")),
            200,
            true,
            303,
        ),
        (
            "past the proxy",
            proxy("10.0.0.0/8"),
            Acting::SignedIn,
            Some(("x-forwarded-user", "anna")),
            403,
            false,
            403,
        ),
        (
            "a proxy without a name",
            proxy("127.0.0.0/8"),
            Acting::SignedIn,
            None,
            403,
            false,
            403,
        ),
        (
            "local does not help past a login",
            tokens(&folder),
            Acting::Local,
            None,
            401,
            false,
            401,
        ),
    ];
    for (name, auth, acting, sent, page, button, action) in rows {
        let bench = Bench::new(auth, acting).await;
        let headers: Vec<(&str, &str)> = sent.into_iter().collect();
        let readable = page == 200;
        // Headers that cannot read cannot wait for the breaker to appear either.
        let waiting: Vec<(&str, &str)> = if readable && headers.is_empty() {
            vec![("accept", "*/*")]
        } else {
            headers.clone()
        };
        with_breaker(&bench, if readable { &waiting } else { &[] }).await;
        let answer = bench.get("/breakers/shop/a", &headers).await;
        assert_eq!(answer.status, page, "{name}: page");
        assert_eq!(answer.body.contains(BUTTON), button, "{name}: button");
        assert_eq!(
            bench.get("/api/v1/breakers", &headers).await.status,
            page,
            "{name}: API"
        );
        assert_eq!(
            bench.get("/events?view=nothing", &headers).await.status,
            if readable { 400 } else { page },
            "{name}: stream"
        );
        let confirmation = bench.get("/act?id=shop/a&do=force_open", &headers).await;
        assert_eq!(
            confirmation.status,
            if action == 303 { 200 } else { action },
            "{name}: confirmation"
        );
        let done = bench.post("/act", &headers, FORM).await;
        assert_eq!(done.status, action, "{name}: action");
        let asked = bench.notes.lock().unwrap().len();
        assert_eq!(asked, usize::from(action == 303), "{name}: what the operator was asked");
        for open in ["/livez", "/metrics"] {
            assert_eq!(bench.get(open, &[]).await.status, 200, "{name}: {open}");
        }
    }
}

#[tokio::test]
async fn after_ten_wrong_tokens_none_is_heard_for_a_while_not_even_the_right_one() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new(tokens(&folder), Acting::SignedIn).await;
    let (api, page) = ("/api/v1/breakers", ("accept", "text/html"));
    let anna = ("authorization", ANNA);
    // One that is forgotten somewhere and tried for ever, and the right one any number of times, use up nothing.
    for _ in 0..50 {
        let forgotten = ("authorization", "Bearer forgotten-0123456789");
        assert_eq!(bench.get(api, &[forgotten]).await.status, 401);
        assert_eq!(bench.get(api, &[anna]).await.status, 200);
    }
    let form = |token: &str| format!("token={token}&next=/history");
    for guess in 1..10 {
        let wrong = format!("Bearer guess-{guess}-0123456789abcdef");
        let refused = if guess % 2 == 0 {
            bench.get(api, &[("authorization", &wrong)]).await
        } else {
            bench.post("/login", &[], &form(&wrong[7..])).await
        };
        assert!(
            [401, 403].contains(&refused.status),
            "guess {guess}: {}",
            refused.status
        );
    }
    let refused = bench.get(api, &[anna]).await;
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert!(
        refused.json()["type"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("/too-many-tokens"))
    );
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=6).contains(&wait), "{wait}");
    let shown = bench.get("/", &[anna, page]).await;
    assert_eq!(
        (shown.status, shown.header("content-type")),
        (429, "text/html; charset=utf-8")
    );
    let login = bench.post("/login", &[], &form("anna-0123456789abcdef")).await;
    assert_eq!(login.status, 429);
    assert!(login.header("retry-after").parse::<u64>().is_ok() && login.header("set-cookie").is_empty());
    assert!(login.body.contains("Try again in"), "{}", login.body);
    // Without a token nothing is guessed: that page still asks for one.
    assert_eq!(bench.get("/", &[page]).await.status, 303);
    // The time said is the time it takes.
    let start = std::time::Instant::now();
    loop {
        let answer = bench.get(api, &[anna]).await;
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 429);
        assert!(start.elapsed().as_secs() < 3 * wait, "still refused");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    println!("heard again after {:?}, {wait} s were said", start.elapsed());
}

#[tokio::test]
async fn a_foreign_page_can_neither_act_nor_read() {
    let bench = Bench::new(Auth::None, Acting::Local).await;
    with_breaker(&bench, &[("accept", "*/*")]).await;
    let form = ("content-type", "application/x-www-form-urlencoded");
    let foreign: [&[(&str, &str)]; 4] = [
        &[form, ("origin", "http://evil.example")],
        &[form, ("origin", "null")],
        &[
            form,
            ("origin", "http://evil.example"),
            ("sec-fetch-site", "cross-site"),
        ],
        &[form, ("origin", "http://127.0.0.1:1"), ("sec-fetch-site", "same-site")],
    ];
    for headers in foreign {
        let answer = bench.send("POST", "/act", headers, FORM).await;
        assert_eq!(answer.status, 403, "{headers:?}");
    }
    for host in [
        "evil.example",
        "127.0.0.1.evil.example:80",
        "localhost.evil.example",
        "",
    ] {
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/api/v1/breakers"),
            ("GET", "/events?view=list"),
            ("POST", "/act"),
        ] {
            let answer = bench.send(method, path, &[("host", host), form], FORM).await;
            assert_eq!(answer.status, 421, "{host} {path}");
            assert!(!answer.body.contains("shop"), "{}", answer.body);
        }
    }
    assert_eq!(bench.get("/", &[("host", "tiebar.example:8443")]).await.status, 200);
    assert!(
        bench.notes.lock().unwrap().is_empty(),
        "nothing was asked of the operator"
    );
}

#[tokio::test]
async fn every_answer_carries_the_browser_s_instructions_and_no_inline_script_or_style() {
    let bench = Bench::new(Auth::None, Acting::Local).await;
    with_breaker(&bench, &[("accept", "*/*")]).await;
    let pages = [
        "/",
        "/breakers/shop/a",
        "/history",
        "/act?id=shop/a&do=reset",
        "/nowhere",
        "/breakers/none",
    ];
    for path in pages.iter().chain(&["/api/v1/breakers", "/api/nothing", "/livez"]) {
        let answer = bench.get(path, &[("accept", "text/html")]).await;
        let policy = answer.header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{path}: {policy}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        for inline in [
            " style=",
            "<style",
            " onclick",
            " onload",
            "javascript:",
            "http-equiv=\"Content",
        ] {
            assert!(!answer.body.contains(inline), "{path} holds {inline}");
        }
        for script in answer.body.split("<script").skip(1) {
            assert!(script.starts_with(" src=\"/assets/"), "{path}: {script}");
        }
    }
}

#[tokio::test]
async fn scripts_in_ids_reasons_and_filters_stay_text() {
    let bench = Bench::new(Auth::None, Acting::Local).await;
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
    let fleet = Fleet::new(std::sync::Arc::clone(&bench.store) as _);
    let spec = serde_json::json!({
        "override": {"state": "ForcedOpen", "reason": evil},
        "notes": {"runbook": "javascript:alert(1)", "owner": evil},
    });
    let forced = Some(Override {
        open: true,
        expires_at: 0,
    });
    fleet
        .programme("shop/a", &spec.to_string(), Policy::default(), forced)
        .await;
    let mut beats = Fleet::new(std::sync::Arc::clone(&bench.store) as _);
    beats
        .beat("shop/a", "one<script>", |beat| beat.state = "<script>open".to_owned())
        .await;
    bench
        .until("/breakers/shop/a", &[], |answer| answer.body.contains("one&#60;script"))
        .await;
    let encoded = "%3Cscript%3Ealert(1)%3C/script%3E%22";
    let paths = [
        "/".to_owned(),
        format!("/?q={encoded}&ns={encoded}&state={encoded}&sort={encoded}&page={encoded}"),
        "/breakers/shop/a".to_owned(),
        format!("/breakers/{encoded}"),
        format!("/history?q={encoded}"),
        format!("/act?id=shop/a&do=force_closed&reason={encoded}&expires={encoded}"),
        format!("/act?id={encoded}&do=reset"),
        format!("/breakers/shop/a?done={encoded}"),
    ];
    for path in paths {
        let answer = bench.get(&path, &[("accept", "text/html")]).await;
        assert!(answer.status < 500, "{path}: {}", answer.status);
        for raw in ["<script>", "<img", "href=\"javascript:", "\"'>"] {
            assert!(!answer.body.contains(raw), "{path} holds {raw}");
        }
    }
    let posted = format!("id=shop/a&do=force_closed&reason={encoded}&expires=5m");
    assert_eq!(bench.post("/act", &[], &posted).await.status, 303);
    let notes = bench.notes.lock().unwrap().clone();
    let body: serde_json::Value = serde_json::from_str(&notes[0].2).expect("JSON, whatever was typed");
    assert_eq!(body["reason"], "<script>alert(1)</script>\"");
    assert_eq!(notes[0].1, "/breakers/shop/a/override");
}

#[tokio::test]
async fn what_is_too_big_or_malformed_is_refused_in_one_clear_answer() {
    let bench = Bench::new(Auth::None, Acting::Local).await;
    with_breaker(&bench, &[("accept", "*/*")]).await;
    let long = "x".repeat(20_000);
    assert_eq!(
        bench
            .post("/act", &[], &format!("id=shop/a&reason={long}"))
            .await
            .status,
        413
    );
    for (form, status) in [
        ("id=shop/a&do=explode&reason=x&expires=5m", 400),
        ("id=shop/b&do=reset&reason=x", 404),
        ("id=../../etc&do=reset&reason=x", 404),
        ("id=shop/a&do=force_open&reason=&expires=5m", 422),
        ("id=shop/a&do=force_open&reason=x&expires=1000000h", 422),
        ("id=shop/a&do=force_open&reason=a%0Ab&expires=5m", 422),
    ] {
        let answer = bench.post("/act", &[], form).await;
        assert_eq!(answer.status, status, "{form}");
    }
    assert!(
        bench.notes.lock().unwrap().is_empty(),
        "nothing was asked of the operator"
    );
    assert!(id("shop/a").as_str() == "shop/a");
}
