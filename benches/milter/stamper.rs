//! The floor of a stamping milter: negotiates away every event but the end of the message, and inserts three headers
//! there, whatever the message holds.

use crate::common::Result;
use crate::common::process::Process;
use indymilter::{
    Actions, Callbacks, Config, ContextActions, EomContext, MacroStage, NegotiateContext, ProtoOpts, Status,
};
use std::ffi::CString;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::net::UnixListener;

/// The first argument of a process in this role.
pub const ROLE: &str = "--role=stamp";

/// More than Postfix has processes.
const MAX_CONNECTIONS: usize = 1_000;

/// How long one may take to start.
const START: Duration = Duration::from_secs(20);

/// Starts one on a socket, and waits until it listens.
pub fn start(socket: &Path) -> Result<Process> {
    let mut process = Process::start(Command::new(std::env::current_exe()?).arg(ROLE).arg(socket))?;
    let began = Instant::now();
    while UnixStream::connect(socket).is_err() {
        if process.ended()?.is_some() || began.elapsed() > START {
            return Err("the stamping milter does not start".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(process)
}

/// `--role=stamp SOCKET`: serves until it is killed.
pub fn run(args: &[String]) -> Result<()> {
    let [socket] = args else { return Err("usage: --role=stamp SOCKET".into()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(socket)?;
        set_permissions(socket, Permissions::from_mode(0o666))?;
        let callbacks = Callbacks::new()
            .on_negotiate(|cx, _, _| {
                negotiate(cx);
                Box::pin(std::future::ready(Status::Continue))
            })
            .on_eom(|cx| Box::pin(stamp(cx)));
        let config = Config { max_connections: MAX_CONNECTIONS, ..Config::default() };
        Ok(indymilter::run(listener, callbacks, config, std::future::pending::<()>()).await?)
    })
}

fn negotiate(cx: &mut NegotiateContext<()>) {
    cx.requested_actions = Actions::ADD_HEADER;
    cx.requested_opts = ProtoOpts::NO_CONNECT
        | ProtoOpts::NO_HELO
        | ProtoOpts::NO_MAIL
        | ProtoOpts::NO_RCPT
        | ProtoOpts::NO_DATA
        | ProtoOpts::NO_HEADER
        | ProtoOpts::NO_EOH
        | ProtoOpts::NO_BODY
        | ProtoOpts::NO_UNKNOWN;
    for stage in [MacroStage::Connect, MacroStage::Helo, MacroStage::Mail, MacroStage::Rcpt, MacroStage::Data] {
        cx.requested_macros.insert(stage, CString::default());
    }
    cx.requested_macros.insert(MacroStage::Eoh, CString::default());
    cx.requested_macros.insert(MacroStage::Eom, c"i".to_owned());
}

async fn stamp(cx: &mut EomContext<()>) -> Status {
    let queue_id = cx.macros.get(c"i").map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
    let correlation_id = uuid::Uuid::now_v7().to_string();
    let tags = format!("queue_id={queue_id}, correlation_id={correlation_id}");
    let headers = [
        ("X-SES-CONFIGURATION-SET", "relay-events"),
        ("X-SES-MESSAGE-TAGS", tags.as_str()),
        ("X-Correlation-ID", correlation_id.as_str()),
    ];
    for (name, value) in headers {
        if cx.actions.insert_header(1, name, value).await.is_err() {
            return Status::Tempfail;
        }
    }
    Status::Continue
}
