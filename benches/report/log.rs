//! A plain log of Postfix's of any size: lines as 3.7 writes them on a relay to SES, of messages that are all different.

use crate::common::Result;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// How many messages a second: what makes a gibibyte some hours of a busy relay's day.
const PER_SECOND: u64 = 40;

/// Writes about so many bytes; how many lines that are.
pub fn write(path: &Path, bytes: u64) -> Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let (mut written, mut lines) = (0, 0);
    let mut text = String::new();
    for n in 0.. {
        text.clear();
        message(&mut text, n)?;
        out.write_all(text.as_bytes())?;
        written += text.len() as u64;
        lines += text.matches('\n').count() as u64;
        if written >= bytes {
            break;
        }
    }
    out.flush()?;
    Ok(lines)
}

/// Half a million recipients, of domains of which few have most.
fn recipient(n: u64) -> String {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    format!("user{}@d{}.example.net", mixed % 500_000, 5_000 / (1 + mixed % 5_000))
}

fn message(out: &mut String, n: u64) -> Result<()> {
    let second = n / PER_SECOND;
    let (hour, minute, second) = (second / 3_600 % 24, second / 60 % 60, second % 60);
    let (pid, id, to) = (1_000 + n % 90, format!("{:X}", 0x80_0000_0000 + n * 7_919), recipient(n));
    let mut line = |program: &str, text: &str| {
        writeln!(out, "Nov 10 {hour:02}:{minute:02}:{second:02} relay postfix/{program}[{pid}]: {text}")
    };
    let client = format!("app{}.internal[10.0.{}.{}]", n % 40, n % 7, n % 200);
    line("smtpd", &format!("connect from {client}"))?;
    if n.is_multiple_of(20) {
        let text = format!(
            "554 5.7.1 <{to}>: Recipient address rejected: no; from=<app@example.com> to=<{to}> proto=ESMTP helo=<app>"
        );
        line("smtpd", &format!("NOQUEUE: reject: RCPT from {client}: {text}"))?;
    }
    line("smtpd", &format!("{id}: client={client}"))?;
    line("cleanup", &format!("{id}: message-id=<{n}.4711@app.example.com>"))?;
    let queued = format!("{id}: from=<app{}@example.com>, size={}, nrcpt=1 (queue active)", n % 300, 500 + n % 80_000);
    line("qmgr", &queued)?;
    line("smtpd", &format!("disconnect from {client} ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5"))?;
    let relay = "relay=email-smtp.eu-west-1.amazonaws.com[52.1.2.3]:587";
    if n.is_multiple_of(30) {
        let said = "host email-smtp.eu-west-1.amazonaws.com[52.1.2.3] said: 454 Throttling failure: Maximum sending rate \
                    exceeded. (in reply to end of DATA command)";
        line(
            "smtp",
            &format!(
                "{id}: to=<{to}>, {relay}, delay=0.3, delays=0.06/0.01/0.1/0.13, dsn=4.0.0, status=deferred ({said})"
            ),
        )?;
        line("qmgr", &queued)?;
    }
    if n.is_multiple_of(100) {
        let said = "bounced (Host or domain name not found. Name service error for name=nowhere.example type=MX)";
        line(
            "smtp",
            &format!("{id}: to=<{to}>, relay=none, delay=0.1, delays=0.06/0.01/0.03/0, dsn=5.4.4, status={said}"),
        )?;
    } else {
        let said = format!("sent (250 Ok 0102019a{n:08x}-1b2c3d4e-0000-1111-2222-{n:012x}-000000)");
        line(
            "smtp",
            &format!("{id}: to=<{to}>, {relay}, delay=0.35, delays=0.06/0.01/0.1/0.18, dsn=2.0.0, status={said}"),
        )?;
    }
    line("qmgr", &format!("{id}: removed"))?;
    Ok(())
}
