//! The same flows as in a browser, without a script: links, forms, redirects. And the JSON against its description.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/mod.rs"]
mod support;

use bench::{Acting, Bench};
use std::sync::Arc;
use support::Fleet;
use tiebar::policy::Policy;
use ui::Auth;

async fn gallery() -> Bench {
    let bench = Bench::new(Auth::None, Acting::Local).await;
    let mut fleet = Fleet::new(Arc::clone(&bench.store) as _);
    fleet.seed().await;
    bench
        .until("/", &[], |answer| {
            answer.body.contains("Ramping up") && answer.body.contains("isolated")
        })
        .await;
    bench
}

/// The ids of a list's rows, in order.
fn ids(page: &str) -> Vec<&str> {
    let rows = page.split("data-id=\"").skip(1);
    rows.map(|row| row.split('"').next().unwrap_or_default()).collect()
}

#[tokio::test]
async fn the_list_shows_every_state_worst_first_and_filters_by_address() {
    let bench = gallery().await;
    let page = bench.get("/", &[]).await.body;
    for told in [
        "Open",
        "Half-open",
        "Forced open",
        "Forced closed",
        "Would be open",
        "Ramping up",
        "Closed",
        "Disabled",
        "No calls yet",
        "CHG-4711",
        "lapses in",
        "until somebody clears it",
        "3 of 5 back",
        "1 isolated",
        "1 alone",
        "1 outdated",
        "<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>",
    ] {
        assert!(page.contains(told), "the list does not say {told}");
    }
    let all = ids(&page);
    assert_eq!(all[..3], ["shop/inventory", "shop/recommendations", "shop/payments"]);
    let of = async |path: &str| {
        let page = bench.get(path, &[]).await.body;
        ids(&page).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("/?state=open").await, ["shop/inventory", "shop/recommendations"]);
    assert_eq!(of("/?state=forced&sort=name").await, ["shop/images", "shop/orders"]);
    assert_eq!(of("/?ns=-").await, ["unreliable_service"]);
    assert_eq!(of("/?q=PAY").await, ["shop/payments"]);
    assert!(of("/?q=nothing-like-it").await.is_empty());
    let mut sorted = all.clone();
    sorted.sort_unstable();
    assert_eq!(of("/?sort=name").await, sorted);
    assert_eq!(
        of("/?sort=nonsense&page=99999999999999999999").await,
        all,
        "nonsense is no filter"
    );
}

#[tokio::test]
async fn a_breaker_s_page_answers_what_since_when_why_who_and_what_next() {
    let bench = gallery().await;
    let page = bench.get("/breakers/shop/inventory", &[]).await.body;
    for told in [
        "Every call is rejected at once",
        "Failure rate at its threshold",
        "calls failed",
        "503 ×",
        "up to 5 probes may pass",
        "href=\"https://runbooks.example/inventory\"",
        "team warehouse",
        "kubectl -n shop",
        "tiebar-operator explain shop/inventory",
        "class=\"default\"",
        "FailureRateExceeded",
    ] {
        assert!(page.contains(told), "the page does not say {told}");
    }
    let few = bench.get("/breakers/infra/quota", &[]).await;
    assert_eq!(few.status, 200);
    let probing = bench.get("/breakers/shop/payments", &[]).await.body;
    assert!(probing.contains("3 of 5 back, 2 out"), "{probing}");
    assert_eq!(bench.get("/breakers/shop/none", &[]).await.status, 404);
    let history = bench.get("/history", &[]).await.body;
    assert!(history.contains("opened first") && history.contains("Every transition"));
    // What was only observed is not told as if calls had been rejected.
    let history = bench.get("/history?q=infra/dns", &[]).await.body;
    for told in [
        "infra/dns would have opened first",
        "observed only",
        "<path class=\"shadow-open\"",
        "<span>Would be open</span>",
    ] {
        assert!(history.contains(told), "the history does not say {told}: {history}");
    }
    assert!(!history.contains("<path class=\"open\""), "{history}");
    let page = bench.get("/breakers/infra/dns", &[]).await.body;
    assert!(page.contains("<span>Would be open</span></span><p><b>"), "{page}");
}

