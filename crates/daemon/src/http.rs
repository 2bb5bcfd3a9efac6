//! The HTTP API: one table of operations makes both the router and the OpenAPI document.
use crate::metrics;
use crate::node::{Caller, Node};
use axum::body::Bytes;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{FromRequest, FromRequestParts, Path, RawQuery, Request, State};
use axum::http::{StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use axum::{Json, Router};
use cleave_api::{
    Drain, ErrorBody, ErrorCode, Event, Explanation, Gpu, GpuModes, Inventory, LaunchPlan, List, MigGpu, MigOutcome,
    MigRequest, Process, Slice, SliceChange, SliceSpec, Status,
};
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the handlers know.
pub type App = Arc<Node>;

/// Who is at the other end of a connection, before the daemon decides what that means.
#[derive(Clone, Debug)]
pub enum Remote {
    /// A process of this machine.
    Local {
        /// Its user.
        uid: u32,
        /// Its id.
        pid: Option<u32>,
    },
    /// Somebody over TCP, who must show the token.
    Tcp {
        /// What must be shown.
        token: Arc<str>,
    },
    /// Nobody knows.
    Unknown,
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, tokio::net::UnixListener>> for Remote {
    fn connect_info(stream: axum::serve::IncomingStream<'_, tokio::net::UnixListener>) -> Self {
        match stream.io().peer_cred() {
            Ok(peer) => Self::Local { uid: peer.uid(), pid: peer.pid().and_then(|p| u32::try_from(p).ok()) },
            Err(_) => Self::Unknown,
        }
    }
}

/// An error as an answer.
pub struct Failure(ErrorBody);

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        Self(body)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

type Answer<T> = Result<Json<T>, Failure>;

impl FromRequestParts<App> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Failure> {
        let own = rustix::process::geteuid().as_raw();
        let denied = |message: &str, hint: &str| Failure(ErrorBody::new(ErrorCode::Forbidden, message, hint));
        match parts.extensions.get::<ConnectInfo<Remote>>().map(|c| &c.0) {
            Some(Remote::Local { uid, pid }) => Ok(Self { uid: *uid, pid: *pid, admin: *uid == 0 || *uid == own }),
            Some(Remote::Tcp { token }) => {
                let shown = parts
                    .headers
                    .get(header::AUTHORIZATION)
                    .and_then(|value| value.to_str().ok())
                    .and_then(|value| value.strip_prefix("Bearer "));
                match shown {
                    Some(shown) if same_secret(shown.trim(), token) => Ok(Self { uid: own, pid: None, admin: true }),
                    Some(_) => Err(denied("the token is wrong", "it is in the daemon's --token-file")),
                    None => Err(denied("a token is needed", "send it as `Authorization: Bearer TOKEN`")),
                }
            }
            _ => Err(denied("the kernel does not say who you are", "")),
        }
    }
}

/// Compares without telling by its duration how much was right.
fn same_secret(a: &str, b: &str) -> bool {
    a.len() == b.len() && !b.is_empty() && a.bytes().zip(b.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// The slice that a path names.
struct Key(String);

impl FromRequestParts<App> for Key {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        match Path::<String>::from_request_parts(parts, app).await {
            Ok(Path(key)) => Ok(Self(key)),
            Err(error) => Err(Failure(ErrorBody::new(ErrorCode::Invalid, error.body_text(), ""))),
        }
    }
}

/// A request's body.
struct Raw(Bytes);

impl FromRequest<App> for Raw {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        match Bytes::from_request(request, app).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(error) => Err(Failure(ErrorBody::new(ErrorCode::Invalid, error.body_text(), ""))),
        }
    }
}

/// A request's body, read; what is wrong with it is said with the field's name.
fn body<T: DeserializeOwned + Default>(bytes: &Bytes) -> Result<T, Failure> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(bytes).map_err(|e| {
        Failure(ErrorBody::new(ErrorCode::Invalid, format!("the request's body: {e}"), "see /openapi.json"))
    })
}

