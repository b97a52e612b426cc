//! The other end of the admin listener: what the commands ask a running daemon.

use super::listeners::Endpoint;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks at `endpoint`, on a runtime of its own; status and body.
///
/// # Errors
/// Where nobody answers in time.
pub fn ask_once(endpoint: &Endpoint, method: Method, path: &str) -> io::Result<(StatusCode, Bytes)> {
    let exchange = async {
        match endpoint {
            Endpoint::Unix(socket) => exchange(UnixStream::connect(socket).await?, method, path).await,
            Endpoint::Inet(address) => exchange(TcpStream::connect(address).await?, method, path).await,
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await })?
}

async fn exchange<S>(stream: S, method: Method, path: &str) -> io::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driver = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "gatepost").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    drop(sender);
    let _ = driver.await;
    Ok((status, body))
}
