//! Upgrades: a success at 101, then bytes both ways.

use crate::support::client::{full, http1, raw, request};
use crate::support::upstream::healthy;
use crate::support::{PATIENT, Proxy, eventually, soon};
use futures_util::{SinkExt as _, StreamExt as _};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

/// A WebSocket server that says everything back.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(stream).await else {
                    return;
                };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() || socket.send(message).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

async fn connect(proxy: &Proxy) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(proxy.traffic).await.unwrap();
    let (socket, response) = client_async("ws://inventory/chat", stream).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["x-circuit-state"], "closed");
    socket
}

async fn say(socket: &mut WebSocketStream<TcpStream>, message: Message) {
    socket.send(message.clone()).await.unwrap();
    let back = soon("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(back, message);
}

#[tokio::test]
async fn a_websocket_echoes_and_is_a_success() {
    let upstream = echo().await;
    let proxy = Proxy::start(
        &format!("{PATIENT}\ncall: {{timeout: 300ms}}"),
        &format!("http://{upstream}"),
    )
    .await;
    let mut socket = connect(&proxy).await;
    say(&mut socket, Message::text("hello")).await;
    assert_eq!(proxy.outcomes().await, [1, 0, 0, 0, 0, 0]);
    assert!(proxy.metric("tiebar_in_flight").await > 0.5, "a tunnel is in flight");
    tokio::time::sleep(Duration::from_millis(500)).await;
    say(&mut socket, Message::binary(vec![7; 1_024 * 1_024])).await;
    socket.close(None).await.unwrap();
    drop(socket);
    eventually("the tunnel's end", async || {
        (proxy.metric("tiebar_in_flight").await < 0.5).then_some(())
    })
    .await;
    assert_eq!(proxy.outcomes().await, [1, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_refused_upgrade_is_judged_like_any_answer() {
    let upstream = healthy().await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let asked = request("GET", "/")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(full(""))
        .unwrap();
    let mut sender = http1(proxy.traffic).await;
    assert_eq!(sender.send_request(asked).await.unwrap().status(), 200);
    assert_eq!(upstream.last().headers["upgrade"], "websocket");
    let switch = "GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    assert!(raw(proxy.traffic, switch).await.starts_with("HTTP/1.1 200"));
    for gone in ["upgrade", "http2-settings", "connection"] {
        assert!(
            !upstream.last().headers.contains_key(gone),
            "{gone} passed: HTTP/2 past the breaker"
        );
    }
    assert_eq!(proxy.outcomes().await, [2, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn tunnels_get_the_drain_timeout_and_no_more() {
    let upstream = echo().await;
    let mut proxy = Proxy::start_with(PATIENT, &format!("http://{upstream}"), |settings| {
        settings.drain_timeout = Duration::from_millis(700);
    })
    .await;
    let mut socket = connect(&proxy).await;
    say(&mut socket, Message::text("before")).await;
    let started = std::time::Instant::now();
    proxy.stop();
    eventually("the drain", async || {
        let ready = tokio::time::timeout(Duration::from_secs(5), proxy.admin("/readyz"))
            .await
            .unwrap();
        (ready.status == 503 && ready.text() == "draining\n").then_some(())
    })
    .await;
    say(&mut socket, Message::text("during")).await;
    assert!(TcpStream::connect(proxy.traffic).await.is_err(), "no new connections");
    let cut = soon("the cut", socket.next()).await;
    let took = started.elapsed();
    assert!(!matches!(cut, Some(Ok(_))), "{cut:?}");
    println!("cut after {took:?}");
    assert!(
        took >= Duration::from_millis(700) && took < Duration::from_millis(2_100),
        "{took:?}"
    );
    soon("the end", &mut proxy.task).await.unwrap().unwrap();
}
