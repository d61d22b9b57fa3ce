//! Tokens, rights and actions on Kubernetes, against an API server that keeps one resource and takes notes.
#![cfg(feature = "kubernetes")]

#[path = "support/bench.rs"]
mod bench;
#[path = "support/mod.rs"]
mod support;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Json;
use bench::{Acting, Bench};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use support::Fleet;
use tiebar::policy::Policy;
use ui::{Actions, Auth, Kubernetes};

type Notes = Arc<Mutex<Vec<(String, String, Value)>>>;

/// What an API server answers: anna and bert have tokens, anna may patch `the-inventory`, which serves `inventory`.
async fn answer(State(notes): State<Notes>, request: Request) -> (StatusCode, Json<Value>) {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let body = axum::body::to_bytes(request.into_body(), 65_536)
        .await
        .expect("a small body");
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    notes.lock().unwrap().push((method.clone(), path.clone(), body.clone()));
    let resource = json!({
        "apiVersion": "tiebar.dev/v1alpha1", "kind": "CircuitBreaker",
        "metadata": {"name": "the-inventory", "namespace": "shop", "uid": "7", "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": {"serviceName": "inventory"},
    });
    let of = "/apis/tiebar.dev/v1alpha1/namespaces/shop/circuitbreakers";
    match (method.as_str(), path.as_str()) {
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews") => {
            let known = ["anna", "bert"]
                .into_iter()
                .find(|name| body["spec"]["token"] == format!("token-of-{name}"));
            let status = match known {
                Some(name) => json!({"authenticated": true, "user": {"username": name, "groups": ["oncall"]}}),
                None => json!({"authenticated": false}),
            };
            let answer = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status});
            (StatusCode::CREATED, Json(answer))
        }
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews") => {
            let spec = &body["spec"];
            let wanted = json!({"group": "tiebar.dev", "resource": "circuitbreakers", "verb": "patch", "namespace": "shop", "name": "the-inventory"});
            let allowed =
                spec["user"] == "anna" && spec["groups"] == json!(["oncall"]) && spec["resourceAttributes"] == wanted;
            let answer = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": {}, "status": {"allowed": allowed}});
            (StatusCode::CREATED, Json(answer))
        }
        ("GET", path) if path == of => {
            let list = json!({"apiVersion": "tiebar.dev/v1alpha1", "kind": "CircuitBreakerList", "metadata": {}, "items": [resource]});
            (StatusCode::OK, Json(list))
        }
        ("PATCH", path) if path == format!("{of}/the-inventory") => (StatusCode::OK, Json(resource)),
        ("POST", path) if path.ends_with("/events") => (StatusCode::CREATED, Json(body)),
        _ => {
            let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no"});
            (StatusCode::NOT_FOUND, Json(status))
        }
    }
}

async fn cluster() -> (Kubernetes, Notes) {
    let (notes, listener) = (
        Notes::default(),
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&notes));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    (Kubernetes::new(kube::Client::try_from(config).unwrap()), notes)
}

#[tokio::test]
async fn tokens_are_reviewed_rights_are_asked_for_and_actions_patch_the_resource_and_leave_an_event() {
    let (cluster, notes) = cluster().await;
    let bench = Bench::acting(
        Auth::Review(cluster.clone()),
        Actions::Kubernetes(cluster),
        Acting::Off,
        10,
    )
    .await;
    let fleet = Fleet::new(Arc::clone(&bench.store) as _);
    for name in ["shop/inventory", "shop/other", "bare"] {
        fleet.programme(name, "{}", Policy::default(), None).await;
    }
    let (anna, bert) = (
        ("authorization", "Bearer token-of-anna"),
        ("authorization", "Bearer token-of-bert"),
    );
    let drawn = |answer: &bench::Answer| answer.body.contains("value=\"force_open\"");
    let page = bench
        .until("/breakers/shop/inventory", &[anna], |answer| answer.status == 200)
        .await;
    assert!(drawn(&page), "anna may");
    assert!(
        !drawn(&bench.get("/breakers/shop/inventory", &[bert]).await),
        "bert may not"
    );
    for other in ["shop/other", "bare"] {
        assert!(
            !drawn(&bench.get(&format!("/breakers/{other}"), &[anna]).await),
            "{other} has no resource"
        );
    }
    assert_eq!(
        bench
            .get("/", &[("authorization", "Bearer token-of-nobody")])
            .await
            .status,
        401
    );
    let reviews = notes
        .lock()
        .unwrap()
        .iter()
        .filter(|note| note.1.ends_with("tokenreviews"))
        .count();
    assert!(
        reviews <= 4,
        "a token is reviewed once for a while, not {reviews} times"
    );

    let form = "id=shop/inventory&do=force_open&reason=CHG-9&expires=5m";
    assert_eq!(bench.post("/act", &[bert], form).await.status, 403);
    let written = |notes: &Notes| -> Vec<(String, String, Value)> {
        let notes = notes.lock().unwrap().clone();
        notes
            .into_iter()
            .filter(|note| note.0 == "PATCH" || note.1.ends_with("/events"))
            .collect()
    };
    assert!(written(&notes).is_empty(), "bert wrote nothing");
    assert_eq!(bench.post("/act", &[anna], form).await.status, 303);
    assert_eq!(
        bench
            .post("/act", &[anna], "id=shop/inventory&do=clear&reason=over")
            .await
            .status,
        303
    );
    assert_eq!(
        bench
            .post("/act", &[anna], "id=shop/inventory&do=reset&reason=fixed")
            .await
            .status,
        303
    );
    let written = written(&notes);
    let patches: Vec<&Value> = written
        .iter()
        .filter(|note| note.0 == "PATCH")
        .map(|note| &note.2)
        .collect();
    let forced = &patches[0]["spec"]["override"];
    assert_eq!(
        (&forced["state"], &forced["reason"]),
        (&json!("ForcedOpen"), &json!("CHG-9 (anna)"))
    );
    assert!(forced["expireTime"].is_string(), "{forced}");
    assert_eq!(*patches[1], json!({"spec": {"override": null}}));
    assert!(patches[2]["metadata"]["annotations"]["tiebar.dev/reset-requested-at"].is_string());
    let events: Vec<&Value> = written
        .iter()
        .filter(|note| note.0 == "POST")
        .map(|note| &note.2)
        .collect();
    assert_eq!(events.len(), 3);
    assert_eq!(events[0]["reason"], "ForcedOpenByHand");
    assert!(
        events[0]["note"]
            .as_str()
            .is_some_and(|note| note.starts_with("anna: CHG-9, until ")),
        "{}",
        events[0]
    );
}
