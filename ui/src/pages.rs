//! The pages, complete without a script: links, forms and a refresh.

use crate::actions::Verb;
use crate::app::App;
use crate::auth::Person;
use crate::collector::here;
use crate::detail::Detail;
use crate::incidents::{Incident, Line, incidents, lines};
use crate::model::Model;
use crate::problem::Problem;
use crate::query::{PAGE_ROWS, Query, STATES, Sort, encode};
use crate::view::{Bar, Kind, Row, namespaces, rows};
use crate::{assets, chart};
use askama::Template;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use tiebar::id::ServiceId;

/// What every page needs.
pub(crate) struct Page {
    pub(crate) css: String,
    pub(crate) js: String,
    pub(crate) icon: String,
    /// Where its changes come from; none: it has none.
    pub(crate) stream: Option<String>,
    pub(crate) frame: String,
    /// Nothing on it is to be taken for live.
    pub(crate) stale: bool,
    pub(crate) now: u64,
    pub(crate) section: &'static str,
    pub(crate) user: Option<String>,
    pub(crate) can_leave: bool,
    pub(crate) version: &'static str,
}

impl Page {
    pub(crate) fn new(
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
            stale: model.is_stale(here),
            now: model.store_time(here),
            section,
            user: person.name.clone(),
            can_leave: app.auth.has_login(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Writes a template.
pub(crate) fn html(status: StatusCode, template: &impl Template) -> Response {
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
        let bar = Bar::new(model, here);
        let mut rows = query.select(rows(model, &query, here));
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
    done: Option<String>,
}

impl DetailPage {
    pub(crate) async fn new(app: &App, model: &Model, person: &Person, id: &ServiceId, here: u64) -> Option<Self> {
        let breaker = model.breakers.get(id)?;
        let detail = Detail::new(breaker, model, app.key_prefix.as_deref(), here);
        let stream = format!("/events?view=detail&id={}", encode(id.as_str()));
        Some(Self {
            page: Page::new(app, model, person, "detail", Some(stream), here),
            bar: Bar::new(model, here),
            target: id.to_string(),
            may_act: app.actions.permits(person, id).await,
            why_not: app.actions.why_not(),
            verbs: Verb::offered(&detail),
            detail,
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
            bar: Bar::new(model, here),
            namespaces: namespaces(model),
            incidents: incidents(model, &query, now),
            lines: lines(model, &query, now),
            query,
        }
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    page: Page,
    title: &'a str,
    detail: &'a str,
}

/// An error as a page.
pub(crate) fn failed(app: &App, person: &Person, problem: &Problem) -> Response {
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

pub(crate) fn unknown(id: &str) -> Problem {
    let short: String = id.chars().take(80).collect();
    Problem::not_found(&format!("There is no breaker “{short}” in the store."))
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
