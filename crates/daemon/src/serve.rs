//! Where the API is served: the Unix socket, and TCP if asked for.
use crate::config::Tcp;
use crate::files::open_to_all;
use crate::http::{self, Remote};
use crate::node::Node;
use anyhow::{Context, bail};
use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that have shaken hands and wait to be served.
const WAITING: usize = 64;

/// Binds the Unix socket; a stale one is replaced. Others see it only when everybody may use it.
pub fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).with_context(|| format!("can't make {}", path.display()))?;
    open_to_all(&temporary)?;
    fs::rename(&temporary, path).with_context(|| format!("can't make {}", path.display()))?;
    Ok(listener)
}

/// Serves until the daemon ends.
pub async fn unix(node: Arc<Node>, listener: UnixListener) -> io::Result<()> {
    let service = http::router(Arc::clone(&node)).into_make_service_with_connect_info::<Remote>();
    axum::serve(listener, service).with_graceful_shutdown(async move { node.stopped().await }).await
}

/// A TCP socket with what is needed to serve on it.
pub struct Door {
    listener: TcpListener,
    token: Arc<str>,
    tls: Option<TlsAcceptor>,
}

/// A connection, with TLS or without.
pub enum Stream {
    /// Without.
    Plain(TcpStream),
    /// With.
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut task::Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Connections as they become ready, for axum.
pub struct Ready {
    streams: mpsc::Receiver<(Stream, SocketAddr)>,
    address: SocketAddr,
    token: Arc<str>,
}

impl axum::serve::Listener for Ready {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.streams.recv().await {
            Some(ready) => ready,
            // The acceptor lives as long as the daemon.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Ready>> for Remote {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Ready>) -> Self {
        let _ = stream;
        // Replaced by `with_token`, which knows the token; without it nobody gets in.
        Self::Unknown
    }
}

/// Reads the token and the certificate, and binds.
pub async fn bind_tcp(tcp: &Tcp) -> anyhow::Result<Door> {
    let text = fs::read_to_string(&tcp.token_file)
        .with_context(|| format!("can't read the token file {}", tcp.token_file.display()))?;
    let token: Arc<str> = text.trim().into();
    if token.len() < 16 {
        bail!("the token in {} is too short: at least 16 characters are needed", tcp.token_file.display());
    }
    let tls = match (&tcp.tls_cert, &tcp.tls_key) {
        (Some(cert), Some(key)) => Some(tls(cert, key)?),
        (None, None) if tcp.listen.ip().is_loopback() => None,
        (None, None) => bail!(
            "{} can be reached from other machines, where the token would travel in the open: give --tls-cert and --tls-key, or listen on 127.0.0.1",
            tcp.listen
        ),
        _ => bail!("--tls-cert and --tls-key go together"),
    };
    let listener = TcpListener::bind(tcp.listen).await.with_context(|| format!("can't listen on {}", tcp.listen))?;
    Ok(Door { listener, token, tls })
}

fn tls(cert: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("can't read the certificate {}", cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("can't read the key {}", key.display()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate and the key don't fit")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Door {
    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Serves until the daemon ends.
pub async fn tcp(node: Arc<Node>, door: Door) -> io::Result<()> {
    let address = door.address()?;
    let (sender, streams) = mpsc::channel(WAITING);
    let Door { listener, token, tls } = door;
    let acceptor = tokio::spawn(async move {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("can't accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (sender, tls) = (sender.clone(), tls.clone());
            // Each shakes hands by itself: one that is slow holds up nobody.
            tokio::spawn(async move {
                let stream = match tls {
                    None => Stream::Plain(stream),
                    Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                        Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                        Ok(Err(error)) => return tracing::debug!("{from}: {error}"),
                        Err(_) => return,
                    },
                };
                let _ = sender.send((stream, from)).await;
            });
        }
    });
    let ready = Ready { streams, address, token };
    let remote = Remote::Tcp { token: Arc::clone(&ready.token) };
    let service: IntoMakeServiceWithConnectInfo<Router, Remote> = http::router(Arc::clone(&node))
        .layer(axum::middleware::map_request(move |mut request: axum::extract::Request| {
            let remote = remote.clone();
            async move {
                request.extensions_mut().insert(axum::extract::connect_info::ConnectInfo(remote));
                request
            }
        }))
        .into_make_service_with_connect_info::<Remote>();
    let served = axum::serve(ready, service).with_graceful_shutdown(async move { node.stopped().await }).await;
    acceptor.abort();
    served
}
