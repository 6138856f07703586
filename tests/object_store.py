"""An S3 server on this machine (moto's), with buckets and keys: what LanceDB and pyarrow reach over real HTTP."""

from __future__ import annotations

import json
import logging
import urllib.request

import boto3
from moto.server import ThreadedMotoServer

OWNER = {
    "AWS_ACCESS_KEY_ID": "owner",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",  # else a client without keys asks the network for some
}


class ObjectStore:
    """A server with one bucket; what lies there stays while it is stopped."""

    def __init__(self) -> None:
        self.start(0)
        self.bucket("shop")

    @property
    def environment(self) -> dict[str, str]:
        """What a user exports."""
        return {**OWNER, "AWS_ENDPOINT_URL": self.url}

    def start(self, port: int | None = None) -> None:
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # a line for each request
        self._server = ThreadedMotoServer("127.0.0.1", self._port if port is None else port, verbose=False)
        self._server.start()
        host, self._port = self._server.get_host_and_port()
        self.url = f"http://{host}:{self._port}"

    def stop(self) -> None:
        self._server.stop()

    def close(self) -> None:
        self._ask("reset")
        self.stop()

    def bucket(self, name: str) -> None:
        self._client("s3").create_bucket(Bucket=name)

    def names(self, prefix: str) -> list[str]:
        """What lies under a prefix."""
        found = self._client("s3").list_objects_v2(Bucket="shop", Prefix=prefix)
        return [entry["Key"].removeprefix(prefix) for entry in found.get("Contents", [])]

    def key(self, user: str, *actions: str) -> dict[str, str]:
        """Variables of the environment of somebody who may do these."""
        iam = self._client("iam")
        iam.create_user(UserName=user)
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=user, PolicyName="may", PolicyDocument=policy)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def guard(self, guarded: bool) -> None:
        """Whether keys, signatures and rights are checked."""
        self._ask("reset-auth", b"0" if guarded else b"inf")

    def _client(self, service: str):
        keys = {"aws_access_key_id": OWNER["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": "secret"}
        return boto3.client(service, endpoint_url=self.url, region_name="us-east-1", **keys)

    def _ask(self, what: str, data: bytes = b"") -> None:
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/{what}", data, headers)).close()
