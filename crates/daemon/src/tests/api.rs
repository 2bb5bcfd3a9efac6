//! The HTTP API from outside.
use super::*;
use crate::ffi::os;
use crate::files::RunDir;
use crate::http::{Remote, document, router};
use crate::node::Node;
use crate::store::{ContextCost, Store};
use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::http::Request;
use cleave_api::{ErrorCode, Gpu, LaunchPlan, Status};
use http_body_util::BodyExt;
use std::sync::Arc;
use tower::ServiceExt;

#[test]
fn slices_are_made_changed_and_deleted() {
    let world = World::new();
    let daemon = world.start();
    let status: Status = daemon.ok("GET", "/v1/status", Value::Null);
    assert_eq!((status.gpus, status.ledger_abi, status.pid), (2, ABI, daemon.child.id()));
    let slice = daemon.create("train", "10GiB");
    assert_eq!((slice.devices[0].limit_bytes, slice.devices[0].gpu), (10 * GIB, 0));
    assert_eq!(daemon.slice(&slice.id), daemon.slice("train"));
    assert!(world.path("cdi/cleave.dev-slice-train.json").exists());

    let (status, error) = daemon.error("POST", "/v1/slices", json!({ "name": "train", "memory": "1GiB" }));
    assert_eq!((status, error.code), (409, ErrorCode::Conflict));
    let dry: Slice = daemon.ok("POST", "/v1/slices?dry_run=true", json!({ "name": "dry", "fraction": "1/4" }));
    assert_eq!((dry.devices[0].limit_bytes, dry.compute_percent), (20 * GIB, Some(25.0)));
    assert_eq!(daemon.error("GET", "/v1/slices/dry", Value::Null).0, 404);
    let (_, error) = daemon.error("POST", "/v1/slices?dry_run=true", json!({ "gpu": "0", "memory": "75GiB" }));
    assert!(error.message.contains("70 GiB left of 80 GiB (taken: train 10 GiB)"), "{error}");
    let over = json!({ "name": "over", "gpu": "0", "memory": "75GiB", "oversubscribe": 2 });
    assert!(daemon.ok::<Slice>("POST", "/v1/slices", over).overcommitted);
    let _: Value = daemon.ok("DELETE", "/v1/slices/over", Value::Null);

    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    tenant.tell(&format!("hold linear {}", 4 * GIB));
    let limit = |daemon: &Daemon| {
        let policy = File::open(daemon.run_dir.join("slices").join(&slice.id).join("policy")).unwrap();
        let mut word = [0; 8];
        let at = offset_of!(Policy, devices) + offset_of!(cleave_ledger::DevicePolicy, limit);
        policy.read_exact_at(&mut word, at as u64).unwrap();
        u64::from_ne_bytes(word)
    };
    let grown: Slice = daemon.ok("PATCH", "/v1/slices/train", json!({ "memory": "20GiB", "compute": "30%" }));
    assert_eq!((grown.devices[0].limit_bytes, grown.compute_percent, limit(&daemon)), (20 * GIB, Some(30.0), 20 * GIB));
    let (status, error) = daemon.error("PATCH", "/v1/slices/train", json!({ "memory": "3GiB" }));
    assert_eq!((status, limit(&daemon)), (422, 20 * GIB));
    assert!(error.message.contains("uses 4 GiB") && error.message.contains("3 GiB asked"), "{error}");
    let forced: Slice = daemon.ok("PATCH", "/v1/slices/train", json!({ "memory": "3GiB", "force": true }));
    assert_eq!((forced.devices[0].limit_bytes, limit(&daemon)), (3 * GIB, 3 * GIB));

    let (status, error) = daemon.error("DELETE", "/v1/slices/train", Value::Null);
    assert_eq!(status, 409);
    assert!(error.message.contains(&format!("pid {}", tenant.pid())), "{error}");
    let _: Value = daemon.ok("DELETE", "/v1/slices/train?force=true", Value::Null);
    assert!(!tenant.child.wait().unwrap().success(), "it was killed");
    assert_eq!(daemon.error("GET", "/v1/slices/train", Value::Null).0, 404);
    assert_eq!(fs::read_dir(world.path("cdi")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(world.path("r/slices")).unwrap().count(), 0);
    let kinds: Vec<String> = daemon
        .ok::<List<Event>>("GET", "/v1/events?slice=train", Value::Null)
        .items
        .into_iter()
        .map(|e| e.kind)
        .collect();
    assert_eq!(
        kinds,
        ["slice-created", "process-started", "slice-resized", "slice-resized", "process-ended", "slice-deleted"]
    );
}

#[test]
fn what_is_wrong_is_named() {
    let world = World::new();
    let daemon = world.start();
    daemon.create("train", "10GiB");
    let cases: &[(&str, &str, Value, u16, &[&str])] = &[
        ("POST", "/v1/slices", json!({ "memroy": "1GiB" }), 400, &["memroy", "memory"]),
        ("POST", "/v1/slices", json!({ "memory": "lots" }), 400, &["lots"]),
        ("POST", "/v1/slices", json!({ "memory": 5 }), 400, &["string"]),
        ("POST", "/v1/slices", json!([1]), 400, &["body"]),
        ("POST", "/v1/slices", json!({ "gpu": "9" }), 404, &["\"9\"", "0: Text"]),
        ("POST", "/v1/slices", json!({ "name": "Not A Name" }), 400, &["Not A Name"]),
        ("POST", "/v1/slices", json!({ "memory": "81GiB" }), 422, &["81 GiB", "80 GiB"]),
        ("POST", "/v1/slices", json!({ "owner": "no-such-user" }), 404, &["no-such-user"]),
        ("POST", "/v1/slices", json!({ "mode": "hard" }), 400, &["hard", "balanced", "strict"]),
        ("POST", "/v1/slices", json!({ "priority": "top" }), 400, &["top", "production"]),
        ("POST", "/v1/slices", json!({ "burst_ms": 5 }), 400, &["5 ms", "balanced", "strict"]),
        ("PATCH", "/v1/slices/train", json!({ "priority": "8" }), 400, &["\"8\"", "7"]),
        ("POST", "/v1/slices", json!({ "oversubscribe": 0.5 }), 400, &["0.5", "1 to 100"]),
        ("POST", "/v1/replicas", json!({}), 400, &["count=20"]),
        ("POST", "/v1/replicas?count=many", json!({}), 400, &["many"]),
        ("POST", "/v1/slices?dryrun=1", json!({}), 400, &["dryrun", "dry_run"]),
        ("POST", "/v1/slices?dry_run=maybe", json!({}), 400, &["maybe"]),
        ("PATCH", "/v1/slices/train", json!({}), 400, &["nothing to change"]),
        ("PATCH", "/v1/slices/nope", json!({ "memory": "1GiB" }), 404, &["nope"]),
        ("GET", "/v1/events?since=yesterday", Value::Null, 400, &["yesterday"]),
        ("DELETE", "/v1/slices/nope", Value::Null, 404, &["nope"]),
        ("GET", "/v2/slices", Value::Null, 404, &["/v2/slices"]),
        ("PUT", "/v1/slices", Value::Null, 405, &["PUT"]),
        ("GET", "/v1/slices/..%2f..%2fetc", Value::Null, 404, &["no slice"]),
    ];
    for (method, path, body, status, parts) in cases {
        let (got, error) = daemon.error(method, path, body.clone());
        assert_eq!(got, *status, "{method} {path}: {error}");
        for part in *parts {
            assert!(error.to_string().contains(part), "{method} {path}: {part}: {error}");
        }
    }
    assert_eq!(daemon.request("POST", "/v1/slices", "{").0, 400);
    let long = json!({ "name": "x".repeat(3 << 20) });
    let (status, error) = daemon.error("POST", "/v1/slices", long);
    assert_eq!((status, error.code), (400, ErrorCode::Invalid));
    assert!(error.message.contains("length limit"), "{error}");
    assert_eq!(daemon.error("GET", "/v1/slices/%ff", Value::Null).0, 400);
    let shown: Value = daemon.ok("GET", "/openapi.json", Value::Null);
    assert_eq!(shown, document());
}

#[test]
fn a_launch_plan_has_all_that_a_program_needs() {
    let world = World::new();
    let daemon = world.start();
    let body = json!({ "name": "both", "gpu": "1,0", "memory": "1GiB", "on_missing": "allow" });
    let slice: Slice = daemon.ok("POST", "/v1/slices", body);
    let plan: LaunchPlan = daemon.ok("POST", "/v1/slices/both/launch", Value::Null);
    assert_eq!(
        plan.environment["CUDA_VISIBLE_DEVICES"],
        format!("{},{}", slice.devices[0].gpu_uuid, slice.devices[1].gpu_uuid)
    );
    let strict: Slice = daemon.ok("POST", "/v1/slices", json!({ "name": "strict", "gpu": "1,0", "memory": "1GiB" }));
    let numbered: LaunchPlan = daemon.ok("POST", "/v1/slices/strict/launch", Value::Null);
    assert_eq!(strict.devices.len(), 2);
    assert_eq!(numbered.environment["CUDA_VISIBLE_DEVICES"], "0,1");
    assert_eq!(plan.environment["CLEAVE_SOCKET"], daemon.socket(&slice).to_str().unwrap());
    assert_eq!(plan.environment["LD_LIBRARY_PATH"], plan.library_dir);
    assert_eq!(plan.covers, ["/opt/nv/libcuda.so.1"]);
    assert!(Path::new(&plan.socket_dir).join("fail-open").exists());
    let cdi: Value = daemon.ok("GET", "/v1/slices/both/cdi", Value::Null);
    assert_eq!(cdi["devices"][0]["name"], "both");
    assert_eq!(cdi["devices"][0]["containerEdits"]["deviceNodes"][0]["path"], "/dev/nvidia1");
}

/// As many slices as `CLEAVE_TEST_SLICES` says (1000): each is made, or refused with a reason and nothing of it left; all are
/// there after a crash, and the last one works.
#[test]
fn many_slices() {
    let wanted: usize = std::env::var("CLEAVE_TEST_SLICES").map_or(1000, |text| text.parse().unwrap());
    let world = World::new();
    let daemon = world.start();
    let began = Instant::now();
    let mut made = 0;
    let refusal = loop {
        if made == wanted {
            break None;
        }
        let body = json!({ "name": format!("s-{made}"), "gpu": "0", "memory": "1MiB" });
        let (status, reply) = daemon.request("POST", "/v1/slices", &body.to_string());
        if status != 201 {
            break Some((status, serde_json::from_slice::<ErrorBody>(&reply).unwrap()));
        }
        made += 1;
        if made.is_multiple_of(1000) {
            eprintln!("{made} slices after {:?}", began.elapsed());
        }
    };
    if let Some((status, error)) = refusal {
        eprintln!("then: {error}");
        assert!(status == 503 && error.message.contains("nothing was made") && error.hint.is_some(), "{error}");
    }
    let folders = || fs::read_dir(world.path("r/slices")).unwrap().count();
    let specs = || fs::read_dir(world.path("cdi")).unwrap().count();
    let count = |daemon: &Daemon| daemon.ok::<List<Slice>>("GET", "/v1/slices", Value::Null).items.len();
    assert_eq!((folders(), specs(), count(&daemon)), (made, made, made));
    let last = daemon.slice(&format!("s-{}", made - 1));
    daemon.crash();
    let began = Instant::now();
    let daemon = world.start();
    eprintln!("{made} slices are back after {:?}", began.elapsed());
    assert_eq!((folders(), specs(), count(&daemon)), (made, made, made));
    assert_eq!(daemon.slice(&last.id), last);
    assert_eq!(Tenant::start(&daemon.socket(&last)).register(), 0);
    let began = Instant::now();
    for index in 0..made {
        let _: Value = daemon.ok("DELETE", &format!("/v1/slices/s-{index}"), Value::Null);
    }
    eprintln!("{made} slices are deleted after {:?}", began.elapsed());
    assert_eq!((folders(), specs(), count(&daemon)), (0, 0, 0));
}

/// The daemon runs out of descriptors: that is said, nothing is left of what was not made, and it still answers and takes
/// processes in.
#[test]
fn when_descriptors_run_out_nothing_is_half_made() {
    let world = World::new();
    let daemon = world.start_with("files=400");
    let mut made = Vec::new();
    let error = loop {
        let body = json!({ "name": format!("s-{}", made.len()), "gpu": "0", "memory": "1MiB" });
        let (status, reply) = daemon.request("POST", "/v1/slices", &body.to_string());
        if status != 201 {
            assert_eq!(status, 503);
            break serde_json::from_slice::<ErrorBody>(&reply).unwrap();
        }
        made.push(serde_json::from_slice::<Slice>(&reply).unwrap());
        assert!(made.len() < 200, "400 descriptors can't be enough for 200 slices");
    };
    assert!(error.message.contains("Too many open files") && error.message.contains("nothing was made"), "{error}");
    assert!(error.hint.unwrap().contains("LimitNOFILE"));
    let list: List<Slice> = daemon.ok("GET", "/v1/slices", Value::Null);
    assert_eq!(list.items.len(), made.len());
    for folder in ["r/slices", "cdi"] {
        assert_eq!(fs::read_dir(world.path(folder)).unwrap().count(), made.len(), "{folder}");
    }
    let mut tenants: Vec<Tenant> = (0..8).map(|_| Tenant::start(&daemon.socket(&made[0]))).collect();
    for (slot, tenant) in tenants.iter_mut().enumerate() {
        assert_eq!(tenant.register(), slot as u32);
    }
    drop(tenants);
    eventually("all have gone", || daemon.slice("s-0").processes.is_empty());
    let _: Value = daemon.ok("DELETE", "/v1/slices/s-1", Value::Null);
    // Its sockets are closed a moment after it is gone.
    let body = json!({ "name": "instead", "gpu": "0", "memory": "1MiB" }).to_string();
    eventually("there is room again", || daemon.request("POST", "/v1/slices", &body).0 == 201);
    // Of many alike some could still be made: none is.
    let _: Value = daemon.ok("DELETE", "/v1/slices/s-2", Value::Null);
    let before = daemon.ok::<List<Slice>>("GET", "/v1/slices", Value::Null).items.len();
    let body = json!({ "name": "many", "gpu": "0", "memory": "1MiB" });
    let (status, error) = daemon.error("POST", "/v1/replicas?count=100", body);
    assert!(status == 503 && error.message.contains("Too many open files"), "{error}");
    assert_eq!(daemon.ok::<List<Slice>>("GET", "/v1/slices", Value::Null).items.len(), before);
    assert_eq!(fs::read_dir(world.path("r/slices")).unwrap().count(), before);
    daemon.crash();
    let daemon = world.start();
    assert_eq!(daemon.ok::<List<Slice>>("GET", "/v1/slices", Value::Null).items.len(), before);
}

fn node(world: &World) -> Arc<Node> {
    let config = world.config();
    fs::create_dir_all(&config.run_dir).unwrap();
    let run = RunDir::open(&config.run_dir).unwrap();
    let store = Store::open(Path::new(":memory:")).unwrap();
    Node::new(config, Box::new(TextNvml::new(world.path("nvml"))), DriverFiles::default(), run, store)
}

async fn ask(node: &Arc<Node>, remote: Remote, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let mut request = Request::builder().method(method).uri(path).extension(ConnectInfo(remote));
    if !token.is_empty() {
        request = request.header("authorization", token);
    }
    let reply = router(Arc::clone(node)).oneshot(request.body(Body::from(text)).unwrap()).await.unwrap();
    let status = reply.status().as_u16();
    let bytes = reply.into_body().collect().await.unwrap().to_bytes();
    let text = || if bytes.is_empty() { Value::Null } else { String::from_utf8_lossy(&bytes).into() };
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
}

fn user(uid: u32) -> Remote {
    Remote::Local { uid, pid: None }
}

/// Another user sees and does what is its own, and can't tell what else there is.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_their_own() {
    let world = World::new();
    let node = node(&world);
    for (name, owner) in [("a", "1001"), ("b", "1002")] {
        let body = json!({ "name": name, "gpu": "0", "memory": "1GiB", "owner": owner });
        assert_eq!(ask(&node, user(0), "POST", "/v1/slices", "", body).await.0, 201);
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap().to_owned()).collect()
    };
    let (_, list) = ask(&node, user(1001), "GET", "/v1/slices", "", Value::Null).await;
    assert_eq!(names(&list), ["a"]);
    let (_, list) = ask(&node, user(0), "GET", "/v1/slices", "", Value::Null).await;
    assert_eq!(names(&list), ["a", "b"]);
    let (_, gpus) = ask(&node, user(1002), "GET", "/v1/gpus", "", Value::Null).await;
    let gpus: List<Gpu> = serde_json::from_value(gpus).unwrap();
    assert_eq!((gpus.items[0].slices.as_slice(), gpus.items[0].reserved_bytes), (["b".to_owned()].as_slice(), 2 * GIB));
    let (_, events) = ask(&node, user(1002), "GET", "/v1/events", "", Value::Null).await;
    assert!(events["items"].as_array().unwrap().iter().all(|e| e["slice"] == "b"));
    let (_, events) = ask(&node, user(1002), "GET", "/v1/events?slice=a", "", Value::Null).await;
    assert_eq!(events["items"], json!([]));
    let (_, page) = ask(&node, user(1002), "GET", "/metrics", "", Value::Null).await;
    let page = page.as_str().unwrap();
    assert!(page.contains("cleave_slice_paused{slice=\"b\"} 0\n") && !page.contains("slice=\"a\""), "{page}");
    assert!(page.contains("cleave_gpu_slices{gpu=\"0\"} 2\n"), "{page}");

    // What it can't see is not there, whatever it tries.
    let grow = json!({ "memory": "2GiB" });
    for (method, path, body) in [
        ("GET", "/v1/slices/a", Value::Null),
        ("GET", "/v1/slices/a/cdi", Value::Null),
        ("POST", "/v1/slices/a/launch", Value::Null),
        ("POST", "/v1/slices/a/pause", Value::Null),
        ("PATCH", "/v1/slices/a", grow.clone()),
        ("DELETE", "/v1/slices/a?force=true", Value::Null),
    ] {
        let (status, theirs) = ask(&node, user(1002), method, path, "", body.clone()).await;
        let (_, nobodys) = ask(&node, user(1002), method, &path.replace("/a", "/x"), "", body).await;
        assert_eq!(status, 404, "{method} {path}");
        assert_eq!(theirs.to_string().replace("\\\"a\\\"", "\\\"x\\\""), nobodys.to_string());
    }
    // What it can see it may use and give up, not enlarge; and it makes none.
    assert_eq!(ask(&node, user(1001), "POST", "/v1/slices/a/launch", "", Value::Null).await.0, 200);
    let (status, error) = ask(&node, user(1001), "PATCH", "/v1/slices/a", "", grow).await;
    assert_eq!(status, 403, "{error}");
    for path in ["/v1/slices/a/pause", "/v1/slices/a/resume"] {
        assert_eq!(ask(&node, user(1001), "POST", path, "", Value::Null).await.0, 403, "{path}");
    }
    let (_, why) = ask(&node, user(1001), "GET", "/v1/slices/a/explain", "", Value::Null).await;
    assert_eq!((&why["slice"], &why["devices"][0]["reasons"][0]["kind"]), (&json!("a"), &json!("no-process")));
    let (status, error) = ask(&node, user(1001), "POST", "/v1/slices", "", json!({ "memory": "1GiB" })).await;
    assert_eq!(status, 403);
    assert!(error["hint"].as_str().unwrap().contains("--owner"), "{error}");
    assert_eq!(ask(&node, user(1001), "POST", "/v1/shutdown", "", Value::Null).await.0, 403);
    assert_eq!(ask(&node, user(1001), "DELETE", "/v1/slices/a", "", Value::Null).await.0, 204);
    assert_eq!(ask(&node, Remote::Unknown, "GET", "/v1/status", "", Value::Null).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_a_token_is_needed() {
    let world = World::new();
    let node = node(&world);
    let remote = || Remote::Tcp { token: "0123456789abcdef".into() };
    for (token, status) in [
        ("", 403),
        ("Bearer ", 403),
        ("Bearer 0123456789abcdeX", 403),
        ("Basic 0123456789abcdef", 403),
        ("Bearer 0123456789abcdef", 200),
    ] {
        assert_eq!(ask(&node, remote(), "GET", "/v1/status", token, Value::Null).await.0, status, "{token}");
    }
}

/// The context's cost is known from the database: a quota below it is refused with both numbers, and the policy has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_below_a_context_is_refused() {
    let world = World::new();
    let node = node(&world);
    let cost = ContextCost { context_bytes: 518 * MIB, stack_factor: 270_336 };
    node.lock().store.put_context("Text", "580.1", cost).unwrap();
    let (status, error) =
        ask(&node, user(0), "POST", "/v1/slices", "", json!({ "gpu": "0", "memory": "100MiB" })).await;
    assert_eq!(status, 422);
    assert!(
        error["message"].as_str().unwrap().contains("100 MiB is less than") && error.to_string().contains("518 MiB")
    );
    let (status, made) = ask(&node, user(0), "POST", "/v1/slices", "", json!({ "gpu": "0", "memory": "1GiB" })).await;
    assert_eq!(status, 201);
    let slice: Slice = serde_json::from_value(made).unwrap();
    let inner = node.lock();
    let device = &inner.slices[&slice.id].files.policy.devices[0];
    assert_eq!(
        (device.context_bytes.load(std::sync::atomic::Ordering::SeqCst), device.stack_factor),
        (518 * MIB, 270_336)
    );
}

