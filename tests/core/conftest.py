"""Stores of every kind that the core runs on."""

import uuid
from collections import Counter
from collections.abc import Iterator

import pytest

from stages.core.ledger.catalog import Catalog
from stages.core.ledger.storage import Storage
from tests import toys


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """moto's S3 on a free loopback port."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def local(tmp_path) -> Catalog:
    return Catalog(Storage(str(tmp_path / "store")))


@pytest.fixture(params=["local", "memory", "s3"])
def catalog(request, tmp_path) -> Catalog:
    """An empty catalog: on local disk, in memory, on S3."""
    name = uuid.uuid4().hex
    if request.param == "local":
        return Catalog(Storage(str(tmp_path / "store")))
    if request.param == "memory":
        return Catalog(Storage(f"memory://{name}/store"))
    return Catalog(s3_storage(request.getfixturevalue("s3_endpoint"), name))


def s3_storage(endpoint: str, bucket: str) -> Storage:
    client = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    storage = Storage(f"s3://{bucket}/store", {"key": "test", "secret": "test", "client_kwargs": client})
    storage.fs.fs.call_s3("create_bucket", Bucket=bucket)
    return storage


@pytest.fixture(autouse=True)
def _no_trouble() -> Iterator[None]:
    toys.TROUBLE.clear()
    toys.CALLS = Counter()
    yield
    toys.TROUBLE.clear()
