//! The store's state into a resource's status: one resource at a time.

use super::budget::Purpose;
use super::context::{Context, backoff, locked};
use super::notes::notes;
use super::watch::{resource, version};
use super::world::{Declared, Key, StatusText};
use crate::programmer;
use crate::status::{Claimed, Facts, Seen, Stored, status, wall_clock};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;
use tiebar::store::StoreError;
use tokio::time::Instant;

/// The field manager of the status.
const MANAGER: &str = "tiebar-operator";

/// How long nothing is written once the API server said that it has too many requests.
const REST: Duration = Duration::from_secs(1);

/// When to try again to write to a resource that changed a moment ago; the watch tells of it before that.
const CONFLICT: Duration = Duration::from_millis(200);

/// Brings a status up to date.
pub(crate) async fn report(context: &Context, key: &Key, urgent: bool) {
    if context.leader().is_none() {
        return;
    }
    let declared = context.world().get(key).cloned();
    let Some(declared) = declared else {
        locked(&context.reported).remove(key);
        context.reports.forget(key);
        return;
    };
    let (lost, failing, met) = {
        let health = locked(&context.health);
        (health.lost.clone(), health.since.is_some(), health.met)
    };
    let stored = match (&declared.id, &lost) {
        (Some(id), None) if met => match programmer::read(&*context.store, id).await {
            Ok(stored) => Some(stored),
            // Known to fail: what was said last stands, for ten seconds.
            Err(_) if failing => return,
            Err(error) => {
                retry(context, key, &error.to_string());
                return;
            }
        },
        // Nothing is known yet; what the replica before said stands for ten seconds too.
        (_, None) if !met && declared.status != StatusText::default() => return,
        _ => None,
    };
    let before = declared.status.read();
    let next = compose(context, &declared, &before, stored.as_ref(), lost.as_ref());
    let said = StatusText::of(Some(&next));
    {
        let mut reported = locked(&context.reported);
        let reported = reported.entry(key.clone()).or_default();
        let settled = reported.settled.as_ref();
        if next == before || settled.is_some_and(|(last, got)| *last == said && *got == declared.status) {
            reported.failures = 0;
            return;
        }
    }
    // What was never reported is no transition.
    let urgent = urgent || (!before.is_null() && next["state"] != before["state"]);
    let purpose = if urgent { Purpose::Transition } else { Purpose::Status };
    context.budget.take(purpose).await;
    if context.leader().is_none() {
        return;
    }
    let hold_until = Instant::now() + context.periods.status;
    match write(context, &declared, &next).await {
        Ok(got) => {
            context.reports.hold(key, hold_until);
            {
                let mut reported = locked(&context.reported);
                let reported = reported.entry(key.clone()).or_default();
                reported.failures = 0;
                // Somebody else owns a field too: saying the same again would change nothing.
                reported.settled = (got != said).then_some((said, got));
            }
            for note in notes(&before, &next) {
                context.notes.tell(&declared, note);
            }
        }
        // The watch tells.
        Err(kube::Error::Api(status)) if status.code == 404 => context.metrics.status_written("gone"),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            context.metrics.status_written("conflict");
            context.reports.push(key.clone(), Instant::now() + CONFLICT, urgent);
        }
        Err(error) => {
            if matches!(&error, kube::Error::Api(status) if status.code == 429) {
                context.budget.rest(REST);
            }
            context.metrics.status_written("error");
            retry(context, key, &error.to_string());
        }
    }
}

/// Tries again later, rarer each time.
fn retry(context: &Context, key: &Key, error: &str) {
    let failures = {
        let mut reported = locked(&context.reported);
        let reported = reported.entry(key.clone()).or_default();
        reported.failures += 1;
        reported.failures
    };
    if failures == 1 {
        tracing::warn!(resource = %key, error, "the status cannot be brought up to date; trying on");
    }
    context
        .reports
        .push(key.clone(), Instant::now() + backoff(failures - 1), false);
}

/// The status as it should be, and when it will have to be looked at again by itself.
fn compose(
    context: &Context,
    declared: &Declared,
    before: &Value,
    stored: Option<&Stored>,
    lost: Option<&StoreError>,
) -> Value {
    let id = declared.id.as_ref();
    let winner = id.and_then(|id| {
        let world = context.world();
        world
            .winner(id)
            .map(|winner| (winner.uid.clone(), winner.key.to_string()))
    });
    let claimed = match (&declared.document, winner) {
        (Err(problem), _) => Claimed::Invalid(problem.clone()),
        (Ok(document), Some((uid, key))) if uid != declared.uid => Claimed::Conflicted(document, key),
        (Ok(document), _) => Claimed::Holds(document),
    };
    let now = Instant::now();
    let refreshed = {
        let mut reported = locked(&context.reported);
        let reported = reported.entry(declared.key.clone()).or_default();
        if let Some(snapshot) = stored.and_then(|stored| stored.snapshot.as_ref()) {
            reported.window = Some((snapshot.calls, snapshot.failing));
        }
        reported.refreshed
    };
    let refresh_at = refreshed.map_or(now, |at| at + context.periods.refresh);
    let write_error = id.and_then(|id| {
        locked(&context.programmed)
            .get(id)
            .and_then(|known| known.error.clone())
    });
    let mut facts = Facts {
        id,
        claimed,
        seen: match (stored, lost) {
            (Some(stored), _) => Seen::Answers(stored),
            (None, Some(error)) => Seen::Lost(error),
            (None, None) => Seen::NotYet,
        },
        owner: &context.owner,
        write_error: write_error.as_deref(),
        generation: Some(declared.generation),
        store_key: id.map(|id| context.keys.of(id, "state")),
        refresh: true,
        previous: before,
        now: &wall_clock(),
    };
    let fresh = status(&facts);
    let changes = |next: &Value, field: &str| next[field] != before[field];
    let mut next = fresh;
    if changes(&next, "instances") || changes(&next, "shadow") {
        if refresh_at <= now {
            let mut reported = locked(&context.reported);
            reported.entry(declared.key.clone()).or_default().refreshed = Some(now);
        } else {
            facts.refresh = false;
            next = status(&facts);
            context.reports.push(declared.key.clone(), refresh_at, false);
        }
    }
    if let Some(left) = stored.and_then(time_left) {
        context.reports.push(declared.key.clone(), now + left, false);
    }
    next
}

/// When a ramp ends the status changes without any transition.
fn time_left(stored: &Stored) -> Option<Duration> {
    let ends = stored.snapshot.as_ref()?.ramp_until;
    (ends > stored.now).then(|| Duration::from_millis(ends - stored.now + 10))
}

async fn write(context: &Context, declared: &Declared, status: &Value) -> kube::Result<StatusText> {
    let resource = resource();
    let key = &declared.key;
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.namespace, &resource);
    let mut patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        // The uid, lest a resource made anew is told of the one before.
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": declared.uid},
        "status": status,
    });
    if declared.version > 0 {
        // What this replica knows must be what is there: a write that was on its way when the replica was stopped must not
        // land on what the next leader wrote meanwhile.
        patch["metadata"]["resourceVersion"] = json!(declared.version.to_string());
    }
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&patch);
    let request = api.patch_status(&key.name, &params, &patch);
    let Ok(written) = tokio::time::timeout(context.timing.write, request).await else {
        let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
        return Err(kube::Error::Service(error.into()));
    };
    let written = written?;
    context.metrics.status_written("ok");
    let status = StatusText::of(written.data.get("status"));
    let version = version(written.metadata.resource_version.as_deref());
    context.world().wrote(key, &declared.uid, version, status.clone());
    Ok(status)
}
