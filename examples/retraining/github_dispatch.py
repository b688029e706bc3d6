"""Starts a GitHub Actions workflow for a request that dsops gives on standard input. Standard library only.

In controller.toml:

    [retraining.command.github]
    arguments = ["python3", "/opt/dsops/github_dispatch.py", "OWNER/REPOSITORY", "/etc/dsops/github.token"]

The workflow begins with ``on: repository_dispatch: types: [retrain.requested]`` and finds the request in
``github.event.client_payload.dsops``. The token needs ``contents: write`` of that repository only. GitHub knows no
idempotency key: a workflow that must not run twice names ``concurrency: ${{ github.event.client_payload.dsops.id }}``.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path


def main() -> int:
    """Send the event; return 0 when GitHub took it."""
    repository, token_file = sys.argv[1:3]
    event = json.load(sys.stdin)
    # A payload may have ten keys at most, so that everything stands below one.
    body = {"event_type": event["type"][:100], "client_payload": {"dsops": {"id": event["id"], **event["data"]}}}
    api = os.environ.get("GITHUB_API_URL", "https://api.github.com")
    request = urllib.request.Request(  # noqa: S310 - the address is the caller's
        f"{api}/repos/{repository}/dispatches",
        data=json.dumps(body).encode(),
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {Path(token_file).read_text().strip()}",
            "X-GitHub-Api-Version": "2022-11-28",
        },
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310
            return 0
    except urllib.error.URLError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
