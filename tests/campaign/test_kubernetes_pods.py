"""Kubernetes: the pods that blocks become. A small server stands in for the API; no cluster runs here."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from campaign.errors import SiteError
from campaign.parallel.kubernetes_pods import KubernetesQueue
from campaign.parallel.providers import QueueBlocks, Systems, provider_of
from campaign.parallel.queues import QueueSilentError, SubmissionError
from campaign.site import Site, size_pools

SITE = Site.model_validate(
    {
        "provider": "kubernetes",
        "kubernetes": {"image": "registry.example/campaign:1", "namespace": "crystals",
                       "volumes": {"campaign-data": "/data"}, "secret": "pull", "service_account": "runner"},
        "pools": {"gpu": {"gpus_per_node": 2, "accelerators": "auto", "memory_gb_per_node": 32,
                          "cores_per_worker": 4, "walltime": "6 h"}},
    }
)  # fmt: skip


class _Api(BaseHTTPRequestHandler):
    """Keeps pods in memory, as far as these tests ask for them."""

    pods: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[str]] = []
    hang: ClassVar[threading.Event | None] = None
    """Answers wait for it."""

    def parse_request(self) -> bool:
        hang = type(self).hang
        return super().parse_request() and (hang is None or hang.wait(60))

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        type(self).asked.append(f"{self.command} {self.path}")
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self) -> None:
        pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "forbidden" in pod["metadata"]["name"]:
            self._answer(
                403, {"kind": "Status", "status": "Failure", "message": 'pods "x" is forbidden: quota'}
            )
            return
        pod["status"] = {"phase": "Pending", "containerStatuses": None}
        self.pods[pod["metadata"]["name"]] = pod
        self._answer(201, pod)

    def do_GET(self) -> None:
        self._answer(200, {"kind": "PodList", "items": list(self.pods.values())})

    def do_DELETE(self) -> None:
        name = self.path.split("/")[-1].partition("?")[0]
        found = self.pods.pop(name, None)
        self._answer(200 if found else 404, found or {"kind": "Status", "message": "not found"})

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Api]]:
    """An API server on loopback that the driver's configuration names."""
    pytest.importorskip("kubernetes", reason="the optional package kubernetes is not installed")
    _Api.pods.clear()
    _Api.asked.clear()
    _Api.hang = None
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}, "name": "c"}
    context = {"context": {"cluster": "c", "user": "u"}, "name": "x"}
    user = {"name": "u", "user": {}}
    document = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context], "users": [user],
                "current-context": "x"}  # fmt: skip
    (tmp_path / "config").write_text(yaml.safe_dump(document), encoding="utf-8")
    # Read once, when the package is imported.
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config")
    )
    yield _Api
    if _Api.hang is not None:
        _Api.hang.set()
    server.shutdown()
    server.server_close()


def _queue() -> KubernetesQueue:
    assert SITE.kubernetes is not None
    return KubernetesQueue(SITE.kubernetes)


def test_a_block_is_a_pod_with_what_the_site_says(api: type[_Api], tmp_path: Path) -> None:
    size = size_pools(SITE, 2, ())["gpu"]
    provider = provider_of("gpu", Systems(SITE), size, identity="abc", marker="1-2.5-0")
    provider.script_dir = str(tmp_path)
    job_id = provider.submit("exec manager", 1)
    pod = api.pods[job_id]
    assert api.asked[0].startswith("POST /api/v1/namespaces/crystals/pods")
    assert pod["metadata"]["labels"] == {"app": "crystal-campaign", "campaign-job": "cg-abc-gpu-1-2.5-0"}
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "registry.example/campaign:1"
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "32G", "nvidia.com/gpu": "2"}
    assert container["volumeMounts"] == [{"name": "volume-0", "mountPath": "/data"}]
    assert pod["spec"]["activeDeadlineSeconds"] == 6 * 3600
    assert (pod["spec"]["restartPolicy"], pod["spec"]["serviceAccountName"]) == ("Never", "runner")
    script = container["command"][-1]
    assert script.rstrip().endswith("exec manager")
    assert "export CAMPAIGN_BLOCK_ENDS=" in script


