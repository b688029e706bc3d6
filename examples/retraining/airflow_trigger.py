"""Starts a DAG of Airflow 3 for a request that dsops gives on standard input. Standard library only.

In controller.toml:

    [retraining.command.airflow]
    arguments = ["python3", "/opt/dsops/airflow_trigger.py", "https://airflow.example", "retrain", "af.token"]

The request is the run's ``conf``, and its id the run's, so that the same request starts one run, however often it is
handed over (Airflow answers 409 then). Airflow 2 has the same call under ``/api/v1`` and without ``logical_date``.
"""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

CONFLICT = 409


def main() -> int:
    """Start the run; return 0 when it is there."""
    address, dag, token_file = sys.argv[1:4]
    event = json.load(sys.stdin)
    body = {"dag_run_id": f"dsops-{event['id']}", "logical_date": None, "conf": {"id": event["id"], **event["data"]}}
    request = urllib.request.Request(  # noqa: S310 - the address is the caller's
        f"{address}/api/v2/dags/{dag}/dagRuns",
        data=json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Bearer {Path(token_file).read_text().strip()}",
        },
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310
            return 0
    except urllib.error.HTTPError as error:
        if error.code == CONFLICT:
            return 0
        print(error, file=sys.stderr)
    except urllib.error.URLError as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