/// The parameters behind `?`; unknown ones are errors.
struct Query(BTreeMap<String, String>);

impl Query {
    fn read(raw: Option<String>, known: &[&str]) -> Result<Self, Failure> {
        let mut found = BTreeMap::new();
        for pair in raw.as_deref().unwrap_or("").split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            if !known.contains(&name) {
                let known = if known.is_empty() { "there are none here".into() } else { known.join(", ") };
                let message = format!("unknown parameter \"{name}\"");
                return Err(Failure(ErrorBody::new(ErrorCode::Invalid, message, format!("known: {known}"))));
            }
            found.insert(name.to_owned(), decode(value));
        }
        Ok(Self(found))
    }

    fn parse<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<Option<T>, Failure> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Failure(ErrorBody::new(ErrorCode::Invalid, format!("parameter {name}: \"{text}\" is not {what}"), ""))
        })
    }
}

/// `%2F` and `+` in a parameter.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = tail.get(..2).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        bytes.push(match (first, hex) {
            (b'%', Some(byte)) => {
                rest = tail.get(2..).unwrap_or(&[]);
                byte
            }
            (b'+', _) => b' ',
            (other, _) => *other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn status(State(node): State<App>, _: Caller) -> Json<Status> {
    Json(node.status())
}

async fn gpus(State(node): State<App>, caller: Caller) -> Json<List<Gpu>> {
    Json(List::new("gpus", node.gpus(&caller)))
}

async fn modes(State(node): State<App>, _: Caller) -> Json<List<GpuModes>> {
    Json(List::new("modes", node.modes()))
}

async fn inventory(State(node): State<App>, _: Caller) -> Answer<Inventory> {
    // The system tree is read anew each time, and NVML asked a few hundred things.
    let read = tokio::task::spawn_blocking(move || node.inventory()).await;
    read.map(Json).map_err(|e| ErrorBody::new(Internal, format!("the inventory was not read: {e}"), "").into())
}

/// Runs what asks NVML for much, or has it do something.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(run).await {
        Ok(done) => done.map_err(Failure),
        Err(error) => {
            Err(ErrorBody::new(Internal, format!("it ended half way: {error}"), "see the daemon's log").into())
        }
    }
}

async fn mig(State(node): State<App>, caller: Caller) -> Answer<List<MigGpu>> {
    Ok(Json(List::new("mig", blocking(move || node.mig(&caller)).await?)))
}

async fn apply_mig(
    State(node): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
    Raw(bytes): Raw,
) -> Answer<MigOutcome> {
    let dry_run = Query::read(query, &["dry_run"])?.parse("dry_run", "true or false")?.unwrap_or(false);
    let request = body::<MigRequest>(&bytes)?;
    Ok(Json(blocking(move || node.apply_mig(&caller, &request, dry_run)).await?))
}