def test_pods_are_listed_as_jobs_and_deleted(api: type[_Api], tmp_path: Path) -> None:
    queue = _queue()
    script = tmp_path / "script"
    script.write_text("exit 0", encoding="utf-8")
    queue.header("cg-abc-gpu-1", SITE.pools.gpu, size_pools(SITE, 2, ())["gpu"], script)
    job_id = queue.submit(script, "cg-abc-gpu-1")
    assert (queue.jobs()[job_id].state, queue.jobs()[job_id].name) == ("queued", "cg-abc-gpu-1")
    api.pods[job_id]["status"] = {
        "phase": "Failed",
        "reason": "DeadlineExceeded",
        "startTime": "2026-11-22T00:00:00Z",
    }
    job = queue.jobs()[job_id]
    assert (job.state, job.message) == ("ended", "DeadlineExceeded")
    assert job.started
    queue.cancel([job_id])
    queue.cancel([job_id])  # gone already: no error
    assert queue.jobs() == {}


def pods_of(api: type[_Api], tmp_path: Path, *names: str) -> tuple[KubernetesQueue, list[str]]:
    """Return a queue that works for the campaign `abc`, and pods with these names."""
    queue, size, script = _queue(), size_pools(SITE, 2, ())["gpu"], tmp_path / "script"
    script.write_text("exit 0", encoding="utf-8")
    for name in names:
        queue.header(name, SITE.pools.gpu, size, script)
    ids = [queue.submit(script, name) for name in names]
    queue = _queue()
    queue.header("cg-abc-gpu-9", SITE.pools.gpu, size, script)
    return queue, ids


def test_ended_pods_of_the_campaign_are_deleted_after_a_while(
    api: type[_Api], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of its dead drivers; none that works, and none of another campaign."""
    queue, ids = pods_of(api, tmp_path, "cg-abc-gpu-1", "cg-abc-gpu-9", "cg-abc-dft-9", "cg-other-gpu-1")
    ended, ended_too, works, foreign = ids
    for name in (ended, ended_too, foreign):
        api.pods[name]["status"] = {"phase": "Succeeded"}
    assert queue.jobs().keys() == set(ids)
    assert queue.jobs()[ended].state == "ended", "still there, for whoever keeps the record"
    monkeypatch.setattr("campaign.parallel.kubernetes_pods._KEPT_S", 0.0)
    queue.jobs()
    assert api.pods.keys() == {works, foreign}
    assert queue.jobs().keys() == {works, foreign}


def test_pools_that_end_leave_no_pod(api: type[_Api], tmp_path: Path) -> None:
    size = size_pools(SITE, 2, ())["gpu"]
    provider = provider_of("gpu", Systems(SITE), size, identity="abc", marker="1-2.5-0")
    provider.script_dir = str(tmp_path)
    ended, _ = (provider.submit("exec manager", 1) for _ in range(2))
    api.pods[ended]["status"] = {"phase": "Failed"}
    assert isinstance(provider, QueueBlocks)
    provider.cancel_all()
    assert api.pods == {}


def test_a_server_that_never_answers_is_silent_and_not_waited_for(
    api: type[_Api], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, [job_id] = pods_of(api, tmp_path, "cg-abc-gpu-9")
    monkeypatch.setattr("campaign.parallel.kubernetes_pods._ANSWER_S", (5.0, 0.3))
    api.hang = threading.Event()
    began = time.monotonic()
    with pytest.raises(QueueSilentError, match="timed out"):
        queue.jobs()
    with pytest.raises(QueueSilentError, match="timed out"):
        queue.cancel([job_id])
    with pytest.raises(SubmissionError, match="timed out") as caught:
        queue.submit(tmp_path / "script", "cg-abc-gpu-9")
    assert caught.value.passing
    assert time.monotonic() - began < 10


def test_a_refusal_is_told_in_the_clusters_own_words(api: type[_Api], tmp_path: Path) -> None:
    queue = _queue()
    script = tmp_path / "script"
    script.write_text("exit 0", encoding="utf-8")
    queue.header("cg-forbidden-gpu-1", SITE.pools.gpu, size_pools(SITE, 2, ())["gpu"], script)
    with pytest.raises(SubmissionError, match="is forbidden: quota") as caught:
        queue.submit(script, "cg-forbidden-gpu-1")
    assert not caught.value.passing


def test_without_the_package_its_installation_is_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "kubernetes.client", None)
    with pytest.raises(SiteError, match="pip install kubernetes"):
        _queue()
