//! The report of runs that still train, served on this machine only.

use crate::report::html;
use crate::report::page::{Page, Pictures, preview_file};
use crate::track::folder::RunFolder;
use crate::{Error, Result};
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::Ipv4Addr;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// What the server shows.
struct Watched {
    folders: Vec<RunFolder>,
    defaults: String,
    port: u16,
}

/// Serves the page of these runs on 127.0.0.1 until the process ends; port 0 takes a free one. `ready` is given the page's
/// address.
///
/// # Errors
/// A port that is taken; a folder that is no run.
pub fn watch(folders: Vec<RunFolder>, defaults: String, port: u16, ready: impl FnOnce(&str)) -> Result<()> {
    Page::gather(&folders, &defaults, Pictures::Served)?;
    let failed = |e: &std::io::Error| {
        let remedy = "choose another port with --port, or 0 for a free one";
        Error::failed(format_args!("127.0.0.1:{port}"), format_args!("cannot serve the page: {e}"), remedy)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|e| failed(&e))?;
        let port = listener.local_addr().map_err(|e| failed(&e))?.port();
        ready(&format!("http://127.0.0.1:{port}/"));
        let watched = Arc::new(Watched { folders, defaults, port });
        axum::serve(listener, router(watched)).await.map_err(|e| failed(&e))
    })
}

fn router(watched: Arc<Watched>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/data.json", get(data))
        .route("/preview/{run}/{epoch}/{place}", get(preview))
        .layer(from_fn_with_state(watched.clone(), guard))
        .with_state(watched)
}

/// Lets only requests through that read and that name this machine as their host: a page from elsewhere whose name was
/// made to point here names another. Answers are not for other pages to embed or for caches to keep.
async fn guard(State(watched): State<Arc<Watched>>, request: Request, next: Next) -> Response {
    let port = watched.port;
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| host == format!("127.0.0.1:{port}") || host == format!("localhost:{port}")) {
        return (StatusCode::MISDIRECTED_REQUEST, "this is only for http://127.0.0.1 with its own port\n")
            .into_response();
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let mut response = next.run(request).await;
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let same = HeaderValue::from_static("same-origin");
    response.headers_mut().insert("cross-origin-resource-policy", same);
    response
}

fn gather(watched: &Watched) -> Result<Page> {
    Page::gather(&watched.folders, &watched.defaults, Pictures::Served)
}

fn refused(error: &Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

async fn page(State(watched): State<Arc<Watched>>) -> Response {
    match gather(&watched).and_then(|page| html::render(&page, true)) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response(),
        Err(error) => refused(&error),
    }
}

/// The page's data; nothing where the reader has it already.
async fn data(State(watched): State<Arc<Watched>>, headers: HeaderMap) -> Response {
    let text = gather(&watched).and_then(|mut page| {
        // The time of reading alone is no news.
        page.generated = 0;
        html::json(&page)
    });
    let text = match text {
        Ok(text) => text,
        Err(error) => return refused(&error),
    };
    let tag = format!("\"{:016x}\"", xxh3_64(text.as_bytes()));
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    ([(header::CONTENT_TYPE, "application/json".to_string()), (header::ETAG, tag)], text).into_response()
}