#[tokio::test]
async fn too_few_calls_are_said_in_words() {
    let bench = Bench::new(Auth::None, Acting::Off).await;
    let mut fleet = Fleet::new(Arc::clone(&bench.store) as _);
    fleet.programme("a", "{}", Policy::default(), None).await;
    fleet.calls("a", "one", 4, 3, 0).await;
    let page = bench
        .until("/breakers/a", &[], |answer| answer.body.contains("of 20"))
        .await
        .body;
    assert!(page.contains("Not enough calls yet (7 of 20)"), "{page}");
    assert!(bench.get("/", &[]).await.body.contains("7 of 20 calls"));
}

#[tokio::test]
async fn an_action_is_confirmed_by_name_and_effect_and_goes_to_the_operator() {
    let bench = gallery().await;
    let asked = "/act?id=shop%2Finventory&do=force_closed&reason=INC-7&expires=15m";
    let confirmation = bench.get(asked, &[]).await.body;
    for told in [
        "Force closed <b>shop/inventory</b>?",
        "let every call to shop/inventory through",
        "INC-7",
        "UTC",
        "the operator at",
    ] {
        assert!(confirmation.contains(told), "the confirmation does not say {told}");
    }
    assert!(bench.notes.lock().unwrap().is_empty(), "asking does nothing");
    let form = "id=shop%2Finventory&do=force_closed&reason=INC-7&expires=15m";
    let done = bench.post("/act", &[], form).await;
    assert_eq!(
        (done.status, done.header("location")),
        (303, "/breakers/shop/inventory?done=force_closed")
    );
    assert!(
        bench
            .get(done.header("location"), &[])
            .await
            .body
            .contains("Asked for: force closed")
    );
    for (verb, reason) in [("clear", "over"), ("reset", "fixed")] {
        let form = format!("id=shop/inventory&do={verb}&reason={reason}");
        assert_eq!(bench.post("/act", &[], &form).await.status, 303, "{verb}");
    }
    let notes = bench.notes.lock().unwrap().clone();
    let calls: Vec<(&str, &str)> = notes
        .iter()
        .map(|(method, path, _)| (method.as_str(), path.as_str()))
        .collect();
    assert_eq!(
        calls,
        [
            ("PUT", "/breakers/shop/inventory/override"),
            ("DELETE", "/breakers/shop/inventory/override"),
            ("POST", "/breakers/shop/inventory/reset"),
        ]
    );
    let body: serde_json::Value = serde_json::from_str(&notes[0].2).unwrap();
    assert_eq!(
        (&body["state"], &body["reason"]),
        (&"ForcedClosed".into(), &"INC-7".into())
    );
    assert!(
        body["expireTime"].as_str().is_some_and(|time| time.ends_with('Z')),
        "{body}"
    );

    let missing = bench
        .post("/act", &[], "id=shop/inventory&do=force_open&reason=&expires=5m")
        .await;
    assert_eq!(missing.status, 422);
    assert!(missing.body.contains("role=\"alert\"") && missing.body.contains("A reason is required"));
}

#[tokio::test]
async fn a_refusal_of_the_operator_is_shown_and_nothing_claims_success() {
    let bench = Bench::new(Auth::None, Acting::Local).await;
    let fleet = Fleet::new(Arc::clone(&bench.store) as _);
    fleet.programme("refused", "{}", Policy::default(), None).await;
    bench
        .until("/breakers/refused", &[], |answer| answer.status == 200)
        .await;
    let answer = bench.post("/act", &[], "id=refused&do=reset&reason=x").await;
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("Nothing was done") && answer.body.contains("somebody else holds it"));
}

