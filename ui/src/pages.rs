//! The pages, complete without a script: links, forms and a refresh.

use crate::actions::{Actions, EXPIRIES, Order, Verb};
use crate::app::App;
use crate::auth::{COOKIE_NAME, Person, is_token};
use crate::collector::here;
use crate::detail::Detail;
use crate::incidents::{Incident, Line, incidents, lines};
use crate::model::Model;
use crate::problem::Problem;
use crate::query::{PAGE_ROWS, Query, STATES, Sort, encode};
use crate::view::{Bar, Kind, Row, namespaces, rows};
use crate::{assets, chart, words};
use askama::Template;
use axum::extract::{Extension, Form, Path, RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use std::sync::Arc;
use tiebar::id::ServiceId;

/// What every page needs.
pub(crate) struct Page {
    css: String,
    js: String,
    icon: String,
    /// Where its changes come from; none: it has none.
    stream: Option<String>,
    frame: String,
    now: u64,
    section: &'static str,
    user: Option<String>,
    can_leave: bool,
    version: &'static str,
}

impl Page {
    fn new(
        app: &App,
        model: &Model,
        person: &Person,
        section: &'static str,
        stream: Option<String>,
        here: u64,
    ) -> Self {
        Self {
            css: assets::path("style.css"),
            js: assets::path("live.js"),
            icon: assets::path("icon.svg"),
            stream,
            frame: format!("{}-{}", app.boot, model.frame),
            now: model.store_time(here),
            section,
            user: person.name.clone(),
            can_leave: app.auth.has_login(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Writes a template.
fn html(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A column's head.
pub(crate) struct Head {
    label: &'static str,
    class: &'static str,
    href: Option<String>,
    current: bool,
    direction: &'static str,
}

/// The list's page, and its parts for the stream.
#[derive(Template)]
#[template(path = "list.html", blocks = ["foot"])]
pub(crate) struct ListPage {
    page: Page,
    pub(crate) bar: Bar,
    query: Query,
    namespaces: Vec<String>,
    states: [(&'static str, &'static str); 7],
    heads: Vec<Head>,
    order_words: String,
    pub(crate) rows: Vec<Row>,
    matching: usize,
    pages: usize,
    first: usize,
    last: usize,
    per_page: usize,
    previous: Option<String>,
    next: Option<String>,
    kinds: [Kind; 11],
}

fn shape_of(kind: &Kind) -> &'static str {
    chart::shape(*kind)
}

impl ListPage {
    pub(crate) fn new(app: &App, model: &Model, person: &Person, query: Query, here: u64) -> Self {
        // The bar counts the fleet, whatever the filter.
        let everything = rows(model, &Query::default(), here);
        let bar = Bar::new(model, &everything, here);
        let admitted = everything.into_iter().filter(|row| query.admits_id(&row.id)).collect();
        let mut rows = query.select(admitted);
        let matching = rows.len();
        let pages = matching.div_ceil(PAGE_ROWS).max(1);
        let number = query.page().min(pages);
        let from = (number - 1) * PAGE_ROWS;
        rows = rows.into_iter().skip(from).take(PAGE_ROWS).collect();
        let link = |number: usize| format!("/?{}", query.with("page", &number.to_string()));
        let text = query.to_query();
        Self {
            page: Page::new(
                app,
                model,
                person,
                "list",
                Some(format!("/events?view=list&{text}")),
                here,
            ),
            bar,
            namespaces: namespaces(model),
            states: STATES,
            heads: heads(&query),
            order_words: format!("in the order: {}", query.sort().as_str()),
            first: (from + 1).min(matching),
            last: from + rows.len(),
            per_page: PAGE_ROWS,
            previous: (number > 1).then(|| link(number - 1)),
            next: (number < pages).then(|| link(number + 1)),
            kinds: Kind::ALL,
            query,
            rows,
            matching,
            pages,
        }
    }
}

fn heads(query: &Query) -> Vec<Head> {
    let columns: [(&str, &str, Option<Sort>); 9] = [
        ("State", "state", Some(Sort::Worst)),
        ("Service", "name", Some(Sort::Name)),
        ("For", "since num", Some(Sort::Since)),
        ("Next", "next", None),
        ("Failures", "gauge", Some(Sort::Failures)),
        ("Slow", "gauge", Some(Sort::Slow)),
        ("Calls/s, 2 min", "traffic", Some(Sort::Calls)),
        ("Rejected/s", "num", Some(Sort::Rejected)),
        ("Instances", "fleet", None),
    ];
    let head = |(label, class, sort): (&'static str, &'static str, Option<Sort>)| Head {
        label,
        class,
        href: sort.map(|sort| {
            let text = query.with("sort", if sort == Sort::Worst { "" } else { sort.as_str() });
            if text.is_empty() {
                "/".to_owned()
            } else {
                format!("/?{text}")
            }
        }),
        current: sort == Some(query.sort()),
        direction: if sort == Some(Sort::Name) {
            "ascending"
        } else {
            "descending"
        },
    };
    columns.into_iter().map(head).collect()
}

/// One row, for the stream.
#[derive(Template)]
#[template(path = "row.html")]
pub(crate) struct RowPart<'a> {
    pub(crate) row: &'a Row,
}

/// The bar, for the stream.
#[derive(Template)]
#[template(path = "bar.html")]
pub(crate) struct BarPart<'a> {
    pub(crate) bar: &'a Bar,
}

/// A breaker's page, and its parts for the stream.
#[derive(Template)]
#[template(path = "detail.html", blocks = ["head", "answers", "charts", "timeline", "causes", "settings", "instances"])]
pub(crate) struct DetailPage {
    page: Page,
    pub(crate) bar: Bar,
    pub(crate) detail: Detail,
    target: String,
    may_act: bool,
    why_not: &'static str,
    verbs: Vec<Verb>,
    expiries: [(&'static str, &'static str); 6],
    done: Option<String>,
}

impl DetailPage {
    pub(crate) async fn new(app: &App, model: &Model, person: &Person, id: &ServiceId, here: u64) -> Option<Self> {
        let breaker = model.breakers.get(id)?;
        let detail = Detail::new(breaker, model, app.key_prefix.as_deref(), here);
        let stream = format!("/events?view=detail&id={}", encode(id.as_str()));
        Some(Self {
            page: Page::new(app, model, person, "detail", Some(stream), here),
            bar: Bar::new(model, &rows(model, &Query::default(), here), here),
            target: id.to_string(),
            may_act: app.actions.permits(person, id).await,
            why_not: app.actions.why_not(),
            verbs: Verb::offered(&detail),
            detail,
            expiries: EXPIRIES,
            done: None,
        })
    }
}

/// The history's page, and its parts for the stream.
#[derive(Template)]
#[template(path = "history.html", blocks = ["incidents", "lines"])]
pub(crate) struct HistoryPage {
    page: Page,
    pub(crate) bar: Bar,
    query: Query,
    namespaces: Vec<String>,
    incidents: Vec<Incident>,
    lines: Vec<Line>,
}

impl HistoryPage {
    pub(crate) fn incidents(&self) -> &[Incident] {
        &self.incidents
    }

    pub(crate) fn new(app: &App, model: &Model, person: &Person, query: Query, here: u64) -> Self {
        let now = model.store_time(here);
        let stream = format!("/events?view=history&{}", query.to_query());
        Self {
            page: Page::new(app, model, person, "history", Some(stream), here),
            bar: Bar::new(model, &rows(model, &Query::default(), here), here),
            namespaces: namespaces(model),
            incidents: incidents(model, &query, now),
            lines: lines(model, &query, now),
            query,
        }
    }
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage {
    page: Page,
    target: String,
    verb: Verb,
    present: String,
    effect: String,
    until: Option<String>,
    backend: String,
    reason: String,
    expires: String,
    expiries: [(&'static str, &'static str); 6],
    problem: Option<String>,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    page: Page,
    next: String,
    wrong: bool,
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    page: Page,
    title: &'a str,
    detail: &'a str,
}

/// An error as a page.
fn failed(app: &App, person: &Person, problem: &Problem) -> Response {
    let page = ErrorPage {
        page: Page::new(app, &app.model(), person, "", None, here()),
        title: problem.title(),
        detail: problem.detail(),
    };
    html(problem.status(), &page)
}

/// Unknown parts of a query are no reason to refuse a page.
pub(crate) fn read_query<T: for<'de> Deserialize<'de> + Default>(text: Option<&str>) -> T {
    let uri = format!("/?{}", text.unwrap_or_default()).parse();
    let uri: axum::http::Uri = uri.unwrap_or_default();
    axum::extract::Query::try_from_uri(&uri).map_or_else(|_| T::default(), |query| query.0)
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(person): Extension<Person>,
    RawQuery(query): RawQuery,
) -> Response {
    let page = ListPage::new(&app, &app.model(), &person, read_query(query.as_deref()), here());
    html(StatusCode::OK, &page)
}

pub(crate) async fn history(
    State(app): State<Arc<App>>,
    Extension(person): Extension<Person>,
    RawQuery(query): RawQuery,
) -> Response {
    let page = HistoryPage::new(&app, &app.model(), &person, read_query(query.as_deref()), here());
    html(StatusCode::OK, &page)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Done {
    done: String,
}

pub(crate) async fn detail(
    State(app): State<Arc<App>>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let page = match ServiceId::parse(&id) {
        Ok(id) => DetailPage::new(&app, &app.model(), &person, &id, here()).await,
        Err(_) => None,
    };
    let Some(mut page) = page else {
        return failed(&app, &person, &unknown(&id));
    };
    let done: Done = read_query(query.as_deref());
    page.done = Verb::from_name(&done.done).map(|verb| {
        format!(
            "Asked for: {}. It shows here as soon as the store has it.",
            verb.short().to_lowercase()
        )
    });
    html(StatusCode::OK, &page)
}

fn unknown(id: &str) -> Problem {
    let short: String = id.chars().take(80).collect();
    Problem::not_found(&format!("There is no breaker “{short}” in the store."))
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
    let lasts = tiebar::duration::parse(&wish.expires).ok().filter(|_| verb.expires());
    let until = match lasts {
        Some(ms) => Some(words::clock(now + ms, now)),
        None => verb.expires().then(|| "somebody clears it".to_owned()),
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
        until,
        backend: app.actions.destination(),
        reason: wish.reason.chars().take(1_000).collect(),
        expires: wish.expires.clone(),
        expiries: EXPIRIES,
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

#[derive(Default, Deserialize)]
#[serde(default)]
struct Next {
    next: String,
}

/// A path on this host, and nothing that a browser would take for another.
fn local_path(next: &str) -> String {
    let fine = next.starts_with('/') && !next.starts_with("//") && !next.contains(['\\', '\r', '\n', '\t']);
    if fine { next.to_owned() } else { "/".to_owned() }
}

fn login_page(app: &App, next: &str, wrong: bool) -> Response {
    let page = LoginPage {
        page: Page::new(app, &Model::default(), &Person::anonymous(), "", None, here()),
        next: local_path(next),
        wrong,
    };
    html(if wrong { StatusCode::FORBIDDEN } else { StatusCode::OK }, &page)
}

pub(crate) async fn login(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response {
    if !app.auth.has_login() {
        return Redirect::to("/").into_response();
    }
    let next: Next = read_query(query.as_deref());
    login_page(&app, &next.next, false)
}

/// The form of the page to sign in.
#[derive(Deserialize)]
pub(crate) struct Credentials {
    token: String,
    #[serde(default)]
    next: String,
}

/// The cookie's attributes: only this site sends it, no script reads it, and over TLS only TLS carries it.
fn cookie(headers: &HeaderMap, token: &str, age: u32) -> String {
    let tls = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    let secure = if tls { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}")
}

pub(crate) async fn sign_in(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Form(given): Form<Credentials>,
) -> Response {
    let token = given.token.trim();
    if !app.auth.has_login() {
        return Redirect::to("/").into_response();
    }
    match app.auth.owner(token).await {
        Ok(person) if is_token(token) => {
            tracing::info!(by = person.name, "signed in");
            let cookie = cookie(&headers, token, 12 * 3_600);
            ([(SET_COOKIE, cookie)], Redirect::to(&local_path(&given.next))).into_response()
        }
        _ => login_page(&app, &given.next, true),
    }
}

pub(crate) async fn sign_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let next = if app.auth.has_login() { "/login" } else { "/" };
    ([(SET_COOKIE, cookie(&headers, "", 0))], Redirect::to(next)).into_response()
}

pub(crate) async fn nowhere(
    State(app): State<Arc<App>>,
    Extension(person): Extension<Person>,
    headers: HeaderMap,
) -> Response {
    let problem = Problem::not_found("There is nothing at this address.");
    let page = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if page {
        failed(&app, &person, &problem)
    } else {
        problem.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_signing_in_nobody_is_sent_to_another_site() {
        assert_eq!(local_path("/breakers/a?b=c"), "/breakers/a?b=c");
        for foreign in ["", "https://evil", "//evil", "/\\evil", "evil", "/\tx"] {
            assert_eq!(local_path(foreign), "/", "{foreign:?}");
        }
    }
}
