#!/usr/bin/env python3
"""The loop that relays run today, for comparison: boto3, one process, one message deleted at a time.

    baseline.py QUEUE_URL LOG

Receives ten, waits up to 20 s; takes the event out of SNS's envelope; writes a line per recipient; deletes each
message by a call of its own. Runs until it is killed.
"""
import json
import sys
import time

import boto3


def lines(event):
    kind, mail = event["notificationType"], event["mail"]
    if kind == "Delivery":
        delivery = event["delivery"]
        for to in delivery["recipients"]:
            yield (f"{mail['messageId']}: to=<{to}>, relay=amazonses.com, dsn=2.0.0, status=delivered, "
                   f"delay={delivery['processingTimeMillis']}ms, response=({delivery['smtpResponse']})")
    elif kind == "Bounce":
        bounce = event["bounce"]
        for recipient in bounce["bouncedRecipients"]:
            yield (f"{mail['messageId']}: to=<{recipient['emailAddress']}>, relay=amazonses.com, "
                   f"dsn={recipient.get('status', '5.0.0')}, status=bounced, bounce_type={bounce['bounceType']}, "
                   f"reason=({recipient.get('diagnosticCode', '')})")
    elif kind == "Complaint":
        for recipient in event["complaint"]["complainedRecipients"]:
            yield f"{mail['messageId']}: to=<{recipient['emailAddress']}>, relay=amazonses.com, status=complaint"


def main(queue, path):
    sqs = boto3.client("sqs")
    with open(path, "a", buffering=1) as log:
        while True:
            got = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=20)
            for message in got.get("Messages", []):
                event = json.loads(json.loads(message["Body"])["Message"])
                for line in lines(event):
                    log.write(time.strftime("%b %d %H:%M:%S") + " relay postfix/ses-events[1]: " + line + "\n")
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])


if __name__ == "__main__":
    main(*sys.argv[1:])
