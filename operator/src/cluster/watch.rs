//! The watch on `CircuitBreaker`s: what it says goes into the [`World`](super::world::World).

use super::context::Context;
use super::world::{Declared, Key, StatusText};
use crds::{CircuitBreakerSpec, Document};
use futures_util::StreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tiebar::id::ServiceId;

const CRD: &str = "circuitbreakers.tiebar.dev";

/// The resource, for requests that do not need its type.
pub(crate) fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("tiebar.dev", "v1alpha1", "CircuitBreaker");
    ApiResource::from_gvk_with_plural(&kind, "circuitbreakers")
}

/// Reads a resource as far as it can be read.
pub(crate) fn declared(object: DynamicObject) -> Option<Declared> {
    let metadata = object.metadata;
    let key = Key {
        namespace: metadata.namespace?,
        name: metadata.name?,
    };
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    let service = spec.get("serviceName").and_then(Value::as_str).unwrap_or(&key.name);
    let id = ServiceId::parse(&format!("{}/{service}", key.namespace)).ok();
    let mut annotations = metadata.annotations.unwrap_or_default();
    // Others' annotations change without meaning anything here.
    annotations.retain(|name, _| name.starts_with("tiebar.dev/"));
    let spec: Result<CircuitBreakerSpec, _> = match spec {
        Value::Null => Ok(CircuitBreakerSpec::default()),
        spec => serde_json::from_value(spec),
    };
    let document = spec.map_err(|error| format!("spec: {error}")).and_then(|spec| {
        Document::new(Some(key.namespace.clone()), key.name.clone(), annotations, spec)
            .map(|document| {
                Arc::new(Document {
                    uid: metadata.uid.clone(),
                    ..document
                })
            })
            .map_err(|problems| problems.join("; "))
    });
    Some(Declared {
        id,
        document,
        uid: metadata.uid.unwrap_or_default(),
        created: metadata.creation_timestamp.map(|time| time.0).unwrap_or_default(),
        generation: metadata.generation.unwrap_or(0),
        version: version(metadata.resource_version.as_deref()),
        status: StatusText::of(object.data.get("status")),
        key,
    })
}

/// Resource versions of one resource can be compared as numbers; 0 stands for one that cannot.
pub(crate) fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Waits between attempts, doubled up to [`LAST`]. As kube's own, which goes up to half a minute: too long for two
/// replicas that find their API server back.
struct Doubling(Duration);

const FIRST: Duration = Duration::from_millis(800);
const LAST: Duration = Duration::from_secs(8);

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = self.0;
        self.0 = (now * 2).min(LAST);
        Some(now)
    }
}

impl Backoff for Doubling {
    fn reset(&mut self) {
        self.0 = FIRST;
    }
}

/// Watches one namespace, or all, until dropped.
pub(crate) async fn watch(context: Arc<Context>, number: usize, namespace: Option<String>) {
    let resource = resource();
    let api: Api<DynamicObject> = match &namespace {
        Some(namespace) => Api::namespaced_with(context.client.clone(), namespace, &resource),
        None => Api::all_with(context.client.clone(), &resource),
    };
    let covers = |key: &Key| namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
    let backoff = ResetTimerBackoff::new(Doubling(FIRST), Duration::from_secs(120));
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).backoff(backoff));
    let (mut told, mut told_uninstalled) = (false, false);
    while let Some(event) = events.next().await {
        let touched = match event {
            Ok(watcher::Event::Init) => {
                context.world().begin(number);
                continue;
            }
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => match declared(object) {
                Some(declared) => context.world().apply(number, declared),
                None => continue,
            },
            Ok(watcher::Event::InitDone) => {
                told_uninstalled = false;
                if std::mem::take(&mut told) {
                    tracing::info!("CircuitBreakers are read again");
                }
                context.world().end(number, covers)
            }
            Ok(watcher::Event::Delete(object)) => match declared(object) {
                Some(declared) => context.world().remove(&declared.key),
                None => continue,
            },
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = %error, "CircuitBreakers cannot be watched; trying on");
                }
                if is_missing(&error) && is_uninstalled(&context).await {
                    if !std::mem::replace(&mut told_uninstalled, true) {
                        tracing::warn!("{CRD} is not installed, so there are no CircuitBreakers");
                    }
                    let mut world = context.world();
                    world.begin(number);
                    world.end(number, covers)
                } else {
                    continue;
                }
            }
        };
        context.touch(touched);
    }
}

fn is_missing(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    let (InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the definition itself is gone. That the API server does not serve it proves nothing: while it starts, it
/// answers the same.
async fn is_uninstalled(context: &Context) -> bool {
    let definitions: Api<CustomResourceDefinition> = Api::all(context.client.clone());
    let asked = tokio::time::timeout(context.timing.write, definitions.get_metadata_opt(CRD)).await;
    matches!(asked, Ok(Ok(None)))
}
