//! From a wish to a deed: the page that asks again, and the form that acts. Each step checks the right anew.

use crate::actions::{Actions, EXPIRIES, Order, USUAL_EXPIRY, Verb};
use crate::app::App;
use crate::auth::Person;
use crate::collector::here;
use crate::detail::Detail;
use crate::pages::{Page, failed, html, read_query, unknown};
use crate::problem::Problem;
use crate::words;
use askama::Template;
use axum::extract::{Extension, Form, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use std::sync::Arc;
use tiebar::id::ServiceId;

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage {
    page: Page,
    target: String,
    verb: Verb,
    present: String,
    effect: String,
    backend: String,
    reason: String,
    expires: String,
    /// Value, and the label with the end it means.
    expiries: Vec<(&'static str, String)>,
    problem: Option<String>,
}

/// What a person wants done.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Wish {
    id: String,
    r#do: String,
    reason: String,
    expires: String,
}

/// A wish for something that is there, by somebody who may.
async fn allowed(app: &App, person: &Person, wish: &Wish) -> Result<(ServiceId, Verb), Problem> {
    let id = ServiceId::parse(&wish.id).map_err(|_| unknown(&wish.id))?;
    let verbs = "wanted do=force_open, force_closed, clear or reset";
    let verb = Verb::from_name(&wish.r#do).ok_or_else(|| Problem::bad_request(verbs))?;
    if matches!(app.actions, Actions::Off) {
        return Err(Problem::forbidden(
            "This dashboard only reads; --actions would let it act.",
        ));
    }
    // First the right, then what there is: the answer must not tell strangers which breakers exist.
    if !app.actions.permits(person, &id).await {
        return Err(Problem::forbidden("You may look, not act."));
    }
    if !app.model().breakers.contains_key(&id) {
        return Err(unknown(&wish.id));
    }
    Ok((id, verb))
}

fn confirmation(
    app: &App,
    person: &Person,
    id: &ServiceId,
    verb: Verb,
    wish: &Wish,
    problem: Option<String>,
) -> Option<ConfirmPage> {
    let (model, here) = (app.model(), here());
    let detail = Detail::new(model.breakers.get(id)?, &model, None, here);
    let now = model.store_time(here);
    let with_end = |(value, label): (&'static str, &str)| match tiebar::duration::parse(value) {
        Ok(ms) => (value, format!("{label}, until {}", words::clock(now + ms, now))),
        Err(_) => (value, label.to_owned()),
    };
    Some(ConfirmPage {
        page: Page::new(app, &model, person, "", None, here),
        target: id.to_string(),
        verb,
        present: format!(
            "{}, {} calls and {} rejections a second",
            detail.row.kind.word(),
            detail.row.calls_text(),
            detail.row.rejected_text()
        ),
        effect: verb.effect(&detail),
        backend: app.actions.destination(),
        reason: wish.reason.chars().take(1_000).collect(),
        expires: if wish.expires.is_empty() {
            USUAL_EXPIRY.to_owned()
        } else {
            wish.expires.clone()
        },
        expiries: EXPIRIES.map(with_end).to_vec(),
        problem,
    })
}

pub(crate) async fn confirm(
    State(app): State<Arc<App>>,
    Extension(person): Extension<Person>,
    RawQuery(query): RawQuery,
) -> Response {
    let wish: Wish = read_query(query.as_deref());
    match allowed(&app, &person, &wish).await {
        Ok((id, verb)) => match confirmation(&app, &person, &id, verb, &wish, None) {
            Some(page) => html(StatusCode::OK, &page),
            None => failed(&app, &person, &unknown(&wish.id)),
        },
        Err(problem) => failed(&app, &person, &problem),
    }
}

pub(crate) async fn act(
    State(app): State<Arc<App>>,
    Extension(person): Extension<Person>,
    Form(wish): Form<Wish>,
) -> Response {
    let (id, verb) = match allowed(&app, &person, &wish).await {
        Ok(allowed) => allowed,
        Err(problem) => {
            let who = person.name.as_deref().unwrap_or("nobody");
            tracing::warn!(breaker = %wish.id.escape_debug(), action = %wish.r#do.escape_debug(), by = who, "action refused");
            return failed(&app, &person, &problem);
        }
    };
    let count = |result| {
        let labels = vec![("action", verb.name()), ("result", result)];
        app.metrics.actions.get_or_create(&labels).inc();
    };
    let again = |status, problem: String| match confirmation(&app, &person, &id, verb, &wish, Some(problem)) {
        Some(page) => html(status, &page),
        None => failed(&app, &person, &unknown(&wish.id)),
    };
    let model = app.model();
    let now = model.store_time(here());
    let order = match Order::new(id.clone(), verb, &wish.reason, &wish.expires, person.name.clone(), now) {
        Ok(order) => order,
        Err(problem) => {
            count("invalid");
            return again(StatusCode::UNPROCESSABLE_ENTITY, problem);
        }
    };
    let before = model.breakers.get(&id).and_then(|breaker| breaker.snapshot.as_ref());
    let before = before.map_or("nothing", |snapshot| snapshot.view.state.as_str());
    let (by, until) = (
        person.name.as_deref().unwrap_or("nobody signed in"),
        order.until.map(words::instant),
    );
    match app.actions.carry_out(&order).await {
        Ok(()) => {
            count("done");
            tracing::info!(breaker = %id, action = verb.name(), by, reason = order.reason, until, before, "action");
            Redirect::to(&format!("/breakers/{id}?done={}", verb.name())).into_response()
        }
        Err(error) => {
            count("failed");
            tracing::error!(breaker = %id, action = verb.name(), by, reason = order.reason, %error, "action failed");
            again(StatusCode::BAD_GATEWAY, format!("Nothing was done: {error}."))
        }
    }
}
