//! Actions on a real API server: people by their service accounts' tokens, the dashboard with the rights the chart gives
//! it, and an operator that carries out what was written.
#![cfg(feature = "kubernetes")]

#[path = "support/bench.rs"]
mod bench;
#[path = "support/mod.rs"]
mod support;

use bench::{Acting, Answer, Bench};
use crds::testing::ApiServer;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiebar::redis::{KeyStyle, Keys};
use ui::{Actions, Auth, Kubernetes};

/// Long enough for anything on a busy machine that has no promise of its own.
const SOON: Duration = Duration::from_secs(60);
/// The dashboard's rights, as charts/tiebar/templates/ui-rbac.yaml has them; anna's come by the group of her namespace,
/// bert has none, and carl's are for one resource.
const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reviewer}
rules:
  - {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
  - {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reviewer-NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reviewer}
subjects: [{kind: ServiceAccount, name: tiebar-ui, namespace: NS}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tiebar-ui, namespace: NS}
rules:
  - {apiGroups: [tiebar.dev], resources: [circuitbreakers], verbs: [get, list, patch]}
  - {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tiebar-ui, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tiebar-ui}
subjects: [{kind: ServiceAccount, name: tiebar-ui, namespace: NS}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: oncall, namespace: NS}
rules: [{apiGroups: [tiebar.dev], resources: [circuitbreakers], verbs: [patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: oncall, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: oncall}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:serviceaccounts:NS-oncall'}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: one, namespace: NS}
rules: [{apiGroups: [tiebar.dev], resources: [circuitbreakers], resourceNames: [prices], verbs: [patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: one, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: one}
subjects: [{kind: ServiceAccount, name: carl, namespace: NS}]
";

/// A namespace with breakers, people, a dashboard and an operator.
struct Town {
    server: &'static ApiServer,
    namespace: &'static str,
    bench: Bench,
    operator: tokio::task::JoinHandle<()>,
}

impl Drop for Town {
    fn drop(&mut self) {
        self.operator.abort();
    }
}

async fn client(kubeconfig: &std::path::Path, namespace: &str) -> kube::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let text = std::fs::read_to_string(kubeconfig).expect("a kubeconfig");
    let config = kube::config::Kubeconfig::from_yaml(&text).expect("a kubeconfig");
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await;
    let mut config = config.expect("a configuration");
    namespace.clone_into(&mut config.default_namespace);
    kube::Client::try_from(config).expect("a client")
}

impl Town {
    async fn new(namespace: &'static str) -> Self {
        let server = ApiServer::shared();
        server.namespace(namespace);
        server.namespace(&format!("{namespace}-oncall"));
        let rights = RIGHTS.replace("NS", namespace);
        let _ = server
            .kubectl_input(&["apply", "--server-side", "-f", "-"], &rights)
            .expect_ok("rights");
        let oncall = format!("{namespace}-oncall");
        for (name, home) in [
            ("tiebar-ui", namespace),
            ("anna", &oncall),
            ("bert", namespace),
            ("carl", namespace),
        ] {
            let made = server.kubectl(&["create", "serviceaccount", name, "-n", home]);
            let _ = made.expect_ok("an account");
        }
        let token = token_of(server, "tiebar-ui", namespace);
        let account = server.kubeconfig_with(namespace, &token);
        let cluster = Kubernetes::new(client(&account, namespace).await);
        let actions = Actions::Kubernetes(cluster.clone());
        let bench = Bench::acting(Auth::Review(cluster), actions, Acting::Off, 10).await;
        let settings = operator::cluster::Settings {
            listen: "127.0.0.1:0".to_owned(),
            namespaces: vec![namespace.to_owned()],
            cluster_id: Some(namespace.to_owned()),
            kube_qps: 200,
            keys: Keys::new("cb:", KeyStyle::Plain),
            pace: 1,
        };
        // What the operator may do is shown by its own tests.
        let admin = client(&server.kubeconfig(), namespace).await;
        let operator = operator::cluster::Cluster::with_client(admin, Arc::clone(&bench.store) as _, settings).await;
        let operator = operator.expect("a free port");
        let operator = tokio::spawn(async move { operator.run(std::future::pending()).await.expect("runs") });
        Self {
            server,
            namespace,
            bench,
            operator,
        }
    }

    /// The header by which somebody says who it is.
    fn sign(&self, name: &str, home: &str) -> String {
        format!("Bearer {}", token_of(self.server, name, home))
    }

    fn anna(&self) -> String {
        self.sign("anna", &format!("{}-oncall", self.namespace))
    }

    fn apply(&self, name: &str, spec: &str, arguments: &[&str]) -> crds::testing::Said {
        let namespace = self.namespace;
        let text = format!(
            "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        );
        let arguments = [&["apply", "-f", "-"], arguments].concat();
        self.server.kubectl_input(&arguments, &text)
    }

    fn kubectl(&self, arguments: &[&str]) -> crds::testing::Said {
        self.server.kubectl(&[&["-n", self.namespace], arguments].concat())
    }

    fn resource(&self, name: &str) -> Value {
        let said = self.kubectl(&["get", "cb", name, "-o", "json", "--show-managed-fields"]);
        serde_json::from_str(&said.out).unwrap_or_default()
    }

    /// Waits until a resource is as it should be.
    async fn until(&self, name: &str, what: &str, within: Duration, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let resource = self.resource(name);
            if is_so(&resource) {
                println!("{}/{name}: {what} after {:?}", self.namespace, begun.elapsed());
                return resource;
            }
            assert!(
                begun.elapsed() < within,
                "{name}: {what}: not within {within:?}: {resource:#}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reason and note of the events that people caused.
    fn events(&self, name: &str) -> Vec<(String, String)> {
        let said = self.kubectl(&["get", "events.events.k8s.io", "-o", "json"]);
        let list: Value = serde_json::from_str(&said.out).unwrap_or_default();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let mine = items
            .iter()
            .filter(|item| item["regarding"]["name"] == name && item["reportingController"] == "tiebar-ui");
        let text = |item: &Value, field: &str| item[field].as_str().unwrap_or_default().to_owned();
        mine.map(|item| (text(item, "reason"), text(item, "note"))).collect()
    }

    fn page(&self, name: &str) -> String {
        format!("/breakers/{}/{name}", self.namespace)
    }

    /// Waits until the dashboard knows a breaker.
    async fn shown(&self, name: &str, who: &str) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.bench.get(&self.page(name), &[("authorization", who)]).await;
            if answer.status == 200 {
                return answer;
            }
            assert!(
                begun.elapsed() < SOON,
                "{name} is not shown: {} {}",
                answer.status,
                answer.body
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn act(&self, who: &str, name: &str, order: &str) -> Answer {
        let form = format!("id={}/{name}&{order}", self.namespace);
        self.bench.post("/act", &[("authorization", who)], &form).await
    }
}

fn token_of(server: &ApiServer, name: &str, home: &str) -> String {
    let said = server.kubectl(&["create", "token", name, "-n", home, "--duration", "1h"]);
    said.expect_ok("a token").trim().to_owned()
}

fn has_buttons(answer: &Answer) -> bool {
    answer.body.contains("<form class=\"act\"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_patch_acts_and_the_operator_makes_it_so() {
    let town = Town::new("acts").await;
    // Its name is not the service's.
    let _ = town
        .apply("the-inventory", "{serviceName: inventory}", &[])
        .expect_ok("applied");
    let anna = town.anna();
    assert!(has_buttons(&town.shown("inventory", &anna).await), "anna may");
    let mut fleet = support::Fleet::new(Arc::clone(&town.bench.store) as _);
    fleet.calls("acts/inventory", "one", 1, 0, 0).await;
    let done = town
        .act(&anna, "inventory", "do=force_open&reason=CHG-9&expires=10m")
        .await;
    assert_eq!(
        (done.status, done.header("location")),
        (303, "/breakers/acts/inventory?done=force_open"),
        "{}",
        done.body
    );
    let resource = town.resource("the-inventory");
    let forced = &resource["spec"]["override"];
    assert_eq!(forced["state"], "ForcedOpen");
    assert_eq!(forced["reason"], "CHG-9 (system:serviceaccount:acts-oncall:anna)");
    assert!(forced["expireTime"].is_string(), "{forced}");
    // Written by the dashboard's own account after the review, never in the person's name.
    let managers: Vec<&str> = resource["metadata"]["managedFields"]
        .as_array()
        .expect("managers")
        .iter()
        .filter_map(|manager| manager["manager"].as_str())
        .collect();
    assert!(managers.contains(&"tiebar-ui"), "{managers:?}");
    let own = town
        .server
        .kubeconfig_with("acts", &token_of(town.server, "tiebar-ui", "acts"));
    for (arguments, may) in [
        (["patch", "circuitbreakers.tiebar.dev"], "yes"),
        (["impersonate", "users"], "no"),
        (["delete", "circuitbreakers.tiebar.dev"], "no"),
        (["get", "secrets"], "no"),
    ] {
        let arguments = [&["auth", "can-i", "-n", "acts"], &arguments[..]].concat();
        let said = town.server.kubectl_with(&own, &arguments, "");
        assert_eq!(said.out.trim(), may, "the dashboard: {arguments:?}");
    }
    let events = town.events("the-inventory");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].0, "ForcedOpenByHand");
    assert!(
        events[0]
            .1
            .starts_with("system:serviceaccount:acts-oncall:anna: CHG-9, until "),
        "{events:?}"
    );
    // Promised within two seconds, waited for three times as long.
    town.until("the-inventory", "forced open", Duration::from_secs(6), |it| {
        it["status"]["state"] == "ForcedOpen"
    })
    .await;
    let shown = |word: &'static str| move |answer: &Answer| answer.body.contains(word);
    let headers = [("authorization", anna.as_str())];
    town.bench
        .until(&town.page("inventory"), &headers, shown("<span>Forced open</span>"))
        .await;

    assert_eq!(town.act(&anna, "inventory", "do=clear&reason=over").await.status, 303);
    assert!(town.resource("the-inventory")["spec"]["override"].is_null());
    town.until("the-inventory", "open and due", Duration::from_secs(6), |it| {
        it["status"]["state"] == "Open"
    })
    .await;
    assert_eq!(town.act(&anna, "inventory", "do=reset&reason=fixed").await.status, 303);
    town.until("the-inventory", "closed", Duration::from_secs(6), |it| {
        it["status"]["state"] == "Closed"
            && it["status"]["lastHandledReset"] == it["metadata"]["annotations"]["tiebar.dev/reset-requested-at"]
    })
    .await;
    let reasons: Vec<String> = town.events("the-inventory").into_iter().map(|event| event.0).collect();
    for reason in ["ForcedOpenByHand", "OverrideClearedByHand", "ResetByHand"] {
        assert!(reasons.iter().any(|found| found == reason), "{reasons:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_patch_sees_no_button_and_is_refused() {
    let town = Town::new("refused").await;
    for name in ["inventory", "prices"] {
        let _ = town.apply(name, "{}", &[]).expect_ok("applied");
    }
    let (bert, carl) = (town.sign("bert", "refused"), town.sign("carl", "refused"));
    let order = "do=force_open&reason=CHG-9&expires=10m";
    for (who, token, name, may) in [
        ("bert", &bert, "inventory", false),
        ("carl", &carl, "inventory", false),
        ("carl", &carl, "prices", true),
    ] {
        let page = town.shown(name, token).await;
        assert_eq!(has_buttons(&page), may, "{who} {name}: buttons");
        let before = town.resource(name)["metadata"]["generation"].clone();
        let confirmation = format!("/act?id=refused/{name}&{order}");
        let asked = town.bench.get(&confirmation, &[("authorization", token)]).await;
        assert_eq!(asked.status, if may { 200 } else { 403 }, "{who} {name}: confirmation");
        let done = town.act(token, name, order).await;
        assert_eq!(done.status, if may { 303 } else { 403 }, "{who} {name}: action");
        let changed = town.resource(name)["metadata"]["generation"] != before;
        assert_eq!(changed, may, "{who} {name}: the resource");
        assert_eq!(town.events(name).len(), usize::from(may), "{who} {name}: events");
    }
    let forged = "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.AAAA";
    assert_eq!(town.bench.get("/", &[("authorization", forged)]).await.status, 401);

    // The right of the person is not enough when the dashboard has lost its own.
    let anna = town.anna();
    assert!(has_buttons(&town.shown("inventory", &anna).await));
    let _ = town
        .kubectl(&["delete", "rolebinding", "tiebar-ui"])
        .expect_ok("deleted");
    town.until("inventory", "the dashboard's rights are gone", SOON, |_| {
        let may = [
            "auth",
            "can-i",
            "patch",
            "cb",
            "--as=system:serviceaccount:refused:tiebar-ui",
        ];
        town.kubectl(&may).out.trim() == "no"
    })
    .await;
    let failed = town.act(&anna, "inventory", order).await;
    assert!([403, 502].contains(&failed.status), "{}", failed.status);
    assert!(town.resource("inventory")["spec"]["override"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_for_one_service_the_one_in_force_is_written_and_who_declares_it_too_is_told() {
    let town = Town::new("conflict").await;
    let _ = town
        .apply("a-first", "{serviceName: inventory}", &[])
        .expect_ok("applied");
    town.until("a-first", "ready", SOON, |it| it["status"]["observedGeneration"] == 1)
        .await;
    // Later, and of the very name.
    let _ = town.apply("inventory", "{}", &[]).expect_ok("applied");
    town.until("inventory", "in conflict", SOON, |it| {
        let conditions = it["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["reason"] == "Conflicted")
    })
    .await;
    let anna = town.anna();
    town.shown("inventory", &anna).await;
    // No call was ever made: it is forced all the same, and says so.
    let done = town
        .act(&anna, "inventory", "do=force_closed&reason=CHG-9&expires=10m")
        .await;
    assert_eq!(done.status, 303, "{}", done.body);
    assert_eq!(town.resource("a-first")["spec"]["override"]["state"], "ForcedClosed");
    assert!(town.resource("inventory")["spec"]["override"].is_null());
    town.until("a-first", "forced closed", Duration::from_secs(6), |it| {
        it["status"]["state"] == "ForcedClosed"
    })
    .await;
    let headers = [("authorization", anna.as_str())];
    let forced = |answer: &Answer| answer.body.contains("<span>Forced closed</span>") && answer.body.contains("CHG-9");
    town.bench.until(&town.page("inventory"), &headers, forced).await;
    // Who then declares another override is told whose it would undo.
    let spec = "{serviceName: inventory, override: {state: ForcedOpen, reason: declared}}";
    let refused = town.apply("a-first", spec, &["--server-side", "--field-manager=delivery"]);
    assert!(
        !refused.ok && refused.err.contains("conflicts with \"tiebar-ui\""),
        "{}{}",
        refused.out,
        refused.err
    );
    assert_eq!(town.resource("a-first")["spec"]["override"]["state"], "ForcedClosed");
}