async fn forget_mig(State(node): State<App>, caller: Caller, Key(uuid): Key) -> Result<StatusCode, Failure> {
    blocking(move || node.forget_mig(&caller, &uuid)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn slices(State(node): State<App>, caller: Caller) -> Json<List<Slice>> {
    Json(List::new("slices", node.list(&caller)))
}

async fn slice(State(node): State<App>, caller: Caller, Key(key): Key) -> Answer<Slice> {
    Ok(Json(node.get(&caller, &key)?))
}

async fn processes(State(node): State<App>, caller: Caller) -> Json<List<Process>> {
    Json(List::new("processes", node.processes(&caller)))
}

async fn events(State(node): State<App>, caller: Caller, RawQuery(query): RawQuery) -> Answer<List<Event>> {
    let query = Query::read(query, &["since", "slice", "limit"])?;
    let since = query.parse("since", "the number of an event")?.unwrap_or(0);
    let limit = query.parse("limit", "a number")?.unwrap_or(1000).clamp(1, 20_000);
    let found = node.events(&caller, since, query.0.get("slice").map(String::as_str), limit)?;
    Ok(Json(List::new("events", found)))
}

async fn create(
    State(node): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
    Raw(bytes): Raw,
) -> Result<(StatusCode, Json<Slice>), Failure> {
    let dry_run = Query::read(query, &["dry_run"])?.parse("dry_run", "true or false")?.unwrap_or(false);
    let made = node.create(&caller, body::<SliceSpec>(&bytes)?, dry_run).await?;
    Ok((if dry_run { StatusCode::OK } else { StatusCode::CREATED }, Json(made)))
}

async fn replicas(
    State(node): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
    Raw(bytes): Raw,
) -> Result<(StatusCode, Json<List<Slice>>), Failure> {
    let query = Query::read(query, &["count", "dry_run"])?;
    let dry_run = query.parse("dry_run", "true or false")?.unwrap_or(false);
    let count = query.parse("count", "a number")?;
    let count = count.ok_or_else(|| ErrorBody::new(Invalid, "how many is not said", "add ?count=20"))?;
    let made = node.create_all(&caller, body::<SliceSpec>(&bytes)?, Some(count), dry_run).await?;
    Ok((if dry_run { StatusCode::OK } else { StatusCode::CREATED }, Json(List::new("slices", made))))
}

async fn launch(State(node): State<App>, caller: Caller, Key(key): Key) -> Answer<LaunchPlan> {
    Ok(Json(node.launch(&caller, &key)?))
}

async fn resize(State(node): State<App>, caller: Caller, Key(key): Key, Raw(bytes): Raw) -> Answer<Slice> {
    let change = body::<SliceChange>(&bytes)?;
    Ok(Json(node.resize(&caller, &key, change)?))
}

async fn pause(State(node): State<App>, caller: Caller, Key(key): Key) -> Answer<Slice> {
    Ok(Json(node.pause(&caller, &key, true)?))
}

async fn resume(State(node): State<App>, caller: Caller, Key(key): Key) -> Answer<Slice> {
    Ok(Json(node.pause(&caller, &key, false)?))
}

async fn suspend(State(node): State<App>, caller: Caller, Key(key): Key) -> Answer<Slice> {
    Ok(Json(node.suspend(&caller, &key, true).await?))
}

async fn wake(State(node): State<App>, caller: Caller, Key(key): Key) -> Answer<Slice> {
    Ok(Json(node.suspend(&caller, &key, false).await?))
}

async fn drain(State(node): State<App>, caller: Caller, Key(key): Key, RawQuery(query): RawQuery) -> Answer<Drain> {
    let query = Query::read(query, &["dry_run", "force"])?;
    let flag = |name| Ok::<bool, Failure>(query.parse(name, "true or false")?.unwrap_or(false));
    Ok(Json(node.drain(&caller, &key, flag("dry_run")?, flag("force")?)?))
}

async fn undrain(State(node): State<App>, caller: Caller, Key(key): Key) -> Answer<Drain> {
    Ok(Json(node.undrain(&caller, &key)?))
}

async fn explain(State(node): State<App>, caller: Caller, Key(key): Key) -> Answer<Explanation> {
    Ok(Json(node.explain(&caller, &key)?))
}

async fn remove(
    State(node): State<App>,
    caller: Caller,
    Key(key): Key,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Failure> {
    let force = Query::read(query, &["force"])?.parse("force", "true or false")?.unwrap_or(false);
    node.delete(&caller, &key, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn cdi(State(node): State<App>, caller: Caller, Key(key): Key) -> Answer<Value> {
    Ok(Json(node.cdi(&caller, &key)?))
}

async fn metrics(State(node): State<App>, caller: Caller) -> Result<impl IntoResponse, Failure> {
    let page = metrics::page(&node.gpus(&caller), &node.list(&caller))
        .map_err(|e| ErrorBody::new(Internal, format!("the metrics were not written: {e}"), ""))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page))
}

async fn shutdown(State(node): State<App>, caller: Caller) -> Result<StatusCode, Failure> {
    if !caller.admin {
        let hint = "root and the daemon's user may";
        return Err(Failure(ErrorBody::new(ErrorCode::Forbidden, "this user may not stop the daemon", hint)));
    }
    node.shut_down();
    Ok(StatusCode::NO_CONTENT)
}

async fn openapi() -> Json<Value> {
    Json(document())
}

/// Makes the schema of a body.
type SchemaOf = fn(&mut SchemaGenerator) -> Value;

/// One operation of the API.
struct Operation {
    path: &'static str,
    method: &'static str,
    summary: &'static str,
    /// Parameters behind `?`: name, type, meaning.
    query: &'static [(&'static str, &'static str, &'static str)],
    body: Option<SchemaOf>,
    /// Status and body of a success.
    success: (&'static str, Option<SchemaOf>),
    errors: &'static [ErrorCode],
    route: fn() -> MethodRouter<App>,
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

fn any_object(_: &mut SchemaGenerator) -> Value {
    json!({ "type": "object" })
}

use ErrorCode::{Conflict, Forbidden, Internal, Invalid, NotFound, Refused, Unavailable};

const OPERATIONS: &[Operation] = &[
    Operation {
        path: "/v1/status",
        method: "get",
        summary: "The daemon and its driver",
        query: &[],
        body: None,
        success: ("200", Some(schema::<Status>)),
        errors: &[Forbidden],
        route: || get(status),
    },
    Operation {
        path: "/v1/gpus",
        method: "get",
        summary: "The GPUs, and what of each is promised and used",
        query: &[],
        body: None,
        success: ("200", Some(schema::<List<Gpu>>)),
        errors: &[Forbidden],
        route: || get(gpus),
    },
    Operation {
        path: "/v1/modes",
        method: "get",
        summary: "Which engines each GPU can run, and why not the others",
        query: &[],
        body: None,
        success: ("200", Some(schema::<List<GpuModes>>)),
        errors: &[Forbidden],
        route: || get(modes),
    },
    Operation {
        path: "/v1/inventory",
        method: "get",
        summary: "What the machine has, whoever made it, and how it is linked",
        query: &[],
        body: None,
        success: ("200", Some(schema::<Inventory>)),
        errors: &[Forbidden, Internal],
        route: || get(inventory),
    },
    Operation {
        path: "/v1/mig",
        method: "get",
        summary: "MIG on each GPU: its mode, profiles and instances, and who uses them",
        query: &[],
        body: None,
        success: ("200", Some(schema::<List<MigGpu>>)),
        errors: &[Forbidden, Internal, Unavailable],
        route: || get(mig),
    },
    Operation {
        path: "/v1/mig",
        method: "post",
        summary: "Divide GPUs as they shall be, all or none, and keep them so",
        query: &[("dry_run", "boolean", "Only check, and say what would be done")],
        body: Some(schema::<MigRequest>),
        success: ("200", Some(schema::<MigOutcome>)),
        errors: &[Invalid, Forbidden, NotFound, Conflict, Refused, Internal, Unavailable],
        route: || post(apply_mig),
    },
    Operation {
        path: "/v1/mig/{gpu}",
        method: "delete",
        summary: "Leave a GPU as it is from now on: its layout is forgotten",
        query: &[],
        body: None,
        success: ("204", None),
        errors: &[Forbidden, NotFound, Internal],
        route: || delete(forget_mig),
    },
    Operation {
        path: "/v1/slices",
        method: "get",
        summary: "The slices that the caller may see, oldest first",
        query: &[],
        body: None,
        success: ("200", Some(schema::<List<Slice>>)),
        errors: &[Forbidden],
        route: || get(slices),
    },
    Operation {
        path: "/v1/slices",
        method: "post",
        summary: "Make a slice",
        query: &[("dry_run", "boolean", "Only check, and say what would be made")],
        body: Some(schema::<SliceSpec>),
        success: ("201", Some(schema::<Slice>)),
        errors: &[Invalid, Forbidden, NotFound, Conflict, Refused, Internal, Unavailable],
        route: || post(create),
    },
    Operation {
        path: "/v1/replicas",
        method: "post",
        summary: "Make slices alike on the same GPUs, named NAME-0 and so on, all or none",
        query: &[
            ("count", "integer", "How many, 1 to 1000"),
            ("dry_run", "boolean", "Only check, and say what would be made"),
        ],
        body: Some(schema::<SliceSpec>),
        success: ("201", Some(schema::<List<Slice>>)),
        errors: &[Invalid, Forbidden, NotFound, Conflict, Refused, Internal, Unavailable],
        route: || post(replicas),
    },
    Operation {
        path: "/v1/slices/{slice}",
        method: "get",
        summary: "A slice, by name or id",
        query: &[],
        body: None,
        success: ("200", Some(schema::<Slice>)),
        errors: &[Forbidden, NotFound],
        route: || get(slice),
    },
    Operation {
        path: "/v1/slices/{slice}",
        method: "patch",
        summary: "Change a slice while it runs",
        query: &[],
        body: Some(schema::<SliceChange>),
        success: ("200", Some(schema::<Slice>)),
        errors: &[Invalid, Forbidden, NotFound, Refused, Internal, Unavailable],
        route: || patch(resize),
    },
    Operation {
        path: "/v1/slices/{slice}",
        method: "delete",
        summary: "Delete a slice",
        query: &[("force", "boolean", "Kill its processes first")],
        body: None,
        success: ("204", None),
        errors: &[Invalid, Forbidden, NotFound, Conflict, Internal],
        route: || delete(remove),
    },
    Operation {
        path: "/v1/gpus/{gpu}/drain",
        method: "post",
        summary: "Take a GPU out of use: its slices go to others",
        query: &[("dry_run", "boolean", "Only say which would go where"), ("force", "boolean", "End their programs")],
        body: None,
        success: ("200", Some(schema::<Drain>)),
        errors: &[Invalid, Forbidden, NotFound, Refused, Internal, Unavailable],
        route: || post(drain),
    },
    Operation {
        path: "/v1/gpus/{gpu}/undrain",
        method: "post",
        summary: "Take a drained GPU back into use: its slices come back",
        query: &[],
        body: None,
        success: ("200", Some(schema::<Drain>)),
        errors: &[Invalid, Forbidden, NotFound, Internal, Unavailable],
        route: || post(undrain),
    },
    Operation {
        path: "/v1/slices/{slice}/pause",
        method: "post",
        summary: "Stop the slice's programs at their next kernel",
        query: &[],
        body: None,
        success: ("200", Some(schema::<Slice>)),
        errors: &[Forbidden, NotFound, Internal, Unavailable],
        route: || post(pause),
    },
    Operation {
        path: "/v1/slices/{slice}/resume",
        method: "post",
        summary: "Let the slice's programs go on",
        query: &[],
        body: None,
        success: ("200", Some(schema::<Slice>)),
        errors: &[Forbidden, NotFound, Internal, Unavailable],
        route: || post(resume),
    },
    Operation {
        path: "/v1/slices/{slice}/suspend",
        method: "post",
        summary: "Take the slice's memory off its GPUs, into host memory",
        query: &[],
        body: None,
        success: ("200", Some(schema::<Slice>)),
        errors: &[Forbidden, NotFound, Conflict, Internal, Unavailable],
        route: || post(suspend),
    },
    Operation {
        path: "/v1/slices/{slice}/wake",
        method: "post",
        summary: "Bring a suspended slice's memory back",
        query: &[],
        body: None,
        success: ("200", Some(schema::<Slice>)),
        errors: &[Forbidden, NotFound, Conflict, Refused, Internal, Unavailable],
        route: || post(wake),
    },
    Operation {
        path: "/v1/slices/{slice}/explain",
        method: "get",
        summary: "Why the slice runs as it does: its share, its neighbours, what holds it back",
        query: &[],
        body: None,
        success: ("200", Some(schema::<Explanation>)),
        errors: &[Forbidden, NotFound],
        route: || get(explain),
    },
    Operation {
        path: "/v1/slices/{slice}/launch",
        method: "post",
        summary: "How a program is put into the slice; what the caller starts counts as the slice's",
        query: &[],
        body: None,
        success: ("200", Some(schema::<LaunchPlan>)),
        errors: &[Forbidden, NotFound],
        route: || post(launch),
    },
    Operation {
        path: "/v1/slices/{slice}/cdi",
        method: "get",
        summary: "The slice as a CDI spec for container engines",
        query: &[],
        body: None,
        success: ("200", Some(any_object)),
        errors: &[Forbidden, NotFound],
        route: || get(cdi),
    },
    Operation {
        path: "/v1/processes",
        method: "get",
        summary: "The processes in the slices that the caller may see",
        query: &[],
        body: None,
        success: ("200", Some(schema::<List<Process>>)),
        errors: &[Forbidden],
        route: || get(processes),
    },
    Operation {
        path: "/v1/events",
        method: "get",
        summary: "What happened, oldest first",
        query: &[
            ("since", "integer", "Only events with a greater number"),
            ("slice", "string", "Only events of this slice"),
            ("limit", "integer", "At most so many; 1000 if absent"),
        ],
        body: None,
        success: ("200", Some(schema::<List<Event>>)),
        errors: &[Invalid, Forbidden, Internal],
        route: || get(events),
    },
    Operation {
        path: "/metrics",
        method: "get",
        summary: "GPUs and the slices that the caller may see, as text for Prometheus",
        query: &[],
        body: None,
        success: ("200", None),
        errors: &[Forbidden, Internal],
        route: || get(metrics),
    },
    Operation {
        path: "/v1/shutdown",
        method: "post",
        summary: "End the daemon; slices and running programs stay",
        query: &[],
        body: None,
        success: ("204", None),
        errors: &[Forbidden],
        route: || post(shutdown),
    },
    Operation {
        path: "/openapi.json",
        method: "get",
        summary: "This document",
        query: &[],
        body: None,
        success: ("200", Some(any_object)),
        errors: &[],
        route: || get(openapi),
    },
];

/// The API.
pub fn router(node: App) -> Router {
    let mut router = Router::new();
    for operation in OPERATIONS {
        router = router.route(operation.path, (operation.route)());
    }
    router
        .fallback(|parts: Parts| async move {
            let message = format!("there is no {}", parts.uri.path());
            Failure(ErrorBody::new(ErrorCode::NotFound, message, "/openapi.json says what there is"))
        })
        .method_not_allowed_fallback(|parts: Parts| async move {
            let message = format!("{} can't be done to {}", parts.method, parts.uri.path());
            let body = ErrorBody::new(ErrorCode::Invalid, message, "/openapi.json says what can");
            (StatusCode::METHOD_NOT_ALLOWED, Json(body))
        })
        .with_state(node)
}

/// The OpenAPI document.
pub fn document() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let error = schema::<ErrorBody>(&mut generator);
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in OPERATIONS {
        let mut parameters: Vec<Value> = Vec::new();
        for (name, meaning) in [("slice", "Name or id"), ("gpu", "UUID")] {
            if operation.path.contains(&format!("{{{name}}}")) {
                parameters.push(json!({
                    "name": name, "in": "path", "required": true, "description": meaning, "schema": { "type": "string" },
                }));
            }
        }
        parameters.extend(operation.query.iter().map(|(name, kind, meaning)| {
            json!({ "name": name, "in": "query", "required": false, "description": meaning, "schema": { "type": kind } })
        }));
        let mut responses = Map::new();
        let mut success = json!({ "description": "Done" });
        if let Some(of) = operation.success.1 {
            success = json!({ "description": "Done", "content": content(of(&mut generator)) });
        }
        responses.insert(operation.success.0.into(), success);
        if operation.query.iter().any(|(name, ..)| *name == "dry_run")
            && let Some(of) = operation.success.1
        {
            let shown = json!({ "description": "Dry run", "content": content(of(&mut generator)) });
            responses.insert("200".into(), shown);
        }
        for code in operation.errors {
            let shown = json!({ "description": format!("{code:?}"), "content": content(error.clone()) });
            responses.insert(code.http_status().to_string(), shown);
        }
        let mut shown = json!({
            "operationId": operation_id(operation),
            "summary": operation.summary,
            "parameters": parameters,
            "responses": responses,
        });
        if let (Some(of), Some(shown)) = (operation.body, shown.as_object_mut()) {
            let body = json!({ "required": true, "content": content(of(&mut generator)) });
            shown.insert("requestBody".into(), body);
        }
        paths.entry(operation.path).or_default().insert(operation.method.into(), shown);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "cleave",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The node daemon: slices of GPUs with hard memory quotas.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "Over TCP only; the Unix socket knows its caller." }
            },
        },
        "security": [{}, { "token": [] }],
    })
}

