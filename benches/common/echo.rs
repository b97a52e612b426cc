//! The floor that gatepost is measured against: a tokio server that reads up to an empty line,
//! answers DUNNO, and decides nothing.

use super::Result;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// The first argument of a process in this role.
pub const ROLE: &str = "--role=echo";

/// The one answer.
pub const DUNNO: &[u8] = b"action=DUNNO\n\n";

/// `--role=echo SOCKET`: serves until it is killed. As many workers as gatepost: one a core.
pub fn run(args: &[String]) -> Result<()> {
    let [socket] = args else { return Err("usage: --role=echo SOCKET".into()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(socket)?;
        // Postfix asks as another user.
        set_permissions(socket, Permissions::from_mode(0o666))?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve(stream));
        }
    })
}

async fn serve(mut stream: UnixStream) {
    let mut buffer = Vec::with_capacity(4096);
    while let Ok(1..) = stream.read_buf(&mut buffer).await {
        while let Some(end) = memchr::memmem::find(&buffer, b"\n\n") {
            buffer.drain(..end + 2);
            if stream.write_all(DUNNO).await.is_err() {
                return;
            }
        }
    }
}
