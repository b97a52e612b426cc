//! A connection to the store, however it is reached. It is shared: what is asked at once goes out together, and its
//! clones are the same connection. One that broke stays broken; whoever uses it connects again.

use super::url::{Place, StoreUrl};
use redis::ConnectionAddr;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, Pipeline, RedisFuture, RedisResult, TlsCertificates, TlsMode,
    Value,
};
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
            let node = SentinelNodeConnectionInfo::default().set_redis_connection_info(server.redis_settings().clone());
            let node = if is_tls(server) { node.set_tls_mode(TlsMode::Secure) } else { node };
            let kind = SentinelServerType::Master;
            let mut client = SentinelClient::build(sentinels.clone(), master.clone(), Some(node), kind)?;
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

fn client(info: ConnectionInfo, ca: Option<&[u8]>) -> RedisResult<Client> {
    match certificates(ca).filter(|_| is_tls(&info)) {
        Some(certificates) => Client::build_with_tls(info, certificates),
        None => Client::open(info),
    }
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