async fn preview(
    State(watched): State<Arc<Watched>>,
    Path((run, epoch, place)): Path<(usize, u64, usize)>,
) -> Response {
    let Some(folder) = watched.folders.get(run) else { return StatusCode::NOT_FOUND.into_response() };
    match preview_file(folder, epoch, place).map(|file| file.and_then(|file| std::fs::read(file).ok())) {
        Ok(Some(bytes)) => ([(header::CONTENT_TYPE, "image/png")], bytes).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => refused(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::page::tests::run;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    /// Serves a run on a free port, which is returned, until the test's process ends.
    fn serve(folder: RunFolder) -> u16 {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            watch(vec![folder], String::new(), 0, |address| send.send(address.to_string()).unwrap()).unwrap();
        });
        let address = receive.recv().unwrap();
        address.strip_prefix("http://127.0.0.1:").unwrap().trim_end_matches('/').parse().unwrap()
    }

    /// Status, head and body of the answer.
    fn ask(port: u16, method: &str, path: &str, host: &str, more: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\n{host}{more}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
        (head[9..12].parse().unwrap(), head, answer[end + 4..].to_vec())
    }

    #[test]
    fn the_page_its_data_and_its_pictures_are_served_and_nothing_else() {
        let runs = tempfile::tempdir().unwrap();
        let folder = run(runs.path(), "a");
        let port = serve(folder.clone());
        let host = format!("Host: 127.0.0.1:{port}\r\n");
        let get = |path: &str, more: &str| ask(port, "GET", path, &host, more);
        let (status, head, page) = get("/", "");
        assert!(status == 200 && head.contains("text/html") && head.contains("no-store"), "{head}");
        assert!(head.contains("cross-origin-resource-policy: same-origin") && head.contains("x-frame-options: deny"));
        assert!(String::from_utf8(page).unwrap().contains("data-live"));

        let (_, head, data) = get("/data.json", "");
        let values: serde_json::Value = serde_json::from_slice(&data).unwrap();
        assert_eq!(values["runs"][0]["epochs"]["val/f1_epoch"], serde_json::json!([0.7234567890123, 0.75]));
        assert_eq!(values["runs"][0]["previews"][2]["source"], "preview/0/12/0");
        assert_eq!(get("/preview/0/12/0", "").2, [12; 100]);

        // Only news are sent.
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let known = format!("If-None-Match: {tag}\r\n");
        assert_eq!(get("/data.json", &known).0, 304);
        let metrics = folder.path("metrics.jsonl");
        let line = "{\"step\": 6, \"val/f1_epoch\": 0.8}\n";
        std::fs::write(&metrics, std::fs::read_to_string(&metrics).unwrap() + line).unwrap();
        let (status, _, data) = get("/data.json", &known);
        let values: serde_json::Value = serde_json::from_slice(&data).unwrap();
        assert_eq!((status, &values["runs"][0]["epochs"]["val/f1_epoch"][2]), (200, &serde_json::json!(0.8)));

        for path in ["/config.yaml", "/preview/1/12/0", "/preview/0/12/9", "/preview/0/../../config.yaml", "/../a"] {
            assert_eq!(get(path, "").0, 404, "{path}");
        }
        assert_eq!(get("/preview/0/x/0", "").0, 400);
        std::fs::write(&metrics, "[]\n").unwrap();
        let (status, _, text) = get("/data.json", "");
        assert!(status == 500 && String::from_utf8(text).unwrap().contains("metrics.jsonl: line 1 is damaged"));
    }

    #[test]
    fn other_hosts_and_other_methods_are_refused() {
        let runs = tempfile::tempdir().unwrap();
        let port = serve(run(runs.path(), "a"));
        let status = |method: &str, host: &str| ask(port, method, "/data.json", host, "").0;
        for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
            assert_eq!(status("GET", &format!("Host: {host}\r\n")), 200, "{host}");
            for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
                assert_eq!(status(method, &format!("Host: {host}\r\n")), 405, "{method}");
            }
        }
        let wrong = port ^ 1;
        for host in ["evil.example", "127.0.0.1", "localhost", "127.0.0.1.evil.example", "0.0.0.0"] {
            assert_eq!(status("GET", &format!("Host: {host}\r\n")), 421, "{host}");
            assert_eq!(status("GET", &format!("Host: {host}:{wrong}\r\n")), 421, "{host}");
        }
        assert_eq!(status("GET", &format!("Host: evil.example:{port}\r\n")), 421);
        assert_eq!(status("GET", ""), 421);
    }

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let runs = tempfile::tempdir().unwrap();
        let folder = run(runs.path(), "a");
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = watch(vec![folder], String::new(), port, |_| {}).unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.0.1:{port}: cannot serve")) && error.contains("--port"), "{error}");
    }
}
