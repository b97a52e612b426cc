//! A connection to the store, however it is reached. It is shared: what is asked at once goes out together, and its
//! clones are the same connection. One that broke stays broken; whoever uses it connects again.

use super::Keys;
use super::url::{Place, StoreUrl};
use redis::ConnectionAddr;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, FromRedisValue, Pipeline, RedisError, RedisFuture, RedisResult,
    TlsCertificates, TlsMode, Value,
};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long is waited for the store.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection, with the login.
    pub connect: Duration,
    /// For an answer. Longer than any `BLOCK` of a question.
    pub answer: Duration,
}

/// A connection to the store.
#[derive(Clone)]
pub enum Link {
    /// To one server.
    One(MultiplexedConnection),
    /// To a cluster.
    Cluster(ClusterConnection),
}

/// Reads the certificate (PEM) of the authority that signed the store's.
///
/// # Errors
/// The file, and why it cannot be read.
pub fn authority(file: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))
}

/// An error of the store in words, with what to change where that is plain.
pub(super) fn in_words(error: &RedisError) -> String {
    use redis::{ErrorKind, ServerErrorKind as Server};
    match error.kind() {
        ErrorKind::Server(Server::Moved | Server::Ask | Server::CrossSlot | Server::ClusterDown) => {
            format!("{error} (it is a node of a cluster: a URL that begins with redis+cluster:// finds the right one)")
        }
        _ => error.to_string(),
    }
}

/// Connects to the store. `ca` is the certificate (PEM) of the authority that signed the server's, in place of the
/// system's.
///
/// # Errors
/// What the driver says: no such host, refused, no TLS, wrong password, too late.
pub async fn connect(url: &StoreUrl, ca: Option<&[u8]>, patience: Patience) -> RedisResult<Link> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience.connect))
        .set_response_timeout(Some(patience.answer));
    match &url.place {
        Place::One(info) => {
            let client = client(info.clone(), ca)?;
            client.get_multiplexed_async_connection_with_config(&config).await.map(Link::One)
        }
        Place::Sentinel { sentinels, master, server } => {
            let mut client = sentinel_client(sentinels, master, server, ca)?;
            let connecting = client.get_async_connection_with_config(&config);
            // the driver's time is for each sentinel that it asks
            match tokio::time::timeout(patience.connect * 4, connecting).await {
                Ok(connection) => connection.map(Link::One),
                Err(_) => Err((redis::ErrorKind::Io, "no sentinel named a master in time").into()),
            }
        }
        Place::Cluster(nodes) => {
            let builder = ClusterClientBuilder::new(nodes.clone())
                .connection_timeout(patience.connect)
                .response_timeout(patience.answer);
            let builder = match certificates(ca) {
                Some(certificates) => builder.certs(certificates),
                None => builder,
            };
            builder.build()?.get_async_connection().await.map(Link::Cluster)
        }
    }
}

impl Link {
    /// Asks what names no key (`SCAN`, `TIME`): in a cluster, of the server that holds the fleet's.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn ask_holder<T: FromRedisValue>(&mut self, keys: &Keys, command: &Cmd) -> RedisResult<T> {
        let Self::Cluster(cluster) = self else { return command.query_async(self).await };
        let slot = redis::cmd("CLUSTER").arg("KEYSLOT").arg(keys.prefix()).query_async(cluster).await?;
        let holder = SingleNodeRoutingInfo::SpecificNode(Route::new(slot, SlotAddr::Master));
        let value = cluster.route_command(command.clone(), RoutingInfo::SingleNode(holder)).await?;
        Ok(T::from_redis_value(value)?)
    }
}

fn client(info: ConnectionInfo, ca: Option<&[u8]>) -> RedisResult<Client> {
    match certificates(ca).filter(|_| is_tls(&info)) {
        Some(certificates) => Client::build_with_tls(info, certificates),
        None => Client::open(info),
    }
}

fn sentinel_client(
    sentinels: &[ConnectionInfo],
    master: &str,
    server: &ConnectionInfo,
    ca: Option<&[u8]>,
) -> RedisResult<SentinelClient> {
    let addresses = sentinels.iter().map(|sentinel| sentinel.addr().clone());
    let settings = server.redis_settings();
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
        .set_client_to_redis_db(settings.db());
    if let Some(user) = settings.username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = settings.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if is_tls(server) {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        if let Some(certificates) = certificates(ca) {
            builder = builder.set_client_to_redis_certificates(certificates);
        }
    }
    builder.build()
}

fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

fn certificates(ca: Option<&[u8]>) -> Option<TlsCertificates> {
    ca.map(|ca| TlsCertificates { client_tls: None, root_cert: Some(ca.to_vec()) })
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