fn operation_id(operation: &Operation) -> String {
    let words = operation.path.trim_start_matches("/v1").replace(['/', '{', '}', '.'], "_");
    let mut id = format!("{}{words}", operation.method);
    while id.contains("__") {
        id = id.replace("__", "_");
    }
    id.trim_end_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_unknown_ones_refused() {
        let query = Query::read(Some("since=5&slice=a%2Db+c&limit".into()), &["since", "slice", "limit"]).ok().unwrap();
        assert_eq!(query.parse::<u64>("since", "").ok().unwrap(), Some(5));
        assert_eq!(query.0["slice"], "a-b c");
        assert!(query.parse::<u64>("limit", "a number").is_err());
        let error = Query::read(Some("forced=1".into()), &["force"]).err().unwrap();
        assert!(error.0.message.contains("forced") && error.0.hint.unwrap().contains("force"));
        for odd in ["%", "%2", "%zz", "%%41"] {
            decode(odd);
        }
        assert_eq!(decode("%%41"), "%A");
    }

    #[test]
    fn secrets() {
        assert!(same_secret("abc", "abc"));
        for (a, b) in [("abc", "abd"), ("abc", "ab"), ("", ""), ("", "a")] {
            assert!(!same_secret(a, b));
        }
    }

    /// Every reference leads somewhere, every operation has an id of its own, and its errors are the API's.
    #[test]
    fn the_document_is_complete() {
        let document = document();
        let mut ids = std::collections::BTreeSet::new();
        for operation in OPERATIONS {
            let shown = &document["paths"][operation.path][operation.method];
            assert!(ids.insert(shown["operationId"].as_str().unwrap().to_owned()));
            assert_eq!(shown["summary"], operation.summary);
            assert!(shown["responses"][operation.success.0].is_object());
            assert_eq!(shown["requestBody"].is_object(), operation.body.is_some());
        }
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        found.push(to.clone());
                    }
                    map.values().for_each(|v| references(v, found));
                }
                Value::Array(list) => list.iter().for_each(|v| references(v, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for to in found {
            let pointer = to.strip_prefix('#').unwrap_or_else(|| panic!("{to}"));
            assert!(document.pointer(pointer).is_some(), "{to}");
        }
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for name in
            ["Slice", "SliceSpec", "SliceChange", "ErrorBody", "LaunchPlan", "Gpu", "Event", "Process", "Status"]
        {
            assert!(schemas.contains_key(name), "{name}: {:?}", schemas.keys());
        }
        assert_eq!(schemas["SliceSpec"]["additionalProperties"], false);
    }
}
