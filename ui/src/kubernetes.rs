//! People and actions on Kubernetes: the cluster reviews tokens and rights, and actions are written to the resource.
//!
//! The dashboard writes under its own account after asking the API server whether this person might (a
//! SubjectAccessReview on `patch circuitbreakers`). Rejected: impersonation, which needs the right to become anybody.

use crate::actions::{Order, Verb};
use crate::auth::{Person, Refused};
use crate::words;
use crds::CircuitBreaker;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tiebar::id::ServiceId;

/// How long a reviewed token is believed: what is revoked counts for nothing after so long.
const BELIEVED: Duration = Duration::from_secs(30);
/// Reviewed tokens kept.
const MAX_BELIEVED: usize = 1_000;
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who wrote a field, as the API server records it.
const MANAGER: &str = "tiebar-ui";
/// The annotation that resets a breaker, once per value.
const RESET: &str = "tiebar.dev/reset-requested-at";

/// The cluster as the one who knows people and keeps resources.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    recorder: Recorder,
    believed: Arc<Mutex<HashMap<String, (Instant, Person)>>>,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

async fn patiently<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the API server did not answer within five seconds".to_owned()),
    }
}

impl Kubernetes {
    /// Speaks through this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let reporter = Reporter {
            controller: MANAGER.to_owned(),
            instance: None,
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            believed: Arc::default(),
        }
    }

    /// Speaks with the cluster this process runs in, or that the kubeconfig names.
    ///
    /// # Errors
    /// When there is neither.
    pub async fn connect() -> Result<Self, String> {
        // Another part of the process may have chosen already, which is the same choice.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::try_default()
            .await
            .map(Self::new)
            .map_err(|error| error.to_string())
    }

    /// Whose token this was a moment ago.
    pub(crate) fn remembered(&self, token: &str) -> Option<Person> {
        let believed = self.believed();
        let known = believed.get(token).filter(|(at, _)| at.elapsed() < BELIEVED);
        known.map(|(_, person)| person.clone())
    }

    /// Whose token this is.
    pub(crate) async fn review(&self, token: &str) -> Result<Person, Refused> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let review = patiently(reviews.create(&PostParams::default(), &review))
            .await
            .map_err(Refused::Unavailable)?;
        let status = review.status.filter(|status| status.authenticated == Some(true));
        let user = status.and_then(|status| status.user).ok_or(Refused::WrongToken)?;
        let person = Person {
            name: Some(user.username.ok_or(Refused::WrongToken)?),
            groups: user.groups.unwrap_or_default(),
        };
        let mut believed = self.believed();
        if believed.len() >= MAX_BELIEVED {
            believed.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        }
        if believed.len() < MAX_BELIEVED {
            believed.insert(token.to_owned(), (Instant::now(), person.clone()));
        }
        Ok(person)
    }

    fn believed(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Person)>> {
        self.believed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a person may patch the resource; without an answer, no.
    pub(crate) async fn permits(&self, person: &Person, id: &ServiceId) -> bool {
        let (Some(name), Some((namespace, _))) = (&person.name, id.as_str().split_once('/')) else {
            return false;
        };
        let Ok(resource) = self.resource(id).await else {
            return false;
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(name.clone()),
                groups: Some(person.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(CircuitBreaker::group(&()).into_owned()),
                    resource: Some(CircuitBreaker::plural(&()).into_owned()),
                    verb: Some("patch".to_owned()),
                    namespace: Some(namespace.to_owned()),
                    name: Some(resource.name_any()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        match patiently(reviews.create(&PostParams::default(), &review)).await {
            Ok(review) => review
                .status
                .is_some_and(|status| status.allowed && status.denied != Some(true)),
            Err(error) => {
                tracing::error!(%error, "rights cannot be reviewed");
                false
            }
        }
    }

    /// The resource of an id: its name may be another than the service's.
    async fn resource(&self, id: &ServiceId) -> Result<CircuitBreaker, String> {
        let none = || format!("there is no CircuitBreaker for {id}");
        let (namespace, name) = id.as_str().split_once('/').ok_or_else(none)?;
        let api: Api<CircuitBreaker> = Api::namespaced(self.client.clone(), namespace);
        let serves = |resource: &CircuitBreaker| {
            let service = resource.spec.service_name.as_deref();
            service.map_or_else(|| resource.name_any() == name, |service| service == name)
        };
        // Nearly always of the same name.
        let holds = |resource: &CircuitBreaker| serves(resource) && !is_conflicted(resource);
        if let Some(resource) = patiently(api.get_opt(name)).await?.filter(holds) {
            return Ok(resource);
        }
        let list = patiently(api.list(&ListParams::default())).await?;
        // Of several, the oldest holds the id.
        let mut mine: Vec<CircuitBreaker> = list.items.into_iter().filter(serves).collect();
        mine.sort_by_key(|resource| (resource.creation_timestamp().map(|time| time.0), resource.name_any()));
        mine.into_iter().next().ok_or_else(none)
    }

    /// Writes the order to the resource and leaves an Event.
    pub(crate) async fn carry_out(&self, order: &Order) -> Result<(), String> {
        let resource = self.resource(&order.id).await?;
        let namespace = resource.namespace().unwrap_or_default();
        let api: Api<CircuitBreaker> = Api::namespaced(self.client.clone(), &namespace);
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        patiently(api.patch(&resource.name_any(), &params, &Patch::Merge(change(order)))).await?;
        let who = order.by.as_deref().unwrap_or("nobody signed in");
        let until = order
            .until
            .map_or_else(String::new, |until| format!(", until {}", words::instant(until)));
        let event = Event {
            type_: EventType::Normal,
            reason: match order.verb {
                Verb::ForceOpen => "ForcedOpenByHand",
                Verb::ForceClosed => "ForcedClosedByHand",
                Verb::Clear => "OverrideClearedByHand",
                Verb::Reset => "ResetByHand",
            }
            .to_owned(),
            note: Some(format!("{who}: {}{until}", order.reason)),
            action: "Dashboard".to_owned(),
            secondary: None,
        };
        // The action is done; an Event that cannot be left is a matter for the log, where the action stands too.
        if let Err(error) = patiently(self.recorder.publish(&event, &resource.object_ref(&()))).await {
            tracing::error!(breaker = %order.id, %error, "the action left no Event");
        }
        Ok(())
    }
}

/// Another one holds the id.
fn is_conflicted(resource: &CircuitBreaker) -> bool {
    let conditions = resource.status.iter().flat_map(|status| &status.conditions);
    let mut accepted = conditions.filter(|condition| condition.r#type == "Accepted");
    accepted.any(|condition| condition.reason == "Conflicted")
}

/// The merge patch of an order.
fn change(order: &Order) -> Value {
    match order.verb {
        Verb::ForceOpen | Verb::ForceClosed => {
            let state = if order.verb == Verb::ForceOpen {
                "ForcedOpen"
            } else {
                "ForcedClosed"
            };
            // A null takes away the expiry of an override that is replaced by one without.
            let until = order.until.map(words::instant);
            json!({"spec": {"override": {"state": state, "reason": order.signed_reason(), "expireTime": until}}})
        }
        Verb::Clear => json!({"spec": {"override": null}}),
        Verb::Reset => {
            let now = words::instant(crate::collector::here());
            json!({"metadata": {"annotations": {RESET: now}}})
        }
    }
}
