#!/usr/bin/env python3
"""Sends mail through the relay of demo/run, and copies its logs once all that comes of the mail is in them.

usage: demo/run BINARY benches/trace/send.py MESSAGES INTO
"""
import os
import shutil
import smtplib
import sys
import time
from pathlib import Path

# Of ten messages: how many recipients, and what SES makes of them (demo/ses-stand-in).
KINDS = [["user"], ["user"], ["user"], ["user"], ["user"], ["user"], ["slow"], ["full"], ["ooto"], ["user"] * 3]


def main():
    messages, into = int(sys.argv[1]), Path(sys.argv[2])
    log = Path(os.environ["GATEPOST_DIR"]) / "log"
    recipients = sum(send(n) for n in range(messages))
    deadline = time.monotonic() + 300
    while not is_all(log, messages, recipients):
        if time.monotonic() > deadline:
            sys.exit("send.py: not all events came")
        time.sleep(0.1)
    for name in ("mail.log", "gatepost.log"):
        shutil.copy(log / name, into / name)


def send(n):
    """A message from one of many clients; how many recipients it has."""
    to = [f"{kind}{n}-{i}@example.net" for i, kind in enumerate(KINDS[n % len(KINDS)])]
    # (Not 127.0.0.1, from where a content filter would send.)
    client = (f"127.0.{1 + n // 200 % 200}.{1 + n % 200}", 0)
    with smtplib.SMTP("127.0.0.1", int(os.environ["GATEPOST_PORT"]), "app.example.net", source_address=client) as smtp:
        head = f"From: info@example.com\r\nTo: {', '.join(to)}\r\nMessage-ID: <{n}.message@app.example.net>\r\n"
        smtp.sendmail("info@example.com", to, f"{head}Subject: message {n}\r\n\r\nBody of message {n}.\r\n")
    return len(to)


def is_all(log, messages, recipients):
    """A mailbox that is full ends with the bounce, everything else with a delivery."""
    events = (log / "gatepost.log").read_text(errors="replace")
    mail = (log / "mail.log").read_text(errors="replace")
    ended = events.count("status=delivered") + events.count("bounce_subtype=MailboxFull")
    return ended >= recipients and mail.count(": removed") >= messages


if __name__ == "__main__":
    main()