#[tokio::test]
async fn one_signs_in_by_form_and_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "anna anna-0123456789abcdef\n").unwrap();
    let bench = Bench::new(Auth::Token(file.clone()), Acting::SignedIn).await;
    let browser = ("accept", "text/html");
    let sent = bench.get("/history?q=a", &[browser]).await;
    assert_eq!(
        (sent.status, sent.header("location")),
        (303, "/login?next=%2Fhistory%3Fq%3Da")
    );
    let wrong = bench
        .post("/login", &[browser], "token=anna-0123456789abcdeX&next=/")
        .await;
    assert_eq!(wrong.status, 403);
    assert!(
        wrong.body.contains("not known") && !wrong.body.contains("abcdeX"),
        "the token is not repeated"
    );
    let right = bench
        .post("/login", &[browser], "token=anna-0123456789abcdef&next=//evil.example")
        .await;
    assert_eq!((right.status, right.header("location")), (303, "/"));
    let cookie = right.header("set-cookie").to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    let pair = cookie.split(';').next().unwrap();
    let page = bench.get("/", &[browser, ("cookie", pair)]).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<span>anna</span>") && !page.body.contains("0123456789abcdef"));
    let out = bench.post("/logout", &[browser, ("cookie", pair)], "").await;
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    // A token that is taken out of the file is worth nothing at once.
    std::fs::write(&file, "bert bert-0123456789abcdef\n").unwrap();
    assert_eq!(bench.get("/", &[browser, ("cookie", pair)]).await.status, 303);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_shown_as_such_and_the_past_as_past() {
    let bench = gallery().await;
    bench.store.set_reachable(false);
    let page = bench
        .until("/", &[], |answer| answer.body.contains("The store does not answer"))
        .await
        .body;
    assert!(page.contains("class=\"bar stale\"") && page.contains("shop/inventory"));
    let list = bench.get("/api/v1/breakers", &[]).await.json();
    assert_eq!(list["storeUp"], false);
    assert_eq!(
        bench.get("/readyz", &[]).await.status,
        200,
        "an outage is something to show"
    );
    bench.store.set_reachable(true);
    bench
        .until("/", &[], |answer| answer.body.contains("Store answers"))
        .await;
}

#[tokio::test]
async fn the_answers_are_as_described() {
    let bench = gallery().await;
    let description = bench.get("/api/openapi.json", &[]).await.json();
    let mut checked = 0;
    let mut check = |schema: &str, value: &serde_json::Value| {
        let whole = serde_json::json!({
            "allOf": [{"$ref": format!("#/components/schemas/{schema}")}],
            // What is not described may not be there.
            "unevaluatedProperties": false,
            "components": description["components"],
        });
        let validator = jsonschema::draft202012::new(&whole).expect("a schema");
        let errors: Vec<String> = validator.iter_errors(value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{schema}: {errors:?} in {value}");
        checked += 1;
    };
    let list = bench.get("/api/v1/breakers", &[]).await.json();
    check("BreakerList", &list);
    let items = list["items"].as_array().expect("items");
    assert_eq!(items.len(), 22);
    for item in items {
        check("Summary", item);
        let (namespace, name) = (item["namespace"].as_str().unwrap(), item["name"].as_str().unwrap());
        let path = format!("/api/v1/namespaces/{namespace}/breakers/{name}");
        let detail = bench.get(&path, &[]).await.json();
        check("BreakerDetail", &detail);
        for (part, schema) in [
            ("members", "MemberOut"),
            ("settings", "SettingOut"),
            ("causes", "CauseOut"),
        ] {
            detail[part]
                .as_array()
                .expect("a list")
                .iter()
                .for_each(|item| check(schema, item));
        }
        let incident = bench.get(&format!("{path}/events"), &[]).await.json();
        check("Incident", &incident);
        incident["items"]
            .as_array()
            .expect("items")
            .iter()
            .for_each(|item| check("Transition", item));
    }
    for (path, status) in [
        ("/api/v1/namespaces/shop/breakers/none", 404),
        ("/api/v1/namespaces/SHOP/breakers/none", 400),
        ("/api/v2", 404),
    ] {
        let answer = bench.get(path, &[]).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, "application/problem+json"),
            "{path}"
        );
        check("Problem", &answer.json());
    }
    assert!(checked > 300, "{checked} answers checked");
    let file = bench
        .get("/api/v1/namespaces/shop/breakers/inventory/events?download=1", &[])
        .await;
    assert_eq!(
        file.header("content-disposition"),
        "attachment; filename=\"incident-shop-inventory.json\""
    );
}
