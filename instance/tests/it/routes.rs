//! Several services behind one port, from a file that changes.

use crate::support::client::{full, get, request, send};
use crate::support::upstream::{stub, text};
use crate::support::{ID, PATIENT, Proxy, eventually};
use std::path::Path;

async fn named(name: &'static str) -> crate::support::upstream::Stub {
    stub(move |request| async move { text(200, &format!("{name} {}", request.uri())) }).await
}

fn write(file: &Path, text: &str) {
    // In one step, as a ConfigMap changes.
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, file).unwrap();
}

#[tokio::test]
async fn the_longest_prefix_wins_and_a_bad_edit_changes_nothing() {
    let (one, two) = (named("one").await, named("two").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.yaml");
    write(
        &file,
        &format!(
            "- {{service: {ID}, upstream: '{one}', pathPrefix: /api}}\n- {{service: shop/two, upstream: '{two}', pathPrefix: /api/two, stripPrefix: true}}\n- {{service: shop/host, upstream: '{two}', host: orders.shop}}\n",
            one = one.url,
            two = two.url
        ),
    );
    let path = file.clone();
    let proxy = Proxy::start_with(PATIENT, "http://unused", move |settings| {
        settings.routes.clear();
        settings.routes_file = Some(path);
    })
    .await;
    for (path, wanted) in [
        ("/api", "one /api"),
        ("/api/x?y", "one /api/x?y"),
        ("/api/two", "two /"),
        ("/api/two/x?y=z", "two /x?y=z"),
        ("/api/twofold", "one /api/twofold"),
    ] {
        assert_eq!(get(proxy.traffic, path).await.text(), wanted, "{path}");
    }
    let none = get(proxy.traffic, "/other").await;
    assert_eq!(
        (none.status.as_u16(), none.header("x-circuit-state")),
        (404, "unconfigured")
    );
    let mut hosted = request("GET", "/other").body(full("")).unwrap();
    hosted
        .headers_mut()
        .insert("host", http::HeaderValue::from_static("Orders.Shop:8001"));
    assert_eq!(send(proxy.traffic, hosted).await.text(), "two /other");

    write(&file, "- {service: x, upstream: nonsense}\n");
    let good = format!("- {{service: {ID}, upstream: '{}', pathPrefix: /}}\n", two.url);
    // The bad edit has been looked at when the next one is: files are looked at in order.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(
        get(proxy.traffic, "/api").await.text(),
        "one /api",
        "the good routes stay"
    );
    write(&file, &good);
    let started = std::time::Instant::now();
    eventually("the new routes", async || {
        (get(proxy.traffic, "/api").await.text() == "two /api").then_some(())
    })
    .await;
    println!("new routes after {:?}", started.elapsed());
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(
        get(proxy.traffic, "/api").await.text(),
        "two /api",
        "a file that is gone changes nothing"
    );
}

#[tokio::test]
async fn a_bare_id_takes_the_namespace() {
    let one = named("one").await;
    let proxy = Proxy::start_with(PATIENT, &one.url, |settings| {
        settings.routes[0].service = "inventory".to_owned();
        settings.namespace = Some("shop".to_owned());
    })
    .await;
    assert_eq!(get(proxy.traffic, "/").await.header("x-circuit-state"), "closed");
}

#[tokio::test]
async fn a_guard_ends_with_its_last_route_and_its_last_call_and_can_come_back() {
    let (release, released) = tokio::sync::watch::channel(false);
    let upstream = stub(move |request| {
        let mut released = released.clone();
        async move {
            if request.uri().path() == "/two/wait" {
                let _ = released.wait_for(|released| *released).await;
            }
            text(200, "fine")
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.yaml");
    let one = format!("- {{service: {ID}, upstream: '{}', pathPrefix: /one}}\n", upstream.url);
    let two = format!(
        "- {{service: shop/two, upstream: '{}', pathPrefix: /two}}\n",
        upstream.url
    );
    write(&file, &format!("{one}{two}"));
    let path = file.clone();
    let proxy = Proxy::start_with(PATIENT, "http://unused", move |settings| {
        settings.routes.clear();
        settings.routes_file = Some(path);
    })
    .await;
    let ids = async || -> Vec<String> {
        let all = proxy.admin("/breakers").await.json();
        let items = all["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids().await, [ID, "shop/two"]);
    let mut sender = crate::support::client::http1(proxy.traffic).await;
    let running = tokio::spawn(async move {
        let request = request("GET", "/two/wait").body(full("")).unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    });
    eventually("the call", async || (upstream.count() == 1).then_some(())).await;

    write(&file, &one);
    eventually("the route's end", async || {
        (get(proxy.traffic, "/two").await.status == 404).then_some(())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(ids().await, [ID, "shop/two"], "a call is still running");
    release.send(true).unwrap();
    assert_eq!(crate::support::soon("the answer", running).await.unwrap(), 200);
    eventually("the guard's end", async || (ids().await == [ID]).then_some(())).await;
    let metrics = proxy.metrics().await;
    assert!(!metrics.contains("shop/two"), "{metrics}");

    write(&file, &format!("{one}{two}"));
    eventually("the route again", async || {
        (get(proxy.traffic, "/two").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(ids().await, [ID, "shop/two"]);
}
