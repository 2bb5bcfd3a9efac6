//! Talks to the daemon: JSON over HTTP over the Unix socket in the run directory.
use cleave_api::{API_SOCKET, API_VERSION, ErrorBody, ErrorCode, Status};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a command gives: a value, or an error that names the value, the rule and the way out.
pub(crate) type Result<T> = std::result::Result<T, ErrorBody>;

/// Longest that a reply may take. Creating a slice measures a context the first time, which takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The daemon of one run directory.
pub(crate) struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// Whether somebody listens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Somebody does.
    Answers,
    /// There is no socket.
    Absent,
    /// There is a socket that nobody listens on.
    Stale,
    /// There is a socket that this user may not use.
    Denied,
    /// Something else is wrong.
    Broken(String),
}

impl Client {
    /// A client for the daemon of `run_dir`; nothing is sent yet.
    pub(crate) fn new(run_dir: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| ErrorBody::new(ErrorCode::Internal, format!("no event loop: {e}"), ""))?;
        Ok(Self { socket: run_dir.join(API_SOCKET), runtime })
    }

    /// Whether somebody listens on the socket.
    pub(crate) fn presence(&self) -> Presence {
        match std::os::unix::net::UnixStream::connect(&self.socket) {
            Ok(_) => Presence::Answers,
            Err(error) => presence_of(&error),
        }
    }

    /// `GET /v1/{path}`.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send::<(), T>(Method::GET, path, None)
    }

    /// `GET {path}`, of which the answer is text and not JSON.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        String::from_utf8(self.raw(Method::GET, path, Vec::new())?).map_err(|e| self.garbled(path, &e.to_string()))
    }

    /// `POST /v1/{path}`.
    pub(crate) fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        self.send(Method::POST, path, Some(body))
    }

    /// `POST /v1/{path}` with nothing to say and no answer to read.
    pub(crate) fn tell(&self, path: &str) -> Result<()> {
        self.raw(Method::POST, &versioned(path), Vec::new()).map(drop)
    }

    /// `PATCH /v1/{path}`.
    pub(crate) fn patch<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        self.send(Method::PATCH, path, Some(body))
    }

    /// `DELETE /v1/{path}`; what the reply holds is of no interest.
    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        self.raw(Method::DELETE, &versioned(path), Vec::new()).map(drop)
    }

    /// The status, if the daemon is one that this `cleave` can talk to.
    pub(crate) fn checked_status(&self) -> Result<Status> {
        let value: serde_json::Value = self.get("status")?;
        // The version is read first: the rest of another version's status may look different.
        let version = value["version"].as_str().unwrap_or("of an unknown version").to_owned();
        let abi = value["ledger_abi"].as_u64();
        let ours = env!("CARGO_PKG_VERSION");
        let (their_series, our_series) = (series(&version), series(ours));
        if their_series != our_series || abi != Some(u64::from(cleave_ledger::ABI)) {
            let abi = abi.map_or("unknown".to_owned(), |abi| abi.to_string());
            return Err(ErrorBody::new(
                ErrorCode::Conflict,
                format!(
                    "the daemon at {} is cleave {version} (ledger {abi}), this is cleave {ours} (ledger {}): both must be of one release series",
                    self.socket.display(),
                    cleave_ledger::ABI
                ),
                "restart the daemon with this version, which adopts the running slices, or use the `cleave` that the daemon came with",
            ));
        }
        serde_json::from_value(value).map_err(|e| self.garbled("status", &e.to_string()))
    }

    fn send<B: Serialize, T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&B>) -> Result<T> {
        let body = match body {
            Some(body) => serde_json::to_vec(body)
                .map_err(|e| ErrorBody::new(ErrorCode::Internal, format!("can't write the request: {e}"), ""))?,
            None => Vec::new(),
        };
        let reply = self.raw(method, &versioned(path), body)?;
        serde_json::from_slice(&reply).map_err(|e| self.garbled(path, &e.to_string()))
    }

    fn raw(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        let exchange = async {
            match tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await {
                Ok(reply) => reply,
                Err(_) => Err(ErrorBody::new(
                    ErrorCode::Unavailable,
                    format!("the daemon at {} did not answer within {} s", self.socket.display(), PATIENCE.as_secs()),
                    "see its log: `journalctl -u cleave`, or the terminal in which it runs",
                )),
            }
        };
        self.runtime.block_on(exchange)
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let broken = |e: hyper::Error| {
            ErrorBody::new(
                ErrorCode::Unavailable,
                format!("the daemon at {} broke off: {e}", self.socket.display()),
                "see whether it still runs: `cleave status`",
            )
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.map_err(broken)?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cleave")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| ErrorBody::new(ErrorCode::Invalid, format!("\"{path}\" is not a path: {e}"), ""))?;
        let reply = sender.send_request(request).await.map_err(broken)?;
        let status = reply.status();
        let body = reply.into_body().collect().await.map_err(broken)?.to_bytes();
        driver.abort();
        if status.is_success() {
            return Ok(body.to_vec());
        }
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
            ErrorBody::new(
                if status.as_u16() == 404 { ErrorCode::NotFound } else { ErrorCode::Internal },
                format!("the daemon at {} answered {status} to {path} without saying why", self.socket.display()),
                "is it cleave's daemon, and of this version? See `cleave status`",
            )
        }))
    }

    fn garbled(&self, path: &str, why: &str) -> ErrorBody {
        ErrorBody::new(
            ErrorCode::Internal,
            format!("the daemon at {} answered {path} with something else: {why}", self.socket.display()),
            "is it cleave's daemon, and of this version? See `cleave status`",
        )
    }

    fn unreachable(&self, error: &io::Error) -> ErrorBody {
        self.explain(&presence_of(error))
    }

    /// The error for a daemon that is not there.
    pub(crate) fn explain(&self, presence: &Presence) -> ErrorBody {
        let socket = self.socket.display();
        let start =
            "start one: `systemctl start cleave`, or `cleave daemon` in another terminal; `cleave run` starts its own";
        match presence {
            Presence::Answers => ErrorBody::new(ErrorCode::Internal, format!("{socket} answers"), ""),
            Presence::Absent => {
                ErrorBody::new(ErrorCode::Unavailable, format!("no daemon runs: there is no {socket}"), start)
            }
            Presence::Stale => ErrorBody::new(
                ErrorCode::Unavailable,
                format!("no daemon runs: {socket} is left over and nobody listens on it"),
                start,
            ),
            Presence::Denied => ErrorBody::new(
                ErrorCode::Forbidden,
                format!("no permission to use {socket}"),
                "join the group that owns it, or run your own daemon with `--run-dir DIR`",
            ),
            Presence::Broken(why) => ErrorBody::new(
                ErrorCode::Unavailable,
                format!("can't talk to the daemon at {socket}: {why}"),
                "choose another place with `--run-dir DIR`",
            ),
        }
    }
}