#[test]
fn tcp_is_served_with_tls_or_on_loopback_only() {
    let world = World::new();
    fs::write(world.path("token"), "0123456789abcdef\n").unwrap();
    let mut refused = world.try_start("listen=0.0.0.0:0");
    assert!(!refused.child.wait().unwrap().success());
    assert!(refused.log().contains("--tls-cert"), "{}", refused.log());
    let port = |daemon: &Daemon| {
        let mut port = 0;
        eventually("the port is logged", || {
            let log = daemon.log();
            let found =
                log.rsplit_once("served on 127.0.0.1:").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
            port = found.unwrap_or(0);
            port != 0
        });
        port
    };
    let request =
        "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n";
    let daemon = world.start_with("listen=127.0.0.1:0");
    let mut plain = std::net::TcpStream::connect(("127.0.0.1", port(&daemon))).unwrap();
    plain.write_all(request.as_bytes()).unwrap();
    assert_eq!(read_reply(plain).0, 200);
    daemon.stop();

    let cert = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(world.path("cert.pem"), cert.cert.pem()).unwrap();
    fs::write(world.path("key.pem"), cert.signing_key.serialize_pem()).unwrap();
    fs::remove_file(world.path("log")).unwrap();
    let daemon = world.start_with("listen=127.0.0.1:0");
    use tokio_rustls::rustls::{
        ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto, pki_types::ServerName,
    };
    let mut roots = RootCertStore::empty();
    roots.add(cert.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // One that never shakes hands holds up nobody.
    let _silent = std::net::TcpStream::connect(("127.0.0.1", port(&daemon))).unwrap();
    let stream = std::net::TcpStream::connect(("127.0.0.1", port(&daemon))).unwrap();
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut tls = StreamOwned::new(client, stream);
    tls.write_all(request.as_bytes()).unwrap();
    assert_eq!(read_reply(tls).0, 200);
}

#[test]
fn the_kernel_says_who_connects() {
    let (a, b) = UnixStream::pair().unwrap();
    assert_eq!(os::peer_credentials(&a).unwrap(), (std::process::id(), rustix::process::geteuid().as_raw()));
    if let Ok(pidfd) = os::peer_pidfd(&b) {
        assert!(rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::CONT).is_ok());
    }
}
