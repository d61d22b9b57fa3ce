//! The stream of one page: what changed since the viewer's last frame, at most twice a second.
//!
//! A page carries the number of the frame it was drawn from, so a stream needs no first picture and a lost connection
//! resumes by that number alone. Nothing is queued for anybody: a slow viewer skips to the newest frame. Viewers of the
//! same address share one drawing of each frame.

use crate::app::App;
use crate::auth::Person;
use crate::collector::here;
use crate::model::Model;
use crate::observed::Observed;
use crate::pages::{BarPart, DetailPage, HistoryPage, ListPage, RowPart, read_query};
use crate::problem::Problem;
use crate::query::Query;
use crate::words;
use askama::Template;
use axum::extract::{Extension, RawQuery, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tiebar::id::ServiceId;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

/// The shortest pause between messages.
const PAUSE: Duration = Duration::from_millis(500);
/// A message at least this often: silence means a lost connection.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A stream ends after so long; the browser opens another, and who may look is asked anew.
const LIFE: Duration = Duration::from_secs(600);
/// Announcements in one message; more are told as a number.
const MAX_SAID: usize = 3;
/// Different drawings kept of the newest frame.
const MAX_SCENES: usize = 256;

/// What a stream is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Target {
    List(Query),
    Detail(ServiceId),
    History(Query),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wish {
    view: String,
    id: String,
    since: String,
}

impl Target {
    fn read(query: Option<&str>, wish: &Wish) -> Option<Self> {
        match wish.view.as_str() {
            "list" => Some(Self::List(read_query(query))),
            "history" => Some(Self::History(read_query(query))),
            "detail" => ServiceId::parse(&wish.id).ok().map(Self::Detail),
            _ => None,
        }
    }

    fn admits(&self, id: &ServiceId) -> bool {
        match self {
            Self::List(query) | Self::History(query) => query.admits(id),
            Self::Detail(wanted) => wanted == id,
        }
    }
}

/// One part of a page; its key tells whether it looks different.
#[derive(Debug, Clone)]
struct Region {
    name: &'static str,
    html: String,
    key: u64,
}

/// A target as drawn from one frame.
#[derive(Debug)]
struct Scene {
    frame: u64,
    regions: Vec<Region>,
    /// The list's ids in order, as JSON, and its key.
    order: Option<(String, u64)>,
    /// The list's rows: version and, as JSON, `["id","html"]`.
    rows: Vec<(u64, String)>,
    /// The page is gone: another must be loaded.
    gone: bool,
}

/// The newest frame's drawings, shared by all viewers.
#[derive(Debug, Default)]
pub(crate) struct Scenes(Mutex<HashMap<Target, Arc<Scene>>>);

impl Scenes {
    async fn get(&self, app: &App, model: &Model, target: &Target) -> Arc<Scene> {
        let known = self.lock().get(target).cloned();
        if let Some(scene) = known.filter(|scene| scene.frame == model.frame) {
            return scene;
        }
        let scene = Arc::new(draw(app, model, target).await);
        let mut scenes = self.lock();
        if scenes.len() >= MAX_SCENES {
            scenes.retain(|_, scene| scene.frame == model.frame);
        }
        if scenes.len() < MAX_SCENES {
            scenes.insert(target.clone(), Arc::clone(&scene));
        }
        scene
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Target, Arc<Scene>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(what: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

fn region(name: &'static str, template: &impl Template, changed: Option<u64>) -> Region {
    let html = template.render().unwrap_or_default();
    Region {
        name,
        key: changed.unwrap_or_else(|| key(&html)),
        html,
    }
}

async fn draw(app: &App, model: &Model, target: &Target) -> Scene {
    // A stream draws only what everybody may see; buttons are not part of it.
    let (nobody, here) = (Person::anonymous(), here());
    let mut scene = Scene {
        frame: model.frame,
        regions: Vec::new(),
        order: None,
        rows: Vec::new(),
        gone: false,
    };
    let bar = |bar: &crate::view::Bar| {
        let tally = (
            bar.total,
            bar.open,
            bar.half_open,
            bar.forced,
            bar.unknown,
            bar.isolated,
        );
        region(
            "bar",
            &BarPart { bar },
            Some(key(&(tally, bar.stale, &bar.outage, bar.replica, bar.read_at == 0))),
        )
    };
    match target {
        Target::List(query) => {
            let page = ListPage::new(app, model, &nobody, query.clone(), here);
            scene.regions = vec![bar(&page.bar), region("foot", &page.as_foot(), None)];
            let ids: Vec<&str> = page.rows.iter().map(|row| row.id.as_str()).collect();
            let order = serde_json::to_string(&ids).unwrap_or_default();
            let order_key = key(&order);
            scene.order = Some((order, order_key));
            let drawn = page.rows.iter().map(|row| {
                let html = RowPart { row }.render().unwrap_or_default();
                (row.version, serde_json::to_string(&(&row.id, html)).unwrap_or_default())
            });
            scene.rows = drawn.collect();
        }
        Target::Detail(id) => match DetailPage::new(app, model, &nobody, id, here).await {
            None => scene.gone = true,
            Some(page) => {
                // Texts with running times differ at every drawing; the breaker's version says whether more did.
                let version = Some(page.detail.row.version);
                scene.regions = vec![
                    bar(&page.bar),
                    region("head", &page.as_head(), version),
                    region("answers", &page.as_answers(), version),
                    region("charts", &page.as_charts(), version),
                    region("timeline", &page.as_timeline(), version),
                    region("causes", &page.as_causes(), None),
                    region("settings", &page.as_settings(), None),
                    region("instances", &page.as_instances(), version),
                ];
            }
        },
        Target::History(query) => {
            let page = HistoryPage::new(app, model, &nobody, query.clone(), here);
            let newest = model
                .timeline
                .front()
                .map(|entry| (entry.event.generation, entry.id.as_str()));
            let latest = Some(key(&(newest, model.timeline.len(), page.incidents().len())));
            scene.regions = vec![
                bar(&page.bar),
                region("incidents", &page.as_incidents(), latest),
                region("lines", &page.as_lines(), latest),
            ];
        }
    }
    scene
}

/// What happened since a frame, for those who cannot see it.
fn said(model: &Model, target: &Target, since: u64) -> Vec<String> {
    let fresh = model.timeline.iter().take_while(|entry| entry.frame > since);
    let mut observed = Observed::new(model);
    let mine: Vec<String> = fresh
        .filter(|entry| target.admits(&entry.id))
        .map(|entry| {
            let event = &entry.event;
            let (state, reason) = (words::state(event.to).to_lowercase(), words::reason(event.reason));
            if observed.next(&entry.id, event) {
                format!("{} would be {state}, observed only: {reason}", entry.id)
            } else {
                format!("{} is {state}: {reason}", entry.id)
            }
        })
        .collect();
    match mine.len() {
        0..=MAX_SAID => mine,
        many => vec![format!("{many} changes of state")],
    }
}

/// One viewer.
struct Viewer {
    app: Arc<App>,
    target: Target,
    models: watch::Receiver<Arc<Model>>,
    /// The last frame sent.
    frame: u64,
    keys: HashMap<&'static str, u64>,
    order_key: u64,
    unknown: bool,
    last: Instant,
    born: Instant,
    /// Send a picture of the whole: the viewer's frame is of another life.
    reload: bool,
    _place: Place,
}

/// A viewer's place among the bounded number of them.
struct Place {
    _permit: OwnedSemaphorePermit,
    app: Arc<App>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.metrics.viewers.dec();
    }
}

#[derive(Serialize)]
struct Times {
    /// The store's clock.
    now: u64,
    /// When everything was last read, by it.
    read: u64,
    stale: bool,
}

impl Viewer {
    /// Waits for something to say.
    async fn next(&mut self) -> Option<Event> {
        while self.born.elapsed() < LIFE {
            let ending = self.app.ending.clone();
            tokio::select! {
                () = ending.cancelled() => return None,
                () = tokio::time::sleep_until(self.last + PAUSE) => {}
            }
            if self.reload {
                self.reload = false;
                self.last = Instant::now();
                return Some(Event::default().event("reload").data("1"));
            }
            let due = tokio::time::sleep_until(self.last + HEARTBEAT);
            tokio::select! {
                () = ending.cancelled() => return None,
                changed = self.models.changed() => if changed.is_err() { return None },
                () = due => {}
            }
            let model = Arc::clone(&self.models.borrow_and_update());
            let message = self.message(&model).await;
            if message.is_some() || self.last.elapsed() >= HEARTBEAT {
                self.last = Instant::now();
                self.app.metrics.messages.inc();
                let id = format!("{}-{}", self.app.boot, self.frame);
                let text = message.unwrap_or_else(|| format!("{{{}}}", self.times(&model)));
                return Some(Event::default().id(id).data(text));
            }
            // Nothing to say of this frame; look again when the pause is over.
            tokio::time::sleep(PAUSE).await;
        }
        None
    }

    fn times(&self, model: &Model) -> String {
        let here = here();
        let times = Times {
            now: model.store_time(here),
            read: if model.read_at > 0 {
                model.store_time(model.read_at)
            } else {
                0
            },
            stale: model.is_stale(here),
        };
        format!("\"t\":{}", serde_json::to_string(&times).unwrap_or_default())
    }

    async fn message(&mut self, model: &Model) -> Option<String> {
        let unknown = model.is_unknown(here());
        let scene = self.app.scenes.get(&self.app, model, &self.target).await;
        if unknown != self.unknown || scene.gone {
            // Every row looks different, or the page is gone: the page itself is the message.
            self.unknown = unknown;
            self.frame = model.frame;
            return Some(format!("{{\"reload\":true,{}}}", self.times(model)));
        }
        let mut parts = Vec::new();
        let changed = |region: &&Region| self.keys.get(region.name) != Some(&region.key);
        let regions: Vec<(&str, &str)> = scene
            .regions
            .iter()
            .filter(changed)
            .map(|region| (region.name, region.html.as_str()))
            .collect();
        if !regions.is_empty() {
            parts.push(format!(
                "\"regions\":{}",
                serde_json::to_string(&regions).unwrap_or_default()
            ));
        }
        let rows: Vec<&str> = scene
            .rows
            .iter()
            .filter(|(version, _)| *version > self.frame)
            .map(|(_, row)| row.as_str())
            .collect();
        if !rows.is_empty() {
            parts.push(format!("\"rows\":[{}]", rows.join(",")));
        }
        if let Some((order, order_key)) = scene.order.as_ref().filter(|(_, key)| *key != self.order_key) {
            parts.push(format!("\"order\":{order}"));
            self.order_key = *order_key;
        }
        let said = said(model, &self.target, self.frame);
        if !said.is_empty() {
            parts.push(format!("\"say\":{}", serde_json::to_string(&said).unwrap_or_default()));
        }
        self.keys = scene.regions.iter().map(|region| (region.name, region.key)).collect();
        self.frame = model.frame;
        if parts.is_empty() {
            return None;
        }
        parts.push(self.times(model));
        Some(format!("{{{}}}", parts.join(",")))
    }
}

pub(crate) async fn events(
    State(app): State<Arc<App>>,
    Extension(_person): Extension<Person>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let wish: Wish = read_query(query.as_deref());
    let Some(target) = Target::read(query.as_deref(), &wish) else {
        return Problem::bad_request("wanted view=list, view=history or view=detail with an id").into_response();
    };
    let Ok(permit) = Arc::clone(&app.viewers).try_acquire_owned() else {
        app.metrics.viewers_refused.inc();
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let problem = Problem::new(status, "too-many-viewers", "Too many viewers", "poll the page instead");
        return ([(RETRY_AFTER, "30")], problem).into_response();
    };
    app.metrics.viewers.inc();
    let mut models = app.models.clone();
    // What is newest now is a change for a viewer who has seen less.
    models.mark_changed();
    let model = app.model();
    let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let since = resumed.unwrap_or(&wish.since);
    let known = since.split_once('-').filter(|(boot, _)| *boot == app.boot);
    let known: Option<u64> = known.and_then(|(_, frame)| frame.parse().ok());
    let viewer = Viewer {
        target,
        models,
        frame: known.unwrap_or(model.frame).min(model.frame),
        keys: HashMap::new(),
        order_key: 0,
        unknown: model.is_unknown(here()),
        last: Instant::now() - PAUSE,
        born: Instant::now(),
        reload: known.is_none() && !since.is_empty(),
        _place: Place {
            _permit: permit,
            app: Arc::clone(&app),
        },
        app,
    };
    // A proxy that gathers answers would gather for ever.
    let headers = [(HeaderName::from_static("x-accel-buffering"), "no")];
    (headers, Sse::new(stream_of(viewer))).into_response()
}

fn stream_of(viewer: Viewer) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((viewer, true), |(mut viewer, first)| async move {
        if first {
            // Opens the stream at once, and sets the pause before a lost one is tried again.
            let hello = Event::default().retry(Duration::from_secs(1)).comment("tiebar");
            return Some((Ok(hello), (viewer, false)));
        }
        let event = viewer.next().await?;
        Some((Ok(event), (viewer, false)))
    })
}