fn presence_of(error: &io::Error) -> Presence {
    match error.kind() {
        io::ErrorKind::NotFound => Presence::Absent,
        io::ErrorKind::ConnectionRefused => Presence::Stale,
        io::ErrorKind::PermissionDenied => Presence::Denied,
        _ => Presence::Broken(error.to_string()),
    }
}

fn versioned(path: &str) -> String {
    format!("/{API_VERSION}/{path}")
}

/// What must be equal for two versions to understand each other: the first number that is not 0, and those before it.
fn series(version: &str) -> Vec<&str> {
    let mut series = Vec::new();
    for part in version.split('.') {
        series.push(part);
        if part != "0" {
            break;
        }
    }
    series
}

/// `text` as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// A server that gives one canned answer for each connection and notes what it was asked.
    fn serve(answers: Vec<String>) -> (tempfile::TempDir, std::thread::JoinHandle<Vec<String>>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(API_SOCKET)).unwrap();
        let asked = std::thread::spawn(move || {
            answers
                .into_iter()
                .map(|answer| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut buffer = [0; 4096];
                    let n = stream.read(&mut buffer).unwrap();
                    stream.write_all(answer.as_bytes()).unwrap();
                    String::from_utf8_lossy(&buffer[..n]).into_owned()
                })
                .collect()
        });
        (dir, asked)
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_reply_is_read_and_the_path_is_versioned() {
        let (dir, asked) = serve(vec![answer("200 OK", r#"{"schema":"s","items":[1,2]}"#)]);
        let list: cleave_api::List<u32> = Client::new(dir.path()).unwrap().get("gpus").unwrap();
        assert_eq!(list.items, [1, 2]);
        assert!(asked.join().unwrap()[0].starts_with("GET /v1/gpus HTTP/1.1\r\n"));
    }

    #[test]
    fn the_daemons_own_error_is_passed_on() {
        let body = r#"{"code":"not-found","message":"GPU 9: there are 8","hint":"0 to 7"}"#;
        let (dir, _asked) = serve(vec![answer("404 Not Found", body)]);
        let error = Client::new(dir.path()).unwrap().get::<()>("gpus").unwrap_err();
        assert_eq!(error.code.exit_code(), 4);
        assert_eq!(error.message, "GPU 9: there are 8");
        assert_eq!(error.hint.as_deref(), Some("0 to 7"));
    }

    #[test]
    fn replies_of_something_else_are_named_as_such() {
        let cases =
            [answer("200 OK", "<html>"), answer("500 Internal Server Error", "oops"), "nonsense\r\n\r\n".into()];
        for reply in cases {
            let (dir, _asked) = serve(vec![reply]);
            let error = Client::new(dir.path()).unwrap().get::<cleave_api::Slice>("slices/a").unwrap_err();
            assert!(error.message.contains("api.sock"), "{error}");
            assert!(error.hint.is_some());
        }
    }

    #[test]
    fn missing_and_stale_sockets_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(dir.path()).unwrap();
        assert_eq!(client.presence(), Presence::Absent);
        drop(UnixListener::bind(dir.path().join(API_SOCKET)).unwrap());
        assert_eq!(client.presence(), Presence::Stale);
        let error = client.get::<()>("status").unwrap_err();
        assert!(error.message.contains("left over"), "{error}");
    }

    #[test]
    fn a_daemon_of_another_version_is_refused_whatever_its_status_looks_like() {
        for body in [r#"{"version":"9.1.0","ledger_abi":1}"#, r#"{"version":"0.1.0","ledger_abi":9999}"#, "{}"] {
            let (dir, _asked) = serve(vec![answer("200 OK", body)]);
            let error = Client::new(dir.path()).unwrap().checked_status().unwrap_err();
            assert_eq!(error.code, ErrorCode::Conflict);
            assert!(error.message.contains("release series"), "{error}");
        }
    }

    #[test]
    fn series_and_segments() {
        assert_eq!(series("0.1.7"), series("0.1.0"));
        assert_ne!(series("0.1.7"), series("0.2.0"));
        assert_eq!(series("1.9.0"), series("1.2.3"));
        assert_eq!(segment("a-b/../c d"), "a-b%2F..%2Fc%20d");
    }
}
