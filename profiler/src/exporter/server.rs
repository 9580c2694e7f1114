//! HTTP: `/metrics`, and a page that points there.
//!
//! Who asks for OpenMetrics gets it; others get the older text format, which
//! differs in how counters are announced.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use anyhow::Result;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const PAGE: &str = "<html><body><a href=\"/metrics\">rmapscope's metrics</a></body></html>\n";
/// Time for a client to send its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who may be connected, and for how long.
#[derive(Clone, Copy)]
struct Limits {
    /// Connections at a time; more wait.
    connections: usize,
    /// Time until a connection is closed, whatever its client does: one that
    /// never reads its answer must not keep its place for ever.
    at_most: Duration,
}

const LIMITS: Limits = Limits {
    connections: 32,
    at_most: Duration::from_secs(30),
};

/// Answers for ever.
pub(super) async fn serve(listener: TcpListener, registry: Registry) -> Result<()> {
    serve_within(LIMITS, listener, registry).await
}

async fn serve_within(limits: Limits, listener: TcpListener, registry: Registry) -> Result<()> {
    let registry = Arc::new(registry);
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: it passes.
                report::say!("cannot accept a connection: {error}");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let answer = answer(&request, &registry);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                // One answer each: requests in a row would be answered into a queue.
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // A client that goes away is not our failure.
            let _ = timeout(limits.at_most, connection).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered\n".to_owned(),
        );
    }
    match request.uri().path() {
        "/metrics" => metrics(registry, wants_open_metrics(request)),
        "/" => with_type(StatusCode::OK, "text/html; charset=utf-8", PAGE.to_owned()),
        _ => plain(StatusCode::NOT_FOUND, "there is only /metrics\n".to_owned()),
    }
}

fn wants_open_metrics(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get_all(ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains("application/openmetrics-text"))
}

fn metrics(registry: &Registry, open_metrics: bool) -> Response<Full<Bytes>> {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) if open_metrics => with_type(StatusCode::OK, OPEN_METRICS, text),
        Ok(()) => with_type(StatusCode::OK, CLASSIC, classic(&text)),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// OpenMetrics in the older format: a counter is announced under the name its
/// samples have, and there are no units and no end mark.
fn classic(open_metrics: &str) -> String {
    let counters: BTreeSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("UNIT" | "EOF"), _, _) => continue,
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                text += &format!("# {what} {name}_total {rest}");
            }
            _ => text += line,
        }
        text.push('\n');
    }
    text
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", text)
}

fn with_type(
    status: StatusCode,
    content_type: &'static str,
    text: String,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::{SocketAddr, TcpStream},
    };

    use super::*;

    const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";

    /// A server whose metrics have a help text of this many bytes; where it
    /// listens.
    fn server(limits: Limits, help: usize) -> SocketAddr {
        let mut registry = Registry::default();
        let counter: prometheus_client::metrics::counter::Counter = Default::default();
        registry.register("a", "x".repeat(help), counter);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("for tokio");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                serve_within(limits, listener, registry).await
            })
        });
        address
    }

    /// As many requests in a row as the server takes, from a client that reads
    /// no answer.
    fn ask_and_never_read(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let patience = Duration::from_millis(200);
        stream.set_write_timeout(Some(patience)).expect("set");
        let many = REQUEST.repeat(1000);
        for _ in 0..100 {
            match stream.write(&many) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It takes no more, or has closed.
                Err(_) => break,
            }
        }
        stream
    }

    /// The first bytes of the answer to a client that behaves.
    fn scrape(address: SocketAddr) -> Vec<u8> {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let patience = Duration::from_secs(10);
        stream.set_read_timeout(Some(patience)).expect("set");
        stream.write_all(REQUEST).expect("sent");
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).expect("an answer");
        begin.to_vec()
    }

    #[test]
    fn clients_that_ask_in_a_row_and_never_read_leave_room_for_a_scrape() {
        let address = server(LIMITS, 10_000);
        let hogs: Vec<_> = (0..LIMITS.connections)
            .map(|_| ask_and_never_read(address))
            .collect();
        assert_eq!(scrape(address), b"HTTP/1.1 200");
        drop(hogs);
    }

    #[test]
    fn a_client_that_takes_no_answer_loses_its_place_in_time() {
        let limits = Limits {
            connections: 1,
            at_most: Duration::from_millis(500),
        };
        // More than both ends' buffers hold.
        let address = server(limits, 64 << 20);
        let mut hog = TcpStream::connect(address).expect("it listens");
        hog.write_all(REQUEST).expect("sent");
        assert_eq!(scrape(address), b"HTTP/1.1 200");
        drop(hog);
    }

    #[test]
    fn the_older_format_announces_counters_under_their_samples_name() {
        let open = "# HELP a_seconds Time of a\n# TYPE a_seconds counter\n\
                    # UNIT a_seconds seconds\na_seconds_total{x=\"y\"} 1.0\n\
                    # TYPE b gauge\nb 2\n# EOF\n";
        let older = "# HELP a_seconds_total Time of a\n# TYPE a_seconds_total counter\n\
                     a_seconds_total{x=\"y\"} 1.0\n# TYPE b gauge\nb 2\n";
        assert_eq!(classic(open), older);
    }
}
