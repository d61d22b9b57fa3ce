//! A dashboard on a free port over a store in this process, an operator that only takes notes, and a small client.
#![allow(dead_code, reason = "each test uses its part")]

use axum::Router;
use axum::body::Bytes as Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tiebar::memory::MemoryStore;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use ui::{Actions, Auth, Dashboard, Operator, Settings};

/// A promise of two seconds is waited for three times as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(6);

/// What the operator was asked: method, path, body.
pub(crate) type Notes = Arc<Mutex<Vec<(String, String, String)>>>;

/// Everything a test needs.
pub(crate) struct Bench {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) notes: Notes,
    client: Client<HttpConnector, Full<Bytes>>,
    tasks: Vec<JoinHandle<()>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn note(State(notes): State<Notes>, request: Request) -> (StatusCode, String) {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let body: Body = axum::body::to_bytes(request.into_body(), 65_536)
        .await
        .expect("a small body");
    let refuse = path.contains("refused");
    notes
        .lock()
        .unwrap()
        .push((method, path, String::from_utf8_lossy(&body).into_owned()));
    if refuse {
        (
            StatusCode::CONFLICT,
            r#"{"detail":"somebody else holds it"}"#.to_owned(),
        )
    } else {
        (StatusCode::OK, "{}".to_owned())
    }
}

/// Who may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acting {
    Off,
    /// Everybody who is signed in.
    SignedIn,
    /// Anna alone.
    Anna,
    /// Everybody: it serves this machine.
    Local,
}

impl Bench {
    pub(crate) async fn new(auth: Auth, acting: Acting) -> Self {
        Self::with(auth, acting, 10).await
    }

    pub(crate) async fn with(auth: Auth, acting: Acting, max_viewers: usize) -> Self {
        Self::acting(auth, Actions::Off, acting, max_viewers).await
    }

    /// With the noting operator, unless `acting` is off: then with these actions.
    pub(crate) async fn acting(auth: Auth, actions: Actions, acting: Acting, max_viewers: usize) -> Self {
        let (store, notes) = (Arc::new(MemoryStore::new()), Notes::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let operator = listener.local_addr().expect("an address");
        let router = Router::new().fallback(note).with_state(Arc::clone(&notes));
        let operator_task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        let people = if acting == Acting::Anna {
            vec!["anna".to_owned()]
        } else {
            Vec::new()
        };
        let actions = match acting {
            Acting::Off => actions,
            _ => Actions::Operator {
                operator: Operator::new(&format!("http://{operator}")).expect("an address"),
                people,
                local: acting == Acting::Local,
            },
        };
        let settings = Settings {
            listen: "127.0.0.1:0".to_owned(),
            hosts: vec!["tiebar.example".to_owned()],
            auth,
            actions,
            key_prefix: Some("cb:".to_owned()),
            max_viewers,
        };
        let dashboard = Dashboard::bind(Arc::clone(&store) as _, settings)
            .await
            .expect("a free port");
        let address = dashboard.local_addr().expect("an address");
        let serving = tokio::spawn(async move { dashboard.run(std::future::pending()).await.expect("serves") });
        Self {
            address,
            store,
            notes,
            client: Client::builder(TokioExecutor::new()).build_http(),
            tasks: vec![operator_task, serving],
        }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned())).expect("a request");
        let response = self.client.request(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, "").await
    }

    /// Posts a form as a browser on the page itself does.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
        let origin = format!("http://{}", self.address);
        let mut all = vec![
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", origin.as_str()),
            ("sec-fetch-site", "same-origin"),
        ];
        all.extend(headers);
        self.send("POST", path, &all, form).await
    }

    /// Asks until the answer is as wanted; says how long that took.
    pub(crate) async fn until(&self, path: &str, headers: &[(&str, &str)], wanted: impl Fn(&Answer) -> bool) -> Answer {
        let start = Instant::now();
        loop {
            let answer = self.get(path, headers).await;
            if wanted(&answer) {
                println!("{path}: as wanted after {:?}", start.elapsed());
                return answer;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{path} never became as wanted: {}",
                answer.body
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}
